// Fork and rewind.
#include "tests/memory/store/store_fixture.h"

namespace lola::store {
namespace {

class ForkTest : public StoreTest {
 protected:
  ForkTest() {
    Create("s");
    epoch_ = Acquire("s");
    EXPECT_TRUE(Append("s", epoch_, 0, Count(0, 3000)).ok());
  }
  uint64_t epoch_ = 0;
};

TEST_F(ForkTest, ChildSharesThePrefixAndGoesItsOwnWay) {
  const auto child = Fork("s", "child", 2000);
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(child->parent(), "s");
  EXPECT_EQ(child->forked_at(), 2000u);
  EXPECT_EQ(child->committed_position(), 2000u);
  EXPECT_EQ(child->owner(), "");
  EXPECT_NE(child->stream_uid(), Info("s").stream_uid());
  ASSERT_TRUE(Append("child", Acquire("child"), 2000, Count(900'000, 1100)).ok());
  ASSERT_TRUE(Append("s", epoch_, 3000, {3000}).ok());
  std::vector<int32_t> wanted = Count(0, 2000);
  for (const int32_t id : Count(900'000, 1100)) wanted.push_back(id);
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(Tokens("child"), wanted);
    EXPECT_EQ(Tokens("s"), Count(0, 3001));
    ExpectClean();
    Reopen();
  }
}

TEST_F(ForkTest, DefaultsToTheEndAndCopiesSettings) {
  v1::CreateStreamRequest request = CreateRequest("p");
  request.mutable_settings()->set_window(32);
  (*request.mutable_labels())["a"] = "b";
  ASSERT_TRUE(store_->Create(request).ok());
  ASSERT_TRUE(Append("p", Acquire("p"), 0, {1, 2, 3}).ok());
  const auto child = Fork("p", "c");
  EXPECT_EQ(child->committed_position(), 3u);
  EXPECT_EQ(child->settings().window(), 32u);
  EXPECT_EQ(child->labels().at("a"), "b");
  v1::ForkStreamRequest fork;
  fork.set_stream_id("p");
  fork.set_new_stream_id("labelled");
  (*fork.mutable_labels())["c"] = "d";
  const auto labelled = store_->Fork(fork);
  EXPECT_EQ(labelled->labels().size(), 1u);
  EXPECT_EQ(labelled->labels().at("c"), "d");
}

TEST_F(ForkTest, ChildHasTheNewestSnapshotsUpToItsPosition) {
  ASSERT_TRUE(Put("s", epoch_, 500, "a", "first").ok());
  ASSERT_TRUE(Put("s", epoch_, 1000, "b", "second").ok());
  const auto third = Put("s", epoch_, 1500, "c", "third");
  ASSERT_TRUE(Put("s", epoch_, 2500, "d").ok());
  const uint64_t bytes = store_->DescribeShard().blob_bytes();
  const auto child = Fork("s", "child", 2000);
  ASSERT_EQ(child->snapshots_size(), 2);
  EXPECT_EQ(child->snapshots(1).blob_id(), third->blob_id());
  EXPECT_EQ(child->snapshots(1).name(), "");
  EXPECT_EQ(store_->DescribeShard().blob_bytes(), bytes);
  ASSERT_TRUE(store_->Delete("s").ok());
  ExpectClean();
  EXPECT_EQ(*Get("child", third->blob_id()), "c");
  EXPECT_EQ(Files("blobs").size(), 2u);
  EXPECT_EQ(Tokens("child"), Count(0, 2000));
  ASSERT_TRUE(store_->Delete("child").ok());
  ExpectClean();
  EXPECT_TRUE(Files("blobs").empty());
  EXPECT_EQ(store_->Stats().blob_bytes, 0u);
}

TEST_F(ForkTest, RetryIsTheSameChild) {
  const auto child = Fork("s", "child");
  EXPECT_EQ(Fork("s", "child")->stream_uid(), child->stream_uid());
  ASSERT_TRUE(Append("s", epoch_, 3000, {1}).ok());
  EXPECT_EQ(Fork("s", "child")->forked_at(), 3000u) << "where it was made, wherever the end is now";
  EXPECT_EQ(Fork("s", "child", 3000)->stream_uid(), child->stream_uid());
  EXPECT_REFUSED(Fork("s", "child", 2000).status(), kAlreadyExists,
                 "made stream \"child\" at position 3000, not at 2000");
  v1::ForkStreamRequest other;
  other.set_stream_id("s");
  other.set_new_stream_id("child");
  other.set_request_id("another");
  EXPECT_REFUSED(store_->Fork(other).status(), kAlreadyExists, "\"another\"");
}

TEST_F(ForkTest, BadForksAreRefused) {
  EXPECT_REFUSED(Fork("s", "child", 3001).status(), kOutOfRange,
                 "is 3001, stream \"s\" ends at 3000");
  EXPECT_REFUSED(Fork("none", "child").status(), kNotFound, "none");
  EXPECT_REFUSED(Fork("s", "s").status(), kInvalidArgument, "itself");
  EXPECT_REFUSED(Fork("s", " x").status(), kInvalidArgument, "new_stream_id");
  EXPECT_REFUSED(store_->Describe("child").status(), kNotFound, "child");
}

TEST_F(ForkTest, ForksOfForksHaveABoundOnlyWhenEachAddsTokens) {
  std::string id = "s";
  for (int i = 0; i < 20; ++i) {
    const std::string child = "c" + std::to_string(i);
    ASSERT_TRUE(Fork(id, child).ok());
    ASSERT_TRUE(Append(child, Acquire(child), 3000 + uint64_t(i), {3000 + i}).ok());
    id = child;
  }
  EXPECT_EQ(Tokens(id), Count(0, 3020));
  for (int i = 0; i < 19; ++i) ASSERT_TRUE(store_->Delete("c" + std::to_string(i)).ok());
  ASSERT_TRUE(store_->Delete("s").ok());
  ExpectClean();
  EXPECT_EQ(Tokens(id), Count(0, 3020));
}

TEST_F(ForkTest, RewindForgetsWhatCameAfter) {
  ASSERT_TRUE(Put("s", epoch_, 1000, "a", "kept").ok());
  ASSERT_TRUE(Put("s", epoch_, 2000, "b", "gone").ok());
  const auto info = Rewind("s", 1500);
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->committed_position(), 1500u);
  EXPECT_EQ(info->owner(), "");
  EXPECT_EQ(info->owner_epoch(), epoch_ + 1);
  ASSERT_EQ(info->snapshots_size(), 1);
  EXPECT_EQ(info->snapshots(0).name(), "kept");
  EXPECT_REFUSED(Append("s", epoch_, 1500, {1}), kAborted, "epoch");
  ExpectClean();
  ASSERT_TRUE(Append("s", Acquire("s"), 1500, {7, 8}).ok());
  for (int round = 0; round < 2; ++round) {
    std::vector<int32_t> wanted = Count(0, 1500);
    wanted.insert(wanted.end(), {7, 8});
    EXPECT_EQ(Tokens("s"), wanted);
    Reopen();
  }
  EXPECT_EQ(store_->Stats().log_tokens, 1502u);
}

TEST_F(ForkTest, RewindToANamedSnapshot) {
  ASSERT_TRUE(Put("s", epoch_, 1000, "a", "here").ok());
  v1::RewindStreamRequest request;
  request.set_stream_id("s");
  request.set_snapshot_name("nowhere");
  EXPECT_REFUSED(store_->Rewind(request).status(), kNotFound, "nowhere");
  request.set_snapshot_name("");
  EXPECT_FALSE(store_->Rewind(request).ok());
  request.set_snapshot_name("here");
  EXPECT_EQ(store_->Rewind(request)->committed_position(), 1000u);
  request.clear_to();
  EXPECT_REFUSED(store_->Rewind(request).status(), kInvalidArgument, "to:");
  EXPECT_REFUSED(Rewind("s", 1001).status(), kOutOfRange, "is 1001");
}

TEST_F(ForkTest, ASnapshotMayStandForALongerStreamThanItsState) {
  v1::PutSnapshotHeader header = Header("s", epoch_, 1000, 1, "here");
  header.set_state_position(999);
  header.add_instruction_classes("avx2");
  header.add_instruction_classes("cuda-sm90");
  const auto put = Put(header, "a");
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_EQ(put->state_position(), 999u);
  EXPECT_EQ(Put(header, "a")->blob_id(), put->blob_id());  // the same call once more
  ASSERT_TRUE(Fork("s", "child", 1000).ok());
  v1::RewindStreamRequest request;
  request.set_stream_id("s");
  request.set_snapshot_name("here");
  const auto info = store_->Rewind(request);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->committed_position(), 1000u);
  for (const std::string id : {"s", "child"}) {
    ASSERT_EQ(Info(id).snapshots_size(), 1);
    EXPECT_EQ(Info(id).snapshots(0).position(), 1000u);
    EXPECT_EQ(Info(id).snapshots(0).state_position(), 999u);
    ASSERT_EQ(Info(id).snapshots(0).instruction_classes_size(), 2);
    EXPECT_EQ(Info(id).snapshots(0).instruction_classes(1), "cuda-sm90");
  }
}

TEST_F(ForkTest, RewindOfTheParentLeavesTheChildAlone) {
  ASSERT_TRUE(Fork("s", "child", 2500).ok());
  ASSERT_TRUE(Rewind("s", 100).ok());
  ASSERT_TRUE(Append("s", Acquire("s"), 100, {5, 6}).ok());
  EXPECT_EQ(Tokens("child"), Count(0, 2500));
  ASSERT_TRUE(Rewind("child", 50).ok());
  ASSERT_TRUE(Append("child", Acquire("child"), 50, {9}).ok());
  ExpectClean();
  Reopen();
  ExpectClean();
  EXPECT_EQ(Tokens("s").size(), 102u);
  EXPECT_EQ(Tokens("child").size(), 51u);
  EXPECT_EQ(Tokens("child").back(), 9);
}

TEST_F(ForkTest, RewindingAgainAndAgainDoesNotPileUp) {
  for (int i = 0; i < 300; ++i) {
    ASSERT_TRUE(Rewind("s", 2000 + uint64_t(i)).ok()) << i;
    ASSERT_TRUE(Append("s", Acquire("s"), 2000 + uint64_t(i), {1, 2, 3}).ok());
  }
  ASSERT_TRUE(Rewind("s", 0).ok());
  ASSERT_TRUE(Append("s", Acquire("s"), 0, {42}).ok());
  EXPECT_EQ(Tokens("s"), std::vector<int32_t>{42});
  ExpectClean();
}

}  // namespace
}  // namespace lola::store
