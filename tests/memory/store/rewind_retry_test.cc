// A rewind that comes twice cuts once.
#include "tests/memory/store/store_fixture.h"

namespace lola::store {
namespace {

class RewindRetryTest : public StoreTest {
 protected:
  RewindRetryTest() {
    Create("s");
    const uint64_t epoch = Acquire("s");
    EXPECT_TRUE(Append("s", epoch, 0, Count(0, 100)).ok());
    EXPECT_TRUE(Put("s", epoch, 40, "a", "forty").ok());
  }
  static v1::RewindStreamRequest Request(const std::string& id, uint64_t position) {
    v1::RewindStreamRequest request;
    request.set_stream_id("s");
    request.set_position(position);
    request.set_request_id(id);
    return request;
  }
};

TEST_F(RewindRetryTest, LateDuplicateCutsNothingAndAnswersWhatTheFirstDid) {
  auto first = store_->Rewind(Request("r1", 50));
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->committed_position(), 50u);
  const uint64_t epoch = Acquire("s");
  ASSERT_TRUE(Append("s", epoch, 50, Count(700, 30)).ok());
  ASSERT_TRUE(Put("s", epoch, 70, "later").ok());
  for (int round = 0; round < 2; ++round) {
    auto again = store_->Rewind(Request("r1", 50));
    ASSERT_TRUE(again.ok()) << again.status();
    first->clear_last_used_unix_ms();
    again->clear_last_used_unix_ms();
    EXPECT_EQ(again->SerializeAsString(), first->SerializeAsString());
    const v1::StreamInfo now = Info("s");
    EXPECT_EQ(now.committed_position(), 80u);
    EXPECT_EQ(now.owner_epoch(), epoch) << "the owner goes on";
    EXPECT_EQ(now.owner(), "worker");
    EXPECT_EQ(now.snapshots_size(), 2);
    EXPECT_EQ(Tokens("s", 50), Count(700, 30));
    EXPECT_TRUE(Append("s", epoch, 70, Count(720, 10)).ok());
    ExpectClean();
    Reopen();
  }
  EXPECT_EQ(store_->Rewind(Request("r2", 50))->committed_position(), 50u) << "another one cuts";
  EXPECT_EQ(Tokens("s").size(), 50u);
}

TEST_F(RewindRetryTest, NamedSnapshotsAreRememberedByName) {
  v1::RewindStreamRequest request;
  request.set_stream_id("s");
  request.set_snapshot_name("forty");
  request.set_request_id("r");
  ASSERT_TRUE(store_->Rewind(request).ok());
  ASSERT_TRUE(Append("s", Acquire("s"), 40, {1, 2}).ok());
  EXPECT_EQ(store_->Rewind(request)->committed_position(), 40u);
  EXPECT_EQ(Info("s").committed_position(), 42u);
  EXPECT_REFUSED(store_->Rewind(Request("r", 40)).status(), kAlreadyExists,
                 "\"r\" rewound stream \"s\" to snapshot \"forty\" at 40, not to 40");
}

TEST_F(RewindRetryTest, SameIdForAnotherTargetIsRefused) {
  ASSERT_TRUE(store_->Rewind(Request("r", 50)).ok());
  EXPECT_REFUSED(store_->Rewind(Request("r", 49)).status(), kAlreadyExists, "to position 50");
  EXPECT_EQ(Info("s").committed_position(), 50u);
  EXPECT_REFUSED(store_->Rewind(Request(std::string(129, 'x'), 1)).status(), kInvalidArgument,
                 "request_id");
}

TEST_F(RewindRetryTest, AFailedOneIsNotRemembered) {
  EXPECT_REFUSED(store_->Rewind(Request("r", 101)).status(), kOutOfRange, "is 101");
  EXPECT_TRUE(store_->Rewind(Request("r", 60)).ok());
  EXPECT_EQ(Tokens("s").size(), 60u);
}

TEST_F(RewindRetryTest, TheNewestIdsAreKnownAndListed) {
  for (uint64_t i = 0; i < memory::kRewindIdsKept + 3; ++i) {
    ASSERT_TRUE(store_->Rewind(Request("r" + std::to_string(i), 90 - i)).ok());
  }
  const v1::StreamInfo info = Info("s");
  ASSERT_EQ(size_t(info.rewinds_size()), memory::kRewindIdsKept);
  EXPECT_EQ(info.rewinds(0).request_id(), "r3");
  EXPECT_EQ(info.rewinds(0).position(), 87u);
  ASSERT_TRUE(Append("s", Acquire("s"), 90 - 18, Count(0, 50)).ok());
  EXPECT_EQ(store_->Rewind(Request("r3", 87))->committed_position(), 87u);
  EXPECT_EQ(Tokens("s").size(), 122u);
  EXPECT_EQ(Fork("s", "child")->rewinds_size(), 0) << "a child has its own history";
}

}  // namespace
}  // namespace lola::store
