// What a gateway does when nothing dies: routing, refusals, unary calls, drain, series.
#include "services/gateway/gateway_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <set>

#include "services/metrics/gateway_series.h"
#include "tests/services/gateway/world.h"

namespace lola::gateway {
namespace {

using ::testing::HasSubstr;

TEST_F(GatewayWorld, AppendAndGenerateComeBackInOrderWithTheirIds) {
  auto client = Open("s");
  client->Append("a", "hello");
  client->Generate("g", 10);
  ASSERT_TRUE(client->ReadUntilDone("g"));
  EXPECT_EQ(client->tokens, Expected(5, 10));
  EXPECT_TRUE(client->replies.front().has_opened());
  EXPECT_TRUE(client->End().ok());
}

TEST_F(GatewayWorld, HalfClosedCallEndsOkOnceEverythingIsDone) {
  auto client = Open("s");
  client->Generate("g", 30);
  client->call->WritesDone();
  client->half_closed = true;
  ASSERT_TRUE(client->ReadUntilDone("g"));
  EXPECT_TRUE(client->End().ok());
}

TEST_F(GatewayWorld, StreamsWithoutOwnerSpreadOverWorkersAndStayThere) {
  std::set<std::string> owners;
  for (int i = 0; i < 12; ++i) {
    const std::string id = "spread-" + std::to_string(i);
    auto client = Open(id);
    client->Append("a", "x");
    ASSERT_TRUE(client->ReadUntilDone("a"));
    owners.insert(OwnerOf(id));
    auto again = Open(id);
    again->Append("a", "x");
    ASSERT_TRUE(again->ReadUntilDone("a"));
    EXPECT_EQ(Owner(id).takeovers, 0);
  }
  EXPECT_EQ(owners.size(), 2u);
}

TEST_F(GatewayWorld, UnknownStreamIsNotFoundByName) {
  auto client = Open("nobody", false);
  const grpc::Status status = client->End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), HasSubstr("nobody"));
}

TEST_F(GatewayWorld, BadRequestsEndTheCallWithTheField) {
  auto bad_id = Open("no spaces");
  EXPECT_THAT(bad_id->End().error_message(), HasSubstr("stream_id"));
  auto client = Open("s");
  v1::StreamRequest request;
  request.mutable_append()->mutable_tokens()->add_ids(999999);
  client->Append("a", "x");
  ASSERT_TRUE(client->ReadUntilDone("a"));  // the vocabulary is known by then
  client->call->Write(request);
  const grpc::Status status = client->End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("999999"));
  std::lock_guard lock(store_.mu);
  EXPECT_EQ(store_.streams["s"].ids.size(), 1u);
}

TEST_F(GatewayWorld, InvalidUtf8IsRefusedWithFieldAndOffset) {
  v1::StreamRequest open;
  open.mutable_open()->set_stream_id("s");
  open.mutable_open()->set_create_if_missing(true);
  v1::StreamRequest append;
  append.mutable_append()->set_text("ab?");
  std::string bytes = append.SerializeAsString();
  bytes[bytes.find("ab?") + 2] = '\xff';
  v1::StreamRequest broken;  // as unknown bytes, which serialization passes through
  broken.GetReflection()->MutableUnknownFields(&broken)->ParseFromString(bytes);
  grpc::ClientContext context;
  auto call = inference_->Stream(&context);
  call->Write(open);
  call->Write(broken);
  v1::StreamReply reply;
  while (call->Read(&reply)) {
  }
  const grpc::Status status = call->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("append.text: invalid UTF-8 at byte 2"));
}

TEST_F(GatewayWorld, GenerateCallAppendsAndGenerates) {
  grpc::ClientContext context;
  v1::GenerateRequest request;
  request.mutable_open()->set_stream_id("s");
  request.mutable_open()->set_create_if_missing(true);
  request.mutable_append()->set_text("hello");
  request.mutable_generate()->set_max_tokens(7);
  auto call = inference_->Generate(&context, request);
  v1::StreamReply reply;
  std::vector<int32_t> tokens;
  while (call->Read(&reply)) {
    for (const int32_t id : reply.tokens().ids()) tokens.push_back(id);
  }
  EXPECT_TRUE(call->Finish().ok());
  EXPECT_EQ(tokens, Expected(5, 7));
}

