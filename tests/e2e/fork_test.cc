// A fork to another shard is complete or not there, whoever is killed in its middle (P9): real
// processes, ended by a failpoint as SIGKILL would, or by SIGKILL itself.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "lola/v1/inference.grpc.pb.h"
#include "lola/v1/memory.grpc.pb.h"
#include "memory/cluster/partition_map.h"
#include "tests/support/cluster.h"

namespace lola::testing {
namespace {

constexpr uint64_t kAt = 700;  // where the parent is forked; it goes on to 900 afterwards

class ForkTest : public ::testing::Test {
 protected:
  ForkTest() : cluster_(MakeOptions()) {
    cluster_.StartAll();
    map_.emplace(*memory::PartitionMap::LoadFile(cluster_.folder() + "/map.json"));
    parent_shard_ = ShardOf("parent");
    StreamClient client(cluster_.Client("parent"));
    EXPECT_EQ(client.Open(), "") << cluster_.Logs();
    std::string text;
    while (text.size() < kAt) text += "item " + std::to_string(text.size() * 7919 % 1000) + ", ";
    EXPECT_EQ(client.Append(text.substr(0, kAt)), "");
    // A fork takes the newest snapshot that has arrived.
    EXPECT_TRUE(WaitSnapshot());
    twin_ = FreshId(parent_shard_);
    v1::StreamInfo info;
    EXPECT_TRUE(Fork(twin_, "twin", std::nullopt, &info).ok());
    EXPECT_EQ(client.Append(std::string(200, 'x')), "");
    before_ = Shard(1 - parent_shard_);
  }
  static ClusterOptions MakeOptions() {
    ClusterOptions options;
    options.shards = 2;
    options.workers = 1;
    options.worker_flags = {"--checkpoint-interval", "256"};
    return options;
  }

