// The token log.
#include "tests/memory/store/store_fixture.h"

namespace lola::store {
namespace {

class AppendTest : public StoreTest {
 protected:
  AppendTest() {
    Create("s");
    epoch_ = Acquire("s");
  }
  uint64_t epoch_ = 0;
};

TEST_F(AppendTest, TokensComeBackInOrderWithTheirAuthors) {
  ASSERT_TRUE(Append("s", epoch_, 0, Count(0, 1500)).ok());
  ASSERT_TRUE(Append("s", epoch_, 1500, Count(1500, 700), v1::TOKEN_AUTHOR_MODEL).ok());
  ASSERT_TRUE(Append("s", epoch_, 2200, {2200}).ok());
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(Tokens("s"), Count(0, 2201));
    EXPECT_EQ(Tokens("s", 1000, 1600), Count(1000, 600));
    std::vector<std::pair<uint64_t, int>> runs;
    {
      v1::ReadTokensRequest request;
      request.set_stream_id("s");
      auto reader = store_->ReadTokens(request);
      v1::TokenRun run;
      while (*(*reader)->Next(&run)) runs.emplace_back(run.position(), run.author());
    }
    EXPECT_EQ(runs, (std::vector<std::pair<uint64_t, int>>{{0, 1}, {1500, 2}, {2200, 1}}));
    Reopen();
  }
  EXPECT_EQ(Info("s").committed_position(), 2201u);
  EXPECT_EQ(store_->Stats().log_tokens, 2201u);
}

TEST_F(AppendTest, OneTokenAtATimeAcrossBlocks) {
  for (int32_t i = 0; i < 2100; ++i) {
    v1::AppendBatchRequest request;
    AddEntry("s", epoch_, uint64_t(i), {i}, &request, v1::TOKEN_AUTHOR_MODEL);
    request.set_durability(v1::DURABILITY_NONE);
    ASSERT_EQ(store_->Append(request)->results(0).code(), 0);
  }
  EXPECT_EQ(Tokens("s"), Count(0, 2100));
  Reopen();
  EXPECT_EQ(Tokens("s"), Count(0, 2100));
  ASSERT_TRUE(Append("s", epoch_, 2100, {2100}).ok());
  EXPECT_EQ(Tokens("s", 2040), Count(2040, 61));
}

TEST_F(AppendTest, RetryIsAnsweredWithoutWriting) {
  ASSERT_TRUE(Append("s", epoch_, 0, {1, 2, 3}).ok());
  const uint64_t commits = store_->Stats().commits;
  EXPECT_TRUE(Append("s", epoch_, 0, {1, 2, 3}).ok());
  EXPECT_TRUE(Append("s", epoch_, 1, {2}).ok());
  EXPECT_EQ(store_->Stats().commits, commits);
  EXPECT_EQ(store_->Stats().append_retries, 2u);
  EXPECT_EQ(Tokens("s"), (std::vector<int32_t>{1, 2, 3}));
}

TEST_F(AppendTest, PartlyKnownTokensAreCompletedOnce) {
  ASSERT_TRUE(Append("s", epoch_, 0, {1, 2, 3}).ok());
  ASSERT_TRUE(Append("s", epoch_, 1, {2, 3, 4, 5}).ok());
  EXPECT_EQ(Tokens("s"), (std::vector<int32_t>{1, 2, 3, 4, 5}));
}

TEST_F(AppendTest, OtherTokensAtAPositionAreRefusedByName) {
  ASSERT_TRUE(Append("s", epoch_, 0, {1, 2, 3}).ok());
  EXPECT_REFUSED(Append("s", epoch_, 1, {2, 9, 4}), kFailedPrecondition,
                 "at position 2 the append has token 9, stream \"s\" has 3");
  EXPECT_EQ(Tokens("s"), (std::vector<int32_t>{1, 2, 3}));
}

TEST_F(AppendTest, GapIsRefusedNamingBothPositions) {
  ASSERT_TRUE(Append("s", epoch_, 0, {1}).ok());
  EXPECT_REFUSED(Append("s", epoch_, 3, {4}), kOutOfRange, "starts at 3, stream \"s\" ends at 1");
}

TEST_F(AppendTest, OneRefusedEntryDoesNotTouchOthers) {
  Create("t");
  const uint64_t epoch = Acquire("t");
  v1::AppendBatchRequest request;
  AddEntry("t", epoch, 0, {7}, &request);
  AddEntry("s", epoch_ + 1, 0, {1}, &request);
  AddEntry("missing", 1, 0, {1}, &request);
  AddEntry("a bad one ", 1, 0, {}, &request);
  const auto reply = store_->Append(request);
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->results(0).code(), 0);
  EXPECT_EQ(reply->results(0).committed_position(), 1u);
  EXPECT_EQ(reply->results(1).code(), int(absl::StatusCode::kAborted));
  EXPECT_EQ(reply->results(1).committed_position(), 0u);
  EXPECT_EQ(reply->results(2).code(), int(absl::StatusCode::kNotFound));
  EXPECT_EQ(reply->results(3).code(), int(absl::StatusCode::kNotFound));
  EXPECT_EQ(Tokens("t"), std::vector<int32_t>{7});
  EXPECT_EQ(Info("s").committed_position(), 0u);
  EXPECT_EQ(store_->Stats().append_refused, 3u);
}

