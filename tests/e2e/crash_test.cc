// Kill anything, lose nothing acknowledged (P4, P9), with real processes: the tokens a client gets
// while processes are killed equal the tokens of the undisturbed run, position by position.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/support/cluster.h"

namespace lola::testing {
namespace {

constexpr uint32_t kTokens = 600;

std::string Prompt(int bytes) {
  std::string text;
  for (int i = 0; static_cast<int>(text.size()) < bytes; ++i) {
    text += "line " + std::to_string(i * 7919 % 1000) + " of the stream. ";
  }
  text.resize(static_cast<size_t>(bytes));
  return text;
}

lola::v1::GenerateOp Sampled(uint32_t max_tokens) {
  lola::v1::GenerateOp op;
  op.set_max_tokens(max_tokens);
  op.set_ignore_eos(true);
  op.mutable_sampling()->set_temperature(1.0f);
  op.mutable_sampling()->set_seed(7);
  return op;
}

// The ASCII characters that are most frequent in `text`.
std::string MostFrequent(const std::string& text, size_t count) {
  std::vector<std::pair<int, char>> found;
  for (int c = 3; c < 128; ++c) {
    found.emplace_back(-static_cast<int>(std::count(text.begin(), text.end(), c)), c);
  }
  std::sort(found.begin(), found.end());
  std::string characters;
  for (size_t i = 0; i < count; ++i) characters += found[i].second;
  return characters;
}

std::vector<int32_t> Ids(const StreamClient& client) {
  std::vector<int32_t> ids;
  for (const ReceivedToken& token : client.tokens()) ids.push_back(token.id);
  return ids;
}

class CrashTest : public ::testing::Test {
 protected:
  CrashTest() : cluster_(MakeOptions()) { cluster_.StartAll(); }
  static ClusterOptions MakeOptions() {
    ClusterOptions options;
    options.gateways = 2;
    options.worker_flags = {"--checkpoint-interval", "256"};
    return options;
  }

  // The same prompt and generation on a stream nobody disturbs.
  std::vector<int32_t> Undisturbed(const std::string& prompt, uint32_t tokens) {
    StreamClient client(cluster_.Client("undisturbed"));
    EXPECT_EQ(client.Open(), "") << cluster_.Logs();
    EXPECT_EQ(client.Append(prompt), "") << cluster_.Logs();
    EXPECT_EQ(client.Generate(Sampled(tokens)), "") << cluster_.Logs();
    EXPECT_EQ(client.tokens().size(), tokens);
    return Ids(client);
  }

