// Refusals: other shards' partitions, full queue, shutting down.
#include <thread>

#include "services/rpc/status_map.h"
#include "tests/services/memory/shard_fixture.h"

namespace lola::shard {
namespace {

using OverloadTest = ShardTest;

TEST_F(OverloadTest, PartitionsOfOtherShardsAreRefusedByName) {
  options_.map =
      *memory::PartitionMap::FromShards(2, {{"shard-0", "a", {0}}, {"shard-1", "b", {1}}});
  StartShard();
  std::string mine, other;
  for (int i = 0; mine.empty() || other.empty(); ++i) {
    const std::string id = "s" + std::to_string(i);
    (memory::PartitionOf(id, 2) == 0 ? mine : other) = id;
  }
  ASSERT_TRUE(Create(mine).ok());
  EXPECT_CALL_FAILS(Create(other), FAILED_PRECONDITION, "in partition 1 of shard shard-1");
  v1::StreamInfo info;
  EXPECT_CALL_FAILS(Describe(other, &info), FAILED_PRECONDITION, "this is shard shard-0");
  v1::AppendBatchReply appended;
  EXPECT_CALL_FAILS(Append(other, 1, 0, 1, &appended), FAILED_PRECONDITION, "partition");
  v1::SnapshotInfo snapshot;
  EXPECT_CALL_FAILS(Put(MakeBlob(other, 1, 0, 4096), &snapshot), FAILED_PRECONDITION, "partition");
  std::string bytes;
  EXPECT_CALL_FAILS(Get(other, "x", &bytes), FAILED_PRECONDITION, "partition");
  grpc::ClientContext context;
  v1::ForkStreamRequest fork;
  fork.set_stream_id(mine);
  fork.set_new_stream_id(other);
  EXPECT_CALL_FAILS(stub_->Fork(&context, fork, &info), FAILED_PRECONDITION, other);
  EXPECT_EQ(shard_->Stats().calls_misrouted, 6u);
  EXPECT_EQ(shard_->Stats().store.streams, 1u);
}

TEST_F(OverloadTest, FullQueueRefusesWithARetryHintAndRecovers) {
  options_.threads = 1;
  options_.queue_max = 2;
  StartShard();
  ASSERT_TRUE(memory::ArmFailpoints("store.create.before_commit=sleep:50").ok());
  std::atomic<int> refused{0};
  std::atomic<int> made{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 12; ++i) {
    callers.emplace_back([&, i] {
      const grpc::Status status = Create("s" + std::to_string(i));
      made += status.ok();
      if (status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED) return;
      ++refused;
      EXPECT_TRUE(rpc::GetDetail(rpc::FromGrpc(status), rpc::kRetryAfterMsDetail).has_value());
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_GT(refused, 0);
  EXPECT_EQ(made + refused, 12);
  EXPECT_EQ(shard_->Stats().calls_overloaded, uint64_t(refused));
  EXPECT_TRUE(Create("later").ok());
}

TEST_F(OverloadTest, CallsThatSendHaveABound) {
  options_.queue_max = 2;
  StartShard();
  ASSERT_TRUE(Create("s").ok());
  v1::AcquireReply owner;
  ASSERT_TRUE(Acquire("s", "w", &owner).ok());
  v1::SnapshotInfo info;
  ASSERT_TRUE(Put(MakeBlob("s", owner.epoch(), 0, 8 << 20), &info).ok());
  v1::GetSnapshotRequest request;
  request.set_stream_id("s");
  request.set_blob_id(info.blob_id());
  {
    std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
    std::vector<std::unique_ptr<grpc::ClientReader<v1::SnapshotChunk>>> readers;
    v1::SnapshotChunk chunk;
    for (int i = 0; i < 2; ++i) {
      contexts.push_back(std::make_unique<grpc::ClientContext>());
      readers.push_back(stub_->GetSnapshot(contexts.back().get(), request));
      ASSERT_TRUE(readers.back()->Read(&chunk));  // the first of sixteen; then it is left waiting
    }
    std::string bytes;
    const grpc::Status refused = Get("s", info.blob_id(), &bytes);
    EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_EQ(refused.error_message(), "open: 2 calls send in shard shard-0, at most 2");
    EXPECT_TRUE(rpc::GetDetail(rpc::FromGrpc(refused), rpc::kRetryAfterMsDetail).has_value());
    v1::StreamInfo stream;
    EXPECT_TRUE(Describe("s", &stream).ok()) << "others are served";
    for (auto& context : contexts) context->TryCancel();
    for (auto& reader : readers) {
      while (reader->Read(&chunk)) continue;
      EXPECT_FALSE(reader->Finish().ok());
    }
  }
  std::string bytes;
  grpc::Status later;
  do {  // the calls end at the server a little after they ended here
    bytes.clear();
    later = Get("s", info.blob_id(), &bytes);
  } while (later.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(later.ok()) << later.error_message();
}

TEST_F(OverloadTest, LeasesAreRenewedWhileTheQueueIsFull) {
  options_.threads = 1;
  options_.queue_max = 1;
  StartShard();
  ASSERT_TRUE(Create("s").ok());
  v1::AcquireReply owner;
  ASSERT_TRUE(Acquire("s", "w", &owner).ok());
  constexpr char kPlace[] = "store.create.before_commit";
  ASSERT_TRUE(memory::ArmFailpoints(std::string(kPlace) + "=sleep:1000").ok());
  std::thread working([&] { EXPECT_TRUE(Create("held").ok()); });
  while (memory::FailpointPassages(kPlace) == 0) std::this_thread::yield();
  std::atomic<bool> through{false};
  std::thread waiting([&] {
    EXPECT_TRUE(Create("queued").ok());
    through = true;
  });
  while (shard_->Stats().queued == 0 && !through) std::this_thread::yield();
  grpc::ClientContext context;
  v1::RenewRequest request;
  request.set_worker_instance("w");
  request.set_lease_ms(60'000);
  v1::RenewReply reply;
  const grpc::Status renewed = stub_->Renew(&context, request, &reply);
  EXPECT_TRUE(renewed.ok()) << renewed.error_message();
  EXPECT_EQ(reply.streams(), 1u);
  working.join();
  waiting.join();
}

TEST_F(OverloadTest, DrainingShardRefusesNewCalls) {
  StartShard();
  ASSERT_TRUE(Create("s").ok());
  shard_->Drain();
  v1::StreamInfo info;
  EXPECT_CALL_FAILS(Describe("s", &info), UNAVAILABLE, "shutting down");
  v1::SnapshotInfo snapshot;
  EXPECT_CALL_FAILS(Put(MakeBlob("s", 1, 0, 4096), &snapshot), UNAVAILABLE, "shutting down");
  EXPECT_EQ(shard_->Stats().store.streams, 1u);
  StopShard();
  StartShard();
  EXPECT_TRUE(Describe("s", &info).ok());
}

}  // namespace
}  // namespace lola::shard