TEST_F(AppendTest, UnreadableEntriesAreRefusedByField) {
  const auto refuse = [&](auto change, const std::string& words) {
    v1::AppendBatchRequest request;
    AddEntry("s", epoch_, 0, {1, 2}, &request);
    change(*request.mutable_entries(0));
    auto reply = store_->Append(request);
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(reply->results(0).code(), int(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(reply->results(0).message(), ::testing::HasSubstr(words));
  };
  refuse([](auto& e) { e.clear_runs(); }, "runs: is empty");
  refuse([](auto& e) { e.mutable_runs(0)->clear_ids(); }, "is empty");
  refuse([](auto& e) { e.mutable_runs(0)->set_ids(1, -1); }, "token -1 at position 0 is negative");
  refuse([](auto& e) { e.mutable_runs(0)->set_author(v1::TOKEN_AUTHOR_UNSPECIFIED); }, "author");
  refuse([](auto& e) { *e.add_runs() = e.runs(0); }, "starts at position 0, the one before");
  refuse([](auto& e) { e.mutable_runs(0)->set_position(~uint64_t{0} - 1); }, "position");
  EXPECT_EQ(Info("s").committed_position(), 0u);
}

TEST_F(AppendTest, BatchLimitsAreNamed) {
  v1::AppendBatchRequest twice;
  AddEntry("s", epoch_, 0, {1}, &twice);
  AddEntry("s", epoch_, 1, {1}, &twice);
  EXPECT_REFUSED(store_->Append(twice).status(), kInvalidArgument, "\"s\" is named twice");
  v1::AppendBatchRequest wide;
  for (size_t i = 0; i <= memory::kAppendEntriesMax; ++i) {
    AddEntry("s" + std::to_string(i), 1, 0, {1}, &wide);
  }
  EXPECT_REFUSED(store_->Append(wide).status(), kResourceExhausted, "at most 4096");
  EXPECT_REFUSED(Append("s", epoch_, 0, Count(0, memory::kAppendTokensMax + 1)), kResourceExhausted,
                 "at most 1048576");
}

TEST_F(AppendTest, FailedCommitChangesNothing) {
  ASSERT_TRUE(Append("s", epoch_, 0, {1}).ok());
  ASSERT_TRUE(memory::ArmFailpoints("store.append.before_commit=error").ok());
  EXPECT_FALSE(Append("s", epoch_, 1, {2}).ok());
  ASSERT_TRUE(memory::ArmFailpoints("").ok());
  EXPECT_EQ(Info("s").committed_position(), 1u);
  EXPECT_TRUE(Append("s", epoch_, 1, {3}).ok());
  EXPECT_EQ(Tokens("s"), (std::vector<int32_t>{1, 3}));
}

TEST_F(AppendTest, ReadingBeyondTheEndIsRefused) {
  ASSERT_TRUE(Append("s", epoch_, 0, {1, 2}).ok());
  v1::ReadTokensRequest request;
  request.set_stream_id("s");
  request.set_to(3);
  EXPECT_REFUSED(store_->ReadTokens(request).status(), kOutOfRange, "to: is 3");
  request.set_to(0);
  request.set_from(3);
  EXPECT_REFUSED(store_->ReadTokens(request).status(), kOutOfRange, "from: is 3");
  EXPECT_TRUE(Tokens("s", 2).empty());
}

TEST_F(AppendTest, ReaderSeesOneVersion) {
  ASSERT_TRUE(Append("s", epoch_, 0, Count(0, 3000)).ok());
  v1::ReadTokensRequest request;
  request.set_stream_id("s");
  auto reader = store_->ReadTokens(request);
  ASSERT_TRUE(reader.ok());
  ASSERT_TRUE(Rewind("s", 10).ok());
  ASSERT_TRUE(Append("s", Acquire("s"), 10, Count(100000, 3000)).ok());
  v1::TokenRun run;
  ASSERT_TRUE(*(*reader)->Next(&run));
  EXPECT_EQ(std::vector<int32_t>(run.ids().begin(), run.ids().end()), Count(0, 3000));
}

}  // namespace
}  // namespace lola::store