  Cluster cluster_;
};

TEST_F(CrashTest, WorkerKilledInMidGenerationChangesNoToken) {
  const std::vector<int32_t> expected = Undisturbed(Prompt(900), kTokens);
  StreamClient client(cluster_.Client("victim"));
  ASSERT_EQ(client.Open(), "");
  ASSERT_EQ(client.Append(Prompt(900)), "");
  const int owner = cluster_.OwnerOf("victim");
  ASSERT_GE(owner, 0);
  bool killed = false;
  ASSERT_EQ(client.Generate(Sampled(kTokens),
                            [&](const ReceivedToken&) {
                              if (client.tokens().size() == 150 && !killed) {
                                cluster_.worker(owner).Kill();
                                killed = true;
                              }
                            }),
            "")
      << cluster_.Logs();
  EXPECT_TRUE(killed);
  EXPECT_EQ(Ids(client), expected);
  EXPECT_EQ(client.reattachments(), 0) << "the gateway must keep the client's call open";
  EXPECT_NE(cluster_.OwnerOf("victim"), owner);
}

// The text too: at nearly every token something is held back, because it may begin a stop string or
// is half a character, and neither the new worker nor the new gateway was told what.
TEST_F(CrashTest, TextOverAFailoverIsTheUndisturbedOne) {
  StreamClient plain(cluster_.Client("plain"));
  ASSERT_EQ(plain.Open(), "");
  ASSERT_EQ(plain.Append(Prompt(300)), "");
  ASSERT_EQ(plain.Generate(Sampled(kTokens)), "");
  lola::v1::GenerateOp op = Sampled(kTokens);
  for (const char c : MostFrequent(plain.text(), 16)) op.add_stop(std::string(1, c) + "\x01\x02");
  StreamClient calm(cluster_.Client("calm"));
  ASSERT_EQ(calm.Open(), "");
  ASSERT_EQ(calm.Append(Prompt(300)), "");
  ASSERT_EQ(calm.Generate(op), "");
  ASSERT_EQ(calm.text(), plain.text()) << "the stop strings are not in it";
  StreamClient client(cluster_.Client("victim"));
  ASSERT_EQ(client.Open(), "");
  ASSERT_EQ(client.Append(Prompt(300)), "");
  size_t next_kill = 60;
  int kills = 0;
  ASSERT_EQ(client.Generate(op,
                            [&](const ReceivedToken&) {
                              if (client.tokens().size() < next_kill) return;
                              next_kill += 130;
                              if (++kills % 2 == 1) {
                                const int owner = cluster_.OwnerOf("victim");
                                if (owner >= 0) cluster_.worker(owner).Kill();
                              } else {
                                cluster_.gateway(kills / 2 % 2).Kill();
                              }
                              cluster_.StartAll();
                            }),
            "")
      << cluster_.Logs();
  EXPECT_GE(kills, 4);
  EXPECT_EQ(Ids(client), Ids(plain));
  EXPECT_EQ(client.text(), calm.text());
}

TEST_F(CrashTest, GatewayKilledInMidGenerationIsReattachedElsewhere) {
  const std::vector<int32_t> expected = Undisturbed(Prompt(300), kTokens);
  StreamClient client(cluster_.Client("victim"));
  ASSERT_EQ(client.Open(), "");
  ASSERT_EQ(client.Append(Prompt(300)), "");
  bool killed = false;
  ASSERT_EQ(client.Generate(Sampled(kTokens),
                            [&](const ReceivedToken&) {
                              if (client.tokens().size() == 100 && !killed) {
                                cluster_.gateway(0).Kill();
                                killed = true;
                              }
                            }),
            "")
      << cluster_.Logs();
  EXPECT_EQ(Ids(client), expected);
  EXPECT_GE(client.reattachments(), 1);
}

TEST_F(CrashTest, ShardKilledAndRestartedLosesNothing) {
  const std::vector<int32_t> expected = Undisturbed(Prompt(300), kTokens);
  StreamClient client(cluster_.Client("victim"));
  ASSERT_EQ(client.Open(), "");
  ASSERT_EQ(client.Append(Prompt(300)), "");
  const int shard =
      static_cast<int>(cluster_.Describe("victim").partition()) * cluster_.options().shards / 64;
  bool killed = false;
  ASSERT_EQ(client.Generate(Sampled(kTokens),
                            [&](const ReceivedToken&) {
                              if (client.tokens().size() == 100 && !killed) {
                                cluster_.shard(shard).Kill();
                                cluster_.StartShard(shard);
                                killed = true;
                              }
                            }),
            "")
      << cluster_.Logs();
  EXPECT_EQ(Ids(client), expected);
  EXPECT_EQ(cluster_.Describe("victim").committed_position(), 300 + kTokens);
}

TEST_F(CrashTest, EverythingKilledAtOnceContinuesFromDisk) {
  const std::vector<int32_t> expected = Undisturbed(Prompt(300), kTokens);
  StreamClient client(cluster_.Client("victim"));
  ASSERT_EQ(client.Open(), "");
  ASSERT_EQ(client.Append(Prompt(300)), "");
  ASSERT_EQ(client.Generate(Sampled(kTokens / 2)), "");
  for (int i = 0; i < 2; ++i) {
    cluster_.gateway(i).Kill();
    cluster_.worker(i).Kill();
    cluster_.shard(i).Kill();
  }
  cluster_.StartAll();
  // The rest of the generation: same seed, so the tokens are those of one long run.
  ASSERT_EQ(client.Generate(Sampled(kTokens - kTokens / 2)), "") << cluster_.Logs();
  EXPECT_EQ(Ids(client), expected);
}

// P3: a paused owner that wakes up after a take-over may not change the stream.
TEST_F(CrashTest, PausedOwnerThatWakesIsFenced) {
  const std::vector<int32_t> expected = Undisturbed(Prompt(300), kTokens);
  StreamClient client(cluster_.Client("victim"));
  ASSERT_EQ(client.Open(), "");
  ASSERT_EQ(client.Append(Prompt(300)), "");
  const int owner = cluster_.OwnerOf("victim");
  ASSERT_GE(owner, 0);
  const uint64_t epoch = cluster_.Describe("victim").owner_epoch();
  bool paused = false;
  ASSERT_EQ(client.Generate(Sampled(kTokens),
                            [&](const ReceivedToken&) {
                              if (client.tokens().size() == 100 && !paused) {
                                cluster_.worker(owner).Signal(SIGSTOP);
                                paused = true;
                              }
                            }),
            "")
      << cluster_.Logs();
  cluster_.worker(owner).Signal(SIGCONT);
  ASSERT_EQ(client.Append("after the old owner woke up"), "");
  EXPECT_EQ(Ids(client), expected);
  const lola::v1::StreamInfo info = cluster_.Describe("victim");
  EXPECT_GT(info.owner_epoch(), epoch);
  EXPECT_EQ(info.committed_position(), client.position());
}

}  // namespace
}  // namespace lola::testing
