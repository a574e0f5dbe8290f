// What operators do to streams while they live: migrate, drain, fork, rewind, snapshot, delete.
// Every path must leave the tokens equal to those of a stream nobody touched.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <string>
#include <vector>

#include "lola/v1/cluster.grpc.pb.h"
#include "lola/v1/inference.grpc.pb.h"
#include "tests/support/cluster.h"

namespace lola::testing {
namespace {

lola::v1::GenerateOp Greedy(uint32_t max_tokens) {
  lola::v1::GenerateOp op;
  op.set_max_tokens(max_tokens);
  op.set_ignore_eos(true);
  return op;
}

std::vector<int32_t> Ids(const StreamClient& client) {
  std::vector<int32_t> ids;
  for (const ReceivedToken& token : client.tokens()) ids.push_back(token.id);
  return ids;
}

class LifecycleTest : public ::testing::Test {
 protected:
  LifecycleTest() : cluster_({}) {
    cluster_.StartAll();
    channel_ = grpc::CreateChannel(cluster_.gateway_address(0), grpc::InsecureChannelCredentials());
    inference_ = lola::v1::Inference::NewStub(channel_);
    operations_ = lola::v1::Cluster::NewStub(channel_);
  }

  static void SetDeadline(grpc::ClientContext& context) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  }

  std::vector<int32_t> Undisturbed(const std::string& prompt, uint32_t tokens) {
    StreamClient client(cluster_.Client("undisturbed"));
    EXPECT_EQ(client.Open(), "") << cluster_.Logs();
    EXPECT_EQ(client.Append(prompt), "");
    EXPECT_EQ(client.Generate(Greedy(tokens)), "");
    return Ids(client);
  }

  lola::v1::MigrateReply Migrate(const std::string& stream, const std::string& target) {
    grpc::ClientContext context;
    SetDeadline(context);
    lola::v1::MigrateRequest request;
    request.set_stream_id(stream);
    request.set_target(target);
    lola::v1::MigrateReply reply;
    const grpc::Status status = operations_->Migrate(&context, request, &reply);
    EXPECT_TRUE(status.ok()) << status.error_message() << cluster_.Logs();
    return reply;
  }

  std::string Digest(const std::string& stream) {
    grpc::ClientContext context;
    SetDeadline(context);
    lola::v1::InspectMemoryRequest request;
    request.set_stream_id(stream);
    lola::v1::InspectMemoryReply reply;
    const grpc::Status status = inference_->InspectMemory(&context, request, &reply);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return reply.state_digest();
  }

