// Create, describe, list, limits.
#include "memory/store/stream_store.h"

#include "tests/memory/store/store_fixture.h"

namespace lola::store {
namespace {

using StreamsTest = StoreTest;

TEST_F(StreamsTest, CreatedStreamIsDescribedWhole) {
  v1::CreateStreamRequest request = CreateRequest("s");
  request.set_tenant("t");
  (*request.mutable_labels())["k"] = "v";
  request.mutable_settings()->set_window(64);
  request.mutable_sampling()->set_seed(7);
  request.set_ttl_ms(1000);
  ASSERT_TRUE(store_->Create(request).ok());
  Reopen();
  const v1::StreamInfo info = Info("s");
  EXPECT_EQ(info.tenant(), "t");
  EXPECT_EQ(info.labels().at("k"), "v");
  EXPECT_EQ(info.model_fingerprint(), "model");
  EXPECT_EQ(info.settings().window(), 64u);
  EXPECT_EQ(info.sampling().seed(), 7u);
  EXPECT_EQ(info.ttl_ms(), 1000);
  EXPECT_EQ(info.state_bytes(), 4096u);
  EXPECT_EQ(info.committed_position(), 0u);
  EXPECT_EQ(info.created_unix_ms(), clock_.UnixMs());
  EXPECT_EQ(info.stream_uid().size(), 32u);
  EXPECT_EQ(info.partition(), memory::PartitionOf("s", 64));
}

TEST_F(StreamsTest, CreateAgainIsTheSameStreamOnlyForTheSameRequest) {
  const v1::StreamInfo first = Create("s");
  Reopen();
  EXPECT_EQ(Create("s").stream_uid(), first.stream_uid());
  v1::CreateStreamRequest other = CreateRequest("s");
  other.set_request_id("another");
  EXPECT_REFUSED(store_->Create(other).status(), kAlreadyExists, "\"another\"");
  other.clear_request_id();
  EXPECT_REFUSED(store_->Create(other).status(), kAlreadyExists, "\"s\"");
  EXPECT_EQ(store_->Stats().streams, 1u);
}

TEST_F(StreamsTest, RecreatedIdIsAnotherStream) {
  const std::string uid = Create("s").stream_uid();
  ASSERT_TRUE(Append("s", Acquire("s"), 0, {1, 2}).ok());
  ASSERT_TRUE(store_->Delete("s").ok());
  EXPECT_REFUSED(store_->Describe("s").status(), kNotFound, "\"s\"");
  const v1::StreamInfo again = Create("s");
  EXPECT_NE(again.stream_uid(), uid);
  EXPECT_EQ(again.committed_position(), 0u);
  ExpectClean();
}

TEST_F(StreamsTest, BadRequestsNameTheField) {
  const auto refuse = [&](auto change, const std::string& words) {
    v1::CreateStreamRequest request = CreateRequest("s");
    change(request);
    EXPECT_REFUSED(store_->Create(request).status(), kInvalidArgument, words);
  };
  refuse([](auto& r) { r.set_stream_id(""); }, "stream_id");
  refuse([](auto& r) { r.set_stream_id(std::string(129, 'x')); }, "129 bytes");
  refuse([](auto& r) { r.set_tenant(std::string(129, 'x')); }, "tenant");
  refuse([](auto& r) { r.set_request_id(std::string(129, 'x')); }, "request_id");
  refuse([](auto& r) { r.set_model_fingerprint(std::string(257, 'x')); }, "model_fingerprint");
  refuse([](auto& r) { r.set_ttl_ms(-1); }, "ttl_ms: is -1");
  refuse([](auto& r) { r.set_state_bytes(~uint64_t{0}); }, "state_bytes");
  refuse([](auto& r) { (*r.mutable_labels())[""] = "v"; }, "labels: a key is empty");
  refuse([](auto& r) { (*r.mutable_labels())[std::string(65, 'k')] = "v"; }, "labels: key");
  refuse([](auto& r) { (*r.mutable_labels())["k"] = std::string(257, 'v'); }, "labels: value");
  refuse(
      [](auto& r) {
        for (int i = 0; i < 33; ++i) (*r.mutable_labels())[std::to_string(i)] = "v";
      },
      "labels: has 33");
  EXPECT_EQ(store_->Stats().streams, 0u);
}

TEST_F(StreamsTest, FullShardRefusesUntilAStreamGoes) {
  options_.streams_max = 2;
  Reopen();
  Create("a");
  Create("b");
  EXPECT_REFUSED(store_->Create(CreateRequest("c")).status(), kResourceExhausted, "at most 2");
  EXPECT_REFUSED(Fork("a", "c").status(), kResourceExhausted, "at most 2");
  ASSERT_TRUE(store_->Delete("a").ok());
  Create("c");
}

TEST_F(StreamsTest, ListPagesInOrderOfId) {
  for (int i = 9; i >= 0; --i) Create("s" + std::to_string(i));
  v1::ListStreamsRequest request;
  request.set_page_size(4);
  std::vector<std::string> ids;
  int pages = 0;
  do {
    auto reply = store_->List(request);
    ASSERT_TRUE(reply.ok());
    for (const auto& info : reply->streams()) ids.push_back(info.stream_id());
    request.set_page_token(reply->next_page_token());
    ++pages;
  } while (!request.page_token().empty());
  EXPECT_EQ(pages, 3);
  ASSERT_EQ(ids.size(), 10u);
  EXPECT_TRUE(std::is_sorted(ids.begin(), ids.end()));
}

TEST_F(StreamsTest, ALateDeleteSparesAStreamMadeAnew) {
  const std::string first = Create("s").stream_uid();
  ASSERT_TRUE(store_->Delete("s", first).ok());
  EXPECT_REFUSED(store_->Delete("s", first), kNotFound, "\"s\"");
  const std::string second = Create("s").stream_uid();
  EXPECT_REFUSED(store_->Delete("s", first), kNotFound, "the call means \"" + first);
  EXPECT_EQ(Info("s").stream_uid(), second);
  EXPECT_TRUE(store_->Delete("s", second).ok());
}

TEST_F(StreamsTest, APageFitsIntoAMessageHoweverLargeItsStreams) {
  v1::CreateStreamRequest request = CreateRequest("s");
  for (size_t i = 0; i < memory::kLabelsMax; ++i) {
    const std::string key = std::to_string(i) + std::string(memory::kLabelKeyBytesMax - 2, 'k');
    (*request.mutable_labels())[key] = std::string(memory::kLabelValueBytesMax, 'v');
  }
  constexpr int kStreams = 900;  // of 10 KiB
  for (int i = 0; i < kStreams; ++i) {
    request.set_stream_id("s" + std::to_string(1000 + i));
    ASSERT_TRUE(store_->Create(request).ok());
  }
  v1::ListStreamsRequest list;
  list.set_page_size(memory::kListPageMax);
  int next = 1000;
  do {
    const auto reply = store_->List(list);
    ASSERT_TRUE(reply.ok()) << reply.status();
    ASSERT_LE(reply->ByteSizeLong(), size_t{8} << 20) << "more than a gRPC message of ours holds";
    ASSERT_GT(reply->streams_size(), 0);
    for (const v1::StreamInfo& info : reply->streams()) {
      EXPECT_EQ(info.stream_id(), "s" + std::to_string(next++));
    }
    list.set_page_token(reply->next_page_token());
  } while (!list.page_token().empty());
  EXPECT_EQ(next, 1000 + kStreams);
}

TEST_F(StreamsTest, ListSelectsByPrefixAndLabels) {
  for (const char* id : {"a1", "a2", "b1"}) {
    v1::CreateStreamRequest request = CreateRequest(id);
    (*request.mutable_labels())["odd"] = id[1] == '1' ? "yes" : "no";
    ASSERT_TRUE(store_->Create(request).ok());
  }
  v1::ListStreamsRequest request;
  request.set_id_prefix("a");
  EXPECT_EQ(store_->List(request)->streams_size(), 2);
  (*request.mutable_labels())["odd"] = "yes";
  const auto reply = store_->List(request);
  ASSERT_EQ(reply->streams_size(), 1);
  EXPECT_EQ(reply->streams(0).stream_id(), "a1");
  request.set_page_size(memory::kListPageMax + 1);
  EXPECT_REFUSED(store_->List(request).status(), kInvalidArgument, "page_size");
}

TEST_F(StreamsTest, StoreOfOtherPartitionsIsRefused) {
  store_.reset();
  options_.partitions = 32;
  EXPECT_REFUSED(StreamStore::Open(options_).status(), kFailedPrecondition,
                 "made with 64, the configuration says 32");
}

TEST_F(StreamsTest, SecondProcessIsRefused) {
  EXPECT_REFUSED(StreamStore::Open(options_).status(), kFailedPrecondition, folder_);
}

}  // namespace
}  // namespace lola::store