  bool WaitSnapshot() {
    for (int i = 0; i < 300; ++i) {
      const v1::StreamInfo parent = cluster_.Describe("parent");
      for (const v1::SnapshotInfo& one : parent.snapshots()) {
        if (one.position() <= kAt) return true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return false;
  }
  int ShardOf(const std::string& id) const {
    return map_->ShardOf(id).shard_id == "shard-0" ? 0 : 1;
  }
  // An id that was not used, in a partition of this shard.
  std::string FreshId(int shard) {
    std::string id;
    do {
      id = "child-" + std::to_string(next_++);
    } while (ShardOf(id) != shard);
    return id;
  }
  grpc::Status Fork(const std::string& child, const std::string& request_id,
                    std::optional<uint64_t> at, v1::StreamInfo* info) {
    auto stub = v1::Inference::NewStub(
        grpc::CreateChannel(cluster_.gateway_address(0), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    context.set_wait_for_ready(true);
    v1::ForkRequest request;
    request.set_stream_id("parent");
    request.set_new_stream_id(child);
    request.set_request_id(request_id);
    if (at.has_value()) request.set_at_position(*at);
    return stub->Fork(&context, request, info);
  }
  v1::ShardInfo Shard(int shard) {
    auto stub = v1::Memory::NewStub(
        grpc::CreateChannel(cluster_.shard_address(shard), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    context.set_wait_for_ready(true);
    v1::ShardInfo info;
    EXPECT_TRUE(stub->DescribeShard(&context, {}, &info).ok());
    return info;
  }
  // What a stream writes next; a pure function of its past (P2).
  std::vector<int32_t> Next(const std::string& id) {
    StreamClient client(cluster_.Client(id));
    EXPECT_EQ(client.Open(), "") << id << cluster_.Logs();
    v1::GenerateOp op;
    op.set_max_tokens(40);
    op.set_ignore_eos(true);
    op.mutable_sampling()->set_temperature(1.0f);
    op.mutable_sampling()->set_seed(3);
    EXPECT_EQ(client.Generate(op), "") << id;
    std::vector<int32_t> ids;
    for (const ReceivedToken& token : client.tokens()) ids.push_back(token.id);
    return ids;
  }
  void ExpectComplete(const std::string& child) {
    const v1::StreamInfo info = cluster_.Describe(child);
    EXPECT_EQ(info.parent(), "parent");
    EXPECT_EQ(info.forked_at(), kAt);
    EXPECT_EQ(info.committed_position(), kAt);
    EXPECT_EQ(info.owner(), "");
    ASSERT_EQ(info.snapshots_size(), 1) << "the newest at or before the position";
    EXPECT_LE(info.snapshots(0).position(), kAt);
    if (expected_.empty()) expected_ = Next(twin_);
    EXPECT_EQ(Next(child), expected_);
  }

  Cluster cluster_;
  std::optional<memory::PartitionMap> map_;
  int parent_shard_ = 0;
  int next_ = 0;
  std::string twin_;  // a fork within the parent's shard, at the same position
  std::vector<int32_t> expected_;
  v1::ShardInfo before_;  // of the shard the children go to
};

TEST_F(ForkTest, GatewayKilledAnywhereInTheCopyAndTheForkAskedForAgain) {
  for (const char* place : {"created", "tokens", "snapshot", "finished"}) {
    SCOPED_TRACE(place);
    const std::string child = FreshId(1 - parent_shard_);
    const std::string kill = std::string("gateway.copy.") + place + "=kill";
    cluster_.gateway(0).Kill();
    cluster_.StartGateway(0, {{"LOLA_FAILPOINTS", kill}});
    v1::StreamInfo info;
    EXPECT_FALSE(Fork(child, "fork-1", kAt, &info).ok());
    EXPECT_TRUE(cluster_.gateway(0).Wait(std::chrono::seconds(5)).has_value()) << "not killed";
    cluster_.StartAll();
    const grpc::Status again = Fork(child, "fork-1", kAt, &info);
    ASSERT_TRUE(again.ok()) << again.error_message() << cluster_.Logs();
    EXPECT_EQ(info.forked_at(), kAt);
    ExpectComplete(child);
    EXPECT_EQ(Fork(child, "fork-2", kAt, &info).error_code(), grpc::StatusCode::ALREADY_EXISTS);
  }
}

TEST_F(ForkTest, LeftoversOfAKilledGatewayAreCollected) {
  const int target = 1 - parent_shard_;
  const std::string child = FreshId(target);
  cluster_.gateway(0).Kill();
  cluster_.StartGateway(0, {{"LOLA_FAILPOINTS", "gateway.copy.snapshot=kill"}});
  v1::StreamInfo info;
  EXPECT_FALSE(Fork(child, "fork-1", kAt, &info).ok());
  v1::ShardInfo now = Shard(target);
  EXPECT_EQ(now.streams(), before_.streams() + 1);
  EXPECT_EQ(now.log_tokens(), before_.log_tokens() + kAt);
  EXPECT_GT(now.blob_bytes(), before_.blob_bytes());
  cluster_.StartAll();
  EXPECT_EQ(cluster_.Describe(child).stream_id(), "") << "half a child is seen";
  // The copier's lease of 15 s, and the collector's round of 1 s.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(40);
  while (std::chrono::steady_clock::now() < deadline && now.streams() > before_.streams()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    now = Shard(target);
  }
  EXPECT_EQ(now.streams(), before_.streams());
  EXPECT_EQ(now.log_tokens(), before_.log_tokens());
  EXPECT_EQ(now.blob_bytes(), before_.blob_bytes());
}

TEST_F(ForkTest, TargetShardKilledInTheMiddleOfTheCopy) {
  const int target = 1 - parent_shard_;
  for (const char* place : {"store.create.after_commit", "store.append.before_commit",
                            "store.append.after_commit", "store.snapshot.before_commit",
                            "store.release.before_commit", "store.release.after_commit"}) {
    SCOPED_TRACE(place);
    const std::string child = FreshId(target);
    cluster_.shard(target).Kill();
    cluster_.StartShard(target, {{"LOLA_FAILPOINTS", std::string(place) + "=kill"}});
    v1::StreamInfo info;
    grpc::Status status;
    // Processes end with the thread that started them, so the question has a thread of its own.
    std::thread asking([&] { status = Fork(child, "fork-1", kAt, &info); });
    cluster_.shard(target).Wait(std::chrono::seconds(20));
    cluster_.StartShard(target);
    asking.join();
    if (!status.ok()) {
      const grpc::Status again = Fork(child, "fork-1", kAt, &info);
      ASSERT_TRUE(again.ok()) << status.error_message() << "; " << again.error_message();
    }
    ExpectComplete(child);
  }
}

}  // namespace
}  // namespace lola::testing