TEST_F(GatewayWorld, ListGoesThroughAllShardsPageByPage) {
  std::set<std::string> made;
  for (int i = 0; i < 9; ++i) {
    v1::CreateStreamRequest request;
    request.set_stream_id("l" + std::to_string(i));
    v1::StreamInfo info;
    (i % 3 == 0 ? shard_a_ : shard_b_).Create(nullptr, &request, &info);
    made.insert(request.stream_id());
  }
  std::multiset<std::string> seen;
  v1::ListRequest request;
  request.set_page_size(2);
  int pages = 0;
  do {
    grpc::ClientContext context;
    v1::ListReply reply;
    ASSERT_TRUE(inference_->List(&context, request, &reply).ok());
    EXPECT_LE(reply.streams_size(), 2);
    for (const auto& info : reply.streams()) seen.insert(info.stream_id());
    request.set_page_token(reply.next_page_token());
  } while (!request.page_token().empty() && ++pages < 20);
  EXPECT_EQ(seen, std::multiset<std::string>(made.begin(), made.end()));
  request.set_page_token("made up");
  grpc::ClientContext context;
  v1::ListReply reply;
  EXPECT_EQ(inference_->List(&context, request, &reply).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(GatewayWorld, ForkWorksWithinAndAcrossShards) {
  auto client = Open("parent");
  client->Append("a", "hello");
  client->Generate("g", 10);
  ASSERT_TRUE(client->ReadUntilDone("g"));
  for (int i = 0; i < 6; ++i) {  // ids on both shards
    grpc::ClientContext context;
    v1::ForkRequest request;
    request.set_stream_id("parent");
    request.set_new_stream_id("child-" + std::to_string(i));
    v1::StreamInfo info;
    const grpc::Status status = inference_->Fork(&context, request, &info);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(info.parent(), "parent");
    EXPECT_EQ(info.committed_position(), 15u);
    std::lock_guard lock(store_.mu);
    EXPECT_EQ(store_.streams[request.new_stream_id()].ids, store_.streams["parent"].ids);
    EXPECT_EQ(store_.streams[request.new_stream_id()].info.owner(), "");
  }
}

TEST_F(GatewayWorld, ForkAgainWithTheSameIdIsTheSameChild) {
  auto client = Open("parent");
  client->Append("a", "hello");
  ASSERT_TRUE(client->ReadUntilDone("a"));
  const auto fork = [&](const std::string& child, const std::string& id, std::optional<uint64_t> at,
                        v1::StreamInfo* info) {
    grpc::ClientContext context;
    v1::ForkRequest request;
    request.set_stream_id("parent");
    request.set_new_stream_id(child);
    request.set_request_id(id);
    if (at.has_value()) request.set_at_position(*at);
    return inference_->Fork(&context, request, info);
  };
  for (int i = 0; i < 6; ++i) {  // ids on both shards
    const std::string child = "child-" + std::to_string(i);
    v1::StreamInfo first, again;
    ASSERT_TRUE(fork(child, "f", std::nullopt, &first).ok());
    client->Append("more" + child, "x");
    ASSERT_TRUE(client->ReadUntilDone("more" + child));
    ASSERT_TRUE(fork(child, "f", std::nullopt, &again).ok());
    EXPECT_EQ(again.committed_position(), first.committed_position()) << "the parent went on";
    EXPECT_EQ(fork(child, "other", std::nullopt, &again).error_code(),
              grpc::StatusCode::ALREADY_EXISTS);
  }
  // An attempt that died: its half of a child is taken over.
  int taken_over = 0;
  for (int i = 0; i < 6; ++i) {
    const std::string child = "half-" + std::to_string(i);
    {
      std::lock_guard lock(store_.mu);
      FakeStore::Stream& half = store_.streams[child];
      half.info.set_stream_id(child);
      half.info.set_parent("parent");
      half.info.set_forked_at(4);
      half.info.set_request_id("f");
      half.info.set_unfinished(true);
    }
    v1::StreamInfo info;
    const grpc::Status status = fork(child, "f", 3, &info);
    if (status.ok()) continue;  // on the parent's shard, where forks are never half
    EXPECT_EQ(status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
    EXPECT_THAT(status.error_message(), HasSubstr("forked at position 4, not at 3"));
    ASSERT_TRUE(fork(child, "f", std::nullopt, &info).ok());
    EXPECT_EQ(info.committed_position(), 4u);
    EXPECT_EQ(info.parent(), "parent");
    EXPECT_FALSE(info.unfinished());
    ++taken_over;
  }
  EXPECT_GT(taken_over, 0);
}

TEST_F(GatewayWorld, RewindIsDoneOnceHoweverOftenItIsAsked) {
  auto client = Open("s");
  client->Append("a", "hello");
  ASSERT_TRUE(client->ReadUntilDone("a"));
  v1::RewindRequest rewind;
  rewind.set_stream_id("s");
  rewind.set_position(2);
  v1::StreamInfo info;
  const auto ask = [&] {
    grpc::ClientContext context;
    const grpc::Status status = inference_->Rewind(&context, rewind, &info);
    EXPECT_TRUE(status.ok()) << status.error_message();
  };
  // The gateway asks again by itself, under an id of its own.
  shard_a_.lose_answer = shard_b_.lose_answer = true;
  ask();
  EXPECT_EQ(info.committed_position(), 2u);
  EXPECT_EQ(shard_a_.rewinds + shard_b_.rewinds, 2);
  EXPECT_EQ(info.rewinds_size(), 1) << "cut once";
  rewind.set_request_id("r");
  rewind.set_position(1);
  ask();
  auto later = Open("s", false);
  later->Append("b", "newer");
  ASSERT_TRUE(later->ReadUntilDone("b"));
  const std::string owner = OwnerOf("s");
  ASSERT_NE(owner, "");
  ask();
  EXPECT_EQ(info.committed_position(), 1u) << "what the first one did";
  EXPECT_EQ(OwnerOf("s"), owner) << "the owner keeps it";
  std::lock_guard lock(store_.mu);
  EXPECT_EQ(store_.streams["s"].ids.size(), 6u);
}

TEST_F(GatewayWorld, SnapshotGoesToTheOwnerOrMakesOne) {
  v1::SnapshotRequest request;
  request.set_stream_id("s");
  request.set_name("here");
  auto client = Open("s");
  client->Append("a", "x");
  ASSERT_TRUE(client->ReadUntilDone("a"));
  grpc::ClientContext context;
  v1::SnapshotInfo info;
  ASSERT_TRUE(inference_->Snapshot(&context, request, &info).ok());
  EXPECT_EQ(info.blob_id(), "by " + OwnerOf("s"));
  {
    std::lock_guard lock(store_.mu);
    store_.streams["s"].info.clear_owner();
  }
  grpc::ClientContext again;
  ASSERT_TRUE(inference_->Snapshot(&again, request, &info).ok());
  EXPECT_EQ(info.blob_id(), "by " + OwnerOf("s"));
  EXPECT_NE(OwnerOf("s"), "");
}

TEST_F(GatewayWorld, RewindReleasesTheOwnerFirstAndDeleteRemoves) {
  auto client = Open("s");
  client->Append("a", "hello");
  ASSERT_TRUE(client->ReadUntilDone("a"));
  grpc::ClientContext context;
  v1::RewindRequest rewind;
  rewind.set_stream_id("s");
  rewind.set_position(2);
  v1::StreamInfo info;
  ASSERT_TRUE(inference_->Rewind(&context, rewind, &info).ok());
  EXPECT_EQ(info.committed_position(), 2u);
  EXPECT_EQ(OwnerOf("s"), "");
  client->Append("b", "x");
  client->ReadUntilDone("b");
  EXPECT_EQ(client->call->Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION)
      << "the client has positions that are gone";
  grpc::ClientContext remove;
  v1::DeleteRequest request;
  request.set_stream_id("s");
  v1::DeleteReply reply;
  ASSERT_TRUE(inference_->Delete(&remove, request, &reply).ok());
  grpc::ClientContext again;
  EXPECT_EQ(inference_->Delete(&again, request, &reply).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(GatewayWorld, ShardThatIsAwayIsNamed) {
  shard_a_.away = shard_b_.away = true;
  grpc::ClientContext context;
  v1::ListReply reply;
  const grpc::Status status = inference_->List(&context, {}, &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("shard-a:1"));
}

TEST_F(GatewayWorld, MigrationToAStrangerIsRefusedByName) {
  auto client = Open("s");
  client->Append("a", "x");
  ASSERT_TRUE(client->ReadUntilDone("a"));
  grpc::ClientContext context;
  v1::MigrateRequest request;
  request.set_stream_id("s");
  request.set_target("stranger:1");
  v1::MigrateReply reply;
  const grpc::Status status = cluster_->Migrate(&context, request, &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("stranger:1"));
}

TEST_F(GatewayWorld, WorkersAndMapAreListed) {
  v1::ListWorkersReply workers;
  for (int i = 0; i < 100; ++i) {
    grpc::ClientContext context;
    ASSERT_TRUE(cluster_->ListWorkers(&context, {}, &workers).ok());
    if (workers.workers(0).healthy() && workers.workers(1).healthy()) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(workers.workers_size(), 2);
  EXPECT_TRUE(workers.workers(1).healthy());
  grpc::ClientContext context;
  v1::PartitionMap map;
  ASSERT_TRUE(cluster_->GetMap(&context, {}, &map).ok());
  EXPECT_EQ(map.shards_size(), 2);
  EXPECT_EQ(map.shards(1).partitions_size(), 32);
}

TEST_F(GatewayWorld, DrainEndsIdleCallsWithUnavailable) {
  auto client = Open("s");
  client->Append("a", "x");
  ASSERT_TRUE(client->ReadUntilDone("a"));
  gateway_->Drain(std::chrono::milliseconds(1000));
  const grpc::Status status = client->call->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("after_position 1"));
}

TEST_F(GatewayWorld, SeriesExistFromTheStartAndMove) {
  auto exporter = *metrics::Exporter::Start("", "test", {[&](metrics::Page& page) {
                                              metrics::WriteGateway(gateway_->Stats(), {}, page);
                                            }});
  EXPECT_THAT(exporter->Text(), HasSubstr("lola_gateway_calls_total 0"));
  EXPECT_THAT(exporter->Text(), HasSubstr("lola_time_to_first_token_seconds_count 0"));
  auto client = Open("s");
  client->Generate("g", 3);
  ASSERT_TRUE(client->ReadUntilDone("g"));
  EXPECT_THAT(exporter->Text(), HasSubstr("lola_gateway_calls_total 1"));
  EXPECT_THAT(exporter->Text(), HasSubstr("lola_time_to_first_token_seconds_count 1"));
  EXPECT_THAT(exporter->Text(), HasSubstr("lola_process_resident_memory_bytes"));
}

TEST(GatewayOptions, BadOnesAreRefused) {
  GatewayOptions options;
  EXPECT_EQ(GatewayService::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace lola::gateway