  Cluster cluster_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<lola::v1::Inference::Stub> inference_;
  std::unique_ptr<lola::v1::Cluster::Stub> operations_;
};

TEST_F(LifecycleTest, MigrationsBetweenTurnsChangeNoTokenAndNoBitOfState) {
  const std::vector<int32_t> expected = Undisturbed("hello there", 300);
  StreamClient client(cluster_.Client("mover"));
  ASSERT_EQ(client.Open(), "");
  ASSERT_EQ(client.Append("hello there"), "");
  for (int turn = 0; turn < 6; ++turn) {
    const int owner = cluster_.OwnerOf("mover");
    ASSERT_GE(owner, 0);
    const std::string target = cluster_.worker_address(1 - owner);
    EXPECT_EQ(Migrate("mover", target).target(), target);
    ASSERT_EQ(client.Generate(Greedy(50)), "") << cluster_.Logs();
    EXPECT_EQ(cluster_.OwnerOf("mover"), 1 - owner);
  }
  EXPECT_EQ(Ids(client), expected);
  EXPECT_EQ(client.reattachments(), 0);
  EXPECT_EQ(Digest("mover"), Digest("undisturbed"));
}

TEST_F(LifecycleTest, MigrationInMidGenerationIsInvisible) {
  const std::vector<int32_t> expected = Undisturbed("once more", 600);
  StreamClient client(cluster_.Client("mover"));
  ASSERT_EQ(client.Open(), "");
  ASSERT_EQ(client.Append("once more"), "");
  bool moved = false;
  ASSERT_EQ(client.Generate(Greedy(600),
                            [&](const ReceivedToken&) {
                              if (client.tokens().size() == 100 && !moved) {
                                Migrate("mover", "");
                                moved = true;
                              }
                            }),
            "")
      << cluster_.Logs();
  EXPECT_EQ(Ids(client), expected);
  EXPECT_EQ(client.reattachments(), 0);
}

TEST_F(LifecycleTest, SigtermDrainsAWorkerWithoutLosingAStream) {
  const std::vector<int32_t> expected = Undisturbed("drain me", 600);
  StreamClient client(cluster_.Client("drained"));
  ASSERT_EQ(client.Open(), "");
  ASSERT_EQ(client.Append("drain me"), "");
  const int owner = cluster_.OwnerOf("drained");
  ASSERT_GE(owner, 0);
  bool sent = false;
  ASSERT_EQ(client.Generate(Greedy(600),
                            [&](const ReceivedToken&) {
                              if (client.tokens().size() == 100 && !sent) {
                                cluster_.worker(owner).Signal(SIGTERM);
                                sent = true;
                              }
                            }),
            "")
      << cluster_.Logs();
  EXPECT_EQ(Ids(client), expected);
  const auto status = cluster_.worker(owner).Wait(std::chrono::seconds(30));
  ASSERT_TRUE(status.has_value()) << "worker did not end after SIGTERM";
  EXPECT_TRUE(WIFEXITED(*status) && WEXITSTATUS(*status) == 0) << cluster_.Logs();
}

TEST_F(LifecycleTest, ForkSharesThePastAndDiverges) {
  StreamClient parent(cluster_.Client("parent"));
  ASSERT_EQ(parent.Open(), "");
  ASSERT_EQ(parent.Append("a common past of both streams. "), "");
  ASSERT_EQ(parent.Generate(Greedy(40)), "");
  grpc::ClientContext context;
  SetDeadline(context);
  lola::v1::ForkRequest request;
  request.set_stream_id("parent");
  request.set_new_stream_id("child");
  lola::v1::StreamInfo info;
  const grpc::Status status = inference_->Fork(&context, request, &info);
  ASSERT_TRUE(status.ok()) << status.error_message() << cluster_.Logs();
  EXPECT_EQ(info.parent(), "parent");
  EXPECT_EQ(info.committed_position(), parent.position());
  StreamClient child(cluster_.Client("child"));
  ASSERT_EQ(child.Open(), "") << cluster_.Logs();
  EXPECT_EQ(child.position(), parent.position());
  EXPECT_EQ(Digest("child"), Digest("parent"));
  ASSERT_EQ(child.Append("A"), "");
  ASSERT_EQ(parent.Append("B"), "");
  EXPECT_NE(Digest("child"), Digest("parent"));
}

TEST_F(LifecycleTest, RewindToANamedSnapshotReplaysExactly) {
  StreamClient client(cluster_.Client("rewound"));
  ASSERT_EQ(client.Open(), "");
  ASSERT_EQ(client.Append("keep this place"), "");
  {
    grpc::ClientContext context;
    SetDeadline(context);
    lola::v1::SnapshotRequest request;
    request.set_stream_id("rewound");
    request.set_name("here");
    lola::v1::SnapshotInfo info;
    const grpc::Status status = inference_->Snapshot(&context, request, &info);
    ASSERT_TRUE(status.ok()) << status.error_message() << cluster_.Logs();
    EXPECT_EQ(info.position(), client.position());
  }
  const uint64_t place = client.position();
  ASSERT_EQ(client.Generate(Greedy(80)), "");
  const std::vector<int32_t> first = Ids(client);
  client.Close();
  grpc::ClientContext context;
  SetDeadline(context);
  lola::v1::RewindRequest request;
  request.set_stream_id("rewound");
  request.set_snapshot_name("here");
  lola::v1::StreamInfo info;
  const grpc::Status status = inference_->Rewind(&context, request, &info);
  ASSERT_TRUE(status.ok()) << status.error_message() << cluster_.Logs();
  EXPECT_EQ(info.committed_position(), place);
  StreamClient again(cluster_.Client("rewound"));
  ASSERT_EQ(again.Open(), "") << cluster_.Logs();
  EXPECT_EQ(again.position(), place);
  ASSERT_EQ(again.Generate(Greedy(80)), "");
  EXPECT_EQ(Ids(again), first);
}

TEST_F(LifecycleTest, DeletedStreamIsGoneAndItsIdIsFree) {
  StreamClient client(cluster_.Client("gone"));
  ASSERT_EQ(client.Open(), "");
  ASSERT_EQ(client.Append("text"), "");
  client.Close();
  grpc::ClientContext context;
  SetDeadline(context);
  lola::v1::DeleteRequest request;
  request.set_stream_id("gone");
  lola::v1::DeleteReply reply;
  ASSERT_TRUE(inference_->Delete(&context, request, &reply).ok());
  EXPECT_EQ(cluster_.Describe("gone").stream_id(), "");
  StreamClient again(cluster_.Client("gone"));
  ASSERT_EQ(again.Open(), "") << cluster_.Logs();
  EXPECT_EQ(again.position(), 0u);
}

}  // namespace
}  // namespace lola::testing
