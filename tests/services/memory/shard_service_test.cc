#include "services/memory/shard_service.h"

#include "services/rpc/status_map.h"
#include "tests/services/memory/shard_fixture.h"

namespace lola::shard {
namespace {

class ShardServiceTest : public ShardTest {
 protected:
  ShardServiceTest() { StartShard(); }
};

TEST_F(ShardServiceTest, AStreamLivesThroughAllCallsAndARestart) {
  ASSERT_TRUE(Create("s").ok());
  v1::AcquireReply owner;
  ASSERT_TRUE(Acquire("s", "w:1", &owner).ok());
  EXPECT_EQ(owner.epoch(), 1u);
  v1::AppendBatchReply appended;
  ASSERT_TRUE(Append("s", 1, 0, 40'000, &appended).ok());
  EXPECT_EQ(appended.results(0).committed_position(), 40'000u);
  const Blob blob = MakeBlob("s", 1, 30'000, 3 << 20);
  v1::SnapshotInfo put;
  grpc::Status status = Put(blob, &put);
  ASSERT_TRUE(status.ok()) << status.error_message();

  StopShard();
  StartShard();
  v1::StreamInfo info;
  ASSERT_TRUE(Describe("s", &info).ok());
  EXPECT_EQ(info.committed_position(), 40'000u);
  ASSERT_EQ(info.snapshots_size(), 1);
  std::string bytes;
  ASSERT_TRUE(Get("s", put.blob_id(), &bytes).ok());
  EXPECT_TRUE(bytes == blob.bytes);

  grpc::ClientContext read_context;
  v1::ReadTokensRequest read;
  read.set_stream_id("s");
  read.set_from(29'990);
  auto reader = stub_->ReadTokens(&read_context, read);
  v1::TokenRun run;
  uint64_t next = 29'990;
  while (reader->Read(&run)) {
    EXPECT_EQ(run.position(), next);
    for (const int32_t id : run.ids()) ASSERT_EQ(id, int32_t(next++));
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(next, 40'000u);
}

TEST_F(ShardServiceTest, OperatorsCallsWork) {
  ASSERT_TRUE(Create("s").ok());
  v1::StreamInfo info;
  {
    grpc::ClientContext context;
    v1::ForkStreamRequest fork;
    fork.set_stream_id("s");
    fork.set_new_stream_id("t");
    ASSERT_TRUE(stub_->Fork(&context, fork, &info).ok());
    EXPECT_EQ(info.parent(), "s");
  }
  {
    grpc::ClientContext context;
    v1::RewindStreamRequest rewind;
    rewind.set_stream_id("t");
    rewind.set_position(0);
    ASSERT_TRUE(stub_->Rewind(&context, rewind, &info).ok());
    EXPECT_EQ(info.owner_epoch(), 1u);
  }
  {
    grpc::ClientContext context;
    v1::ListStreamsReply list;
    ASSERT_TRUE(stub_->List(&context, v1::ListStreamsRequest(), &list).ok());
    EXPECT_EQ(list.streams_size(), 2);
  }
  {
    grpc::ClientContext context;
    v1::DeleteStreamRequest request;
    request.set_stream_id("t");
    v1::DeleteStreamReply reply;
    ASSERT_TRUE(stub_->Delete(&context, request, &reply).ok());
  }
  v1::AcquireReply owner;
  ASSERT_TRUE(Acquire("s", "w", &owner).ok());
  {
    grpc::ClientContext context;
    v1::RenewRequest request;
    request.set_worker_instance("w");
    request.set_lease_ms(1000);
    v1::RenewReply reply;
    ASSERT_TRUE(stub_->Renew(&context, request, &reply).ok());
    EXPECT_EQ(reply.streams(), 1u);
  }
  {
    grpc::ClientContext context;
    v1::ReleaseRequest request;
    request.set_stream_id("s");
    request.set_epoch(1);
    v1::ReleaseReply reply;
    ASSERT_TRUE(stub_->Release(&context, request, &reply).ok());
  }
  grpc::ClientContext context;
  v1::ShardInfo shard;
  ASSERT_TRUE(stub_->DescribeShard(&context, v1::DescribeShardRequest(), &shard).ok());
  EXPECT_EQ(shard.shard_id(), "shard-0");
  EXPECT_EQ(shard.partitions_size(), 64);
  EXPECT_EQ(shard.streams(), 1u);
}

TEST_F(ShardServiceTest, RefusedAcquireCarriesTheOwner) {
  ASSERT_TRUE(Create("s").ok());
  v1::AcquireReply owner;
  ASSERT_TRUE(Acquire("s", "host-a:1", &owner).ok());
  const grpc::Status refused = Acquire("s", "host-b:1", &owner);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(rpc::GetDetail(rpc::FromGrpc(refused), rpc::kOwnerDetail), "host-a:1");
}

TEST_F(ShardServiceTest, ErrorsPassWithCodeAndWords) {
  v1::StreamInfo info;
  EXPECT_CALL_FAILS(Describe("none", &info), NOT_FOUND, "\"none\"");
  EXPECT_CALL_FAILS(Create(""), INVALID_ARGUMENT, "stream_id");
  std::string bytes;
  EXPECT_CALL_FAILS(Get("none", "x", &bytes), NOT_FOUND, "none");
  v1::AppendBatchReply appended;
  ASSERT_TRUE(Append("none", 1, 0, 1, &appended).ok());
  EXPECT_EQ(appended.results(0).code(), int(grpc::StatusCode::NOT_FOUND));
  EXPECT_EQ(shard_->Stats().calls_failed, 3u);
}

TEST_F(ShardServiceTest, DamagedSnapshotsAreRefusedAndLeaveNothing) {
  ASSERT_TRUE(Create("s").ok());
  v1::AcquireReply owner;
  ASSERT_TRUE(Acquire("s", "w", &owner).ok());
  const Blob good = MakeBlob("s", 1, 0, 64 << 10);
  v1::SnapshotInfo info;
  for (const size_t at : {size_t{0}, size_t{30}, good.bytes.size() / 2, good.bytes.size() - 1}) {
    Blob bad = good;
    bad.bytes[at] = char(bad.bytes[at] ^ 4);
    EXPECT_FALSE(Put(bad, &info).ok()) << at;
  }
  Blob bad = good;
  bad.bytes.pop_back();
  EXPECT_CALL_FAILS(Put(bad, &info), INVALID_ARGUMENT, "size_bytes");
  bad = good;
  bad.header.set_digest(std::string(16, 'x'));
  EXPECT_CALL_FAILS(Put(bad, &info), DATA_LOSS, "digest: the call says");
  bad = MakeBlob("s", 1, 5, 64 << 10);
  bad.header.set_position(0);
  EXPECT_CALL_FAILS(Put(bad, &info), DATA_LOSS, "position: the call says 0, the blob 5");
  v1::StreamInfo stream;
  ASSERT_TRUE(Describe("s", &stream).ok());
  EXPECT_EQ(stream.snapshots_size(), 0);
  EXPECT_TRUE(std::filesystem::is_empty(folder_ + "/blobs"));
  EXPECT_TRUE(std::filesystem::is_empty(folder_ + "/tmp"));
  EXPECT_TRUE(Put(good, &info).ok());
}

// A caller that waits for the verdict without ending its side is told at once.
TEST_F(ShardServiceTest, BadMessageEndsAnUploadThatIsStillOpen) {
  ASSERT_TRUE(Create("s").ok());
  v1::AcquireReply owner;
  ASSERT_TRUE(Acquire("s", "w", &owner).ok());
  const Blob blob = MakeBlob("s", owner.epoch(), 0, 4096);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  v1::SnapshotInfo info;
  auto writer = stub_->PutSnapshot(&context, &info);
  v1::PutSnapshotRequest request;
  *request.mutable_header() = blob.header;
  writer->Write(request);
  writer->Write(request);  // no data
  EXPECT_CALL_FAILS(writer->Finish(), INVALID_ARGUMENT, "carries no data");
}

TEST_F(ShardServiceTest, UploadsOutOfOrderAreRefused) {
  ASSERT_TRUE(Create("s").ok());
  v1::AcquireReply owner;
  ASSERT_TRUE(Acquire("s", "w", &owner).ok());
  v1::SnapshotInfo info;
  {
    grpc::ClientContext context;
    auto writer = stub_->PutSnapshot(&context, &info);
    v1::PutSnapshotRequest request;
    request.set_data("data first");
    writer->Write(request);
    writer->WritesDone();
    EXPECT_CALL_FAILS(writer->Finish(), INVALID_ARGUMENT, "header");
  }
  {
    grpc::ClientContext context;
    auto writer = stub_->PutSnapshot(&context, &info);
    writer->WritesDone();
    EXPECT_CALL_FAILS(writer->Finish(), INVALID_ARGUMENT, "header");
  }
  {
    grpc::ClientContext context;
    auto writer = stub_->PutSnapshot(&context, &info);
    v1::PutSnapshotRequest request;
    *request.mutable_header() = MakeBlob("s", 1, 0, 4096).header;
    writer->Write(request);
    writer->Write(request);
    writer->WritesDone();
    EXPECT_CALL_FAILS(writer->Finish(), INVALID_ARGUMENT, "no data");
  }
  {
    grpc::ClientContext context;
    auto writer = stub_->PutSnapshot(&context, &info);
    v1::PutSnapshotRequest request;
    *request.mutable_header() = MakeBlob("s", 1, 0, 4096).header;
    writer->Write(request);
    context.TryCancel();
    EXPECT_FALSE(writer->Finish().ok());
  }
  StopShard();
  EXPECT_TRUE(std::filesystem::is_empty(folder_ + "/tmp"));
}

TEST(ShardServiceOptions, BadOptionsAreRefused) {
  ShardOptions options;
  options.shard_id = "other";
  EXPECT_EQ(ShardService::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.shard_id = "shard-0";
  EXPECT_EQ(ShardService::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.store.directory = "unused";
  options.threads = 0;
  EXPECT_EQ(ShardService::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace lola::shard
