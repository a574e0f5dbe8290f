// Children of forks that are copied here from another shard: all or nothing.
#include "tests/memory/store/store_fixture.h"

namespace lola::store {
namespace {

constexpr char kCopy[] = "copy-1";  // request id, and the copier's instance

class UnfinishedTest : public StoreTest {
 protected:
  static v1::CreateStreamRequest CopyRequest() {
    v1::CreateStreamRequest request = CreateRequest("child");
    request.set_request_id(kCopy);
    request.set_parent("far");
    request.set_forked_at(3);
    request.set_unfinished(true);
    return request;
  }
  uint64_t AcquireCopy() {
    v1::AcquireRequest request = AcquireRequest("child", "copier");
    request.set_worker_instance(kCopy);
    auto reply = store_->Acquire(request);
    EXPECT_TRUE(reply.ok()) << reply.status();
    return reply.ok() ? reply->epoch() : 0;
  }
  absl::Status Release(uint64_t epoch, bool finished) {
    v1::ReleaseRequest request;
    request.set_stream_id("child");
    request.set_epoch(epoch);
    request.set_finished(finished);
    return store_->Release(request);
  }
  // Nothing of the child is there: no record, no log, no blob.
  void ExpectGone() {
    ExpectClean();
    EXPECT_REFUSED(store_->Describe("child").status(), kNotFound, "child");
    EXPECT_EQ(store_->Stats().streams, 0u);
    EXPECT_EQ(store_->Stats().log_tokens, 0u);
    EXPECT_TRUE(Files("blobs").empty());
  }
};

TEST_F(UnfinishedTest, OnlyItsCopierSeesItUntilItIsFinished) {
  ASSERT_TRUE(store_->Create(CopyRequest())->unfinished());
  const uint64_t epoch = AcquireCopy();
  ASSERT_TRUE(Append("child", epoch, 0, {1, 2, 3}).ok());
  const auto blob = Put("child", epoch, 2, "state");
  ASSERT_TRUE(blob.ok());
  for (int round = 0; round < 2; ++round) {
    EXPECT_REFUSED(store_->Describe("child").status(), kUnavailable,
                   "\"child\" is being copied from \"far\"");
    EXPECT_EQ(store_->List({})->streams_size(), 0);
    EXPECT_REFUSED(store_->Acquire(AcquireRequest("child", "w")).status(), kUnavailable, "copied");
    v1::AcquireRequest takeover = AcquireRequest("child", "w");
    takeover.set_takeover(true);
    EXPECT_REFUSED(store_->Acquire(takeover).status(), kUnavailable, "copied");
    EXPECT_REFUSED(Fork("child", "other").status(), kUnavailable, "copied");
    EXPECT_REFUSED(Rewind("child", 1).status(), kUnavailable, "copied");
    EXPECT_REFUSED(Get("child", blob->blob_id()).status(), kUnavailable, "copied");
    EXPECT_REFUSED(store_
                       ->ReadTokens([] {
                         v1::ReadTokensRequest request;
                         request.set_stream_id("child");
                         return request;
                       }())
                       .status(),
                   kUnavailable, "copied");
    EXPECT_REFUSED(store_->Create(CreateRequest("child")).status(), kAlreadyExists, kCopy);
    ExpectClean();
    Reopen();
  }
  ASSERT_TRUE(Release(epoch, true).ok());
  EXPECT_TRUE(Release(epoch, true).ok()) << "a retry";
  for (int round = 0; round < 2; ++round) {
    const v1::StreamInfo info = Info("child");
    EXPECT_EQ(info.parent(), "far");
    EXPECT_EQ(info.forked_at(), 3u);
    EXPECT_EQ(info.request_id(), kCopy);
    EXPECT_FALSE(info.unfinished());
    EXPECT_EQ(info.committed_position(), 3u);
    EXPECT_EQ(info.snapshots_size(), 1);
    EXPECT_EQ(store_->List({})->streams_size(), 1);
    clock_.Advance(3'600'000);
    ExpectClean();
    Reopen();
  }
  EXPECT_GT(Acquire("child"), epoch);
  EXPECT_FALSE(store_->Create(CopyRequest())->unfinished()) << "a retry finds it complete";
}

TEST_F(UnfinishedTest, GivenUpLeavesNothing) {
  ASSERT_TRUE(store_->Create(CopyRequest()).ok());
  const uint64_t epoch = AcquireCopy();
  ASSERT_TRUE(Append("child", epoch, 0, {1, 2}).ok());
  ASSERT_TRUE(Put("child", epoch, 2, "state").ok());
  EXPECT_REFUSED(Release(epoch, true), kFailedPrecondition, "ends at 2, its copy at 3");
  ASSERT_TRUE(Release(epoch, false).ok());
  ExpectGone();
}

TEST_F(UnfinishedTest, DeadCopiersLeftoversGoWhenItsLeaseHasRunOut) {
  for (const bool restarted : {false, true}) {
    ASSERT_TRUE(store_->Create(CopyRequest()).ok());
    const uint64_t epoch = AcquireCopy();
    ASSERT_TRUE(Append("child", epoch, 0, {1, 2}).ok());
    ASSERT_TRUE(Put("child", epoch, 2, "state").ok());
    if (restarted) Reopen();
    clock_.Advance(4900);
    ExpectClean();
    EXPECT_EQ(store_->Stats().streams, 1u) << "the lease of 5 s runs";
    clock_.Advance(200);
    ExpectGone();
    EXPECT_REFUSED(Append("child", epoch, 2, {3}), kNotFound, "child");
    EXPECT_REFUSED(Release(epoch, true), kNotFound, "child");
  }
}

TEST_F(UnfinishedTest, ChildThatNobodyOwnsGoesSoon) {
  ASSERT_TRUE(store_->Create(CopyRequest()).ok());
  clock_.Advance(memory::kUnfinishedMsMax - 1);
  ExpectClean();
  EXPECT_EQ(store_->Stats().streams, 1u);
  clock_.Advance(1);
  ExpectGone();
}

TEST_F(UnfinishedTest, RetryTakesOverAndFencesTheFirstCopier) {
  ASSERT_TRUE(store_->Create(CopyRequest()).ok());
  const uint64_t first = AcquireCopy();
  ASSERT_TRUE(Append("child", first, 0, {1, 2}).ok());
  v1::CreateStreamRequest later = CopyRequest();
  later.set_forked_at(9);
  const auto again = store_->Create(later);
  ASSERT_TRUE(again.ok());
  EXPECT_TRUE(again->unfinished());
  EXPECT_EQ(again->forked_at(), 3u) << "the first attempt's";
  const uint64_t second = AcquireCopy();
  EXPECT_REFUSED(Append("child", first, 2, {3}), kAborted, "epoch");
  EXPECT_REFUSED(Release(first, false), kAborted, "epoch");
  ASSERT_TRUE(Append("child", second, 0, {1, 2, 3}).ok());
  ASSERT_TRUE(Release(second, true).ok());
  EXPECT_EQ(Tokens("child"), Count(1, 3));
}

TEST_F(UnfinishedTest, BadCopiesAreRefused) {
  v1::CreateStreamRequest request = CopyRequest();
  request.clear_parent();
  EXPECT_REFUSED(store_->Create(request).status(), kInvalidArgument, "parent: is empty");
  request.set_parent(" x");
  EXPECT_REFUSED(store_->Create(request).status(), kInvalidArgument, "parent");
  request = CopyRequest();
  request.clear_request_id();
  EXPECT_REFUSED(store_->Create(request).status(), kInvalidArgument, "request_id");
  request = CopyRequest();
  request.set_forked_at(memory::kPositionMax + 1);
  EXPECT_REFUSED(store_->Create(request).status(), kInvalidArgument, "forked_at");
}

TEST_F(UnfinishedTest, WhoNeverOwnedItCannotFinishIt) {
  ASSERT_TRUE(store_->Create(CopyRequest()).ok());
  EXPECT_REFUSED(Release(0, true), kAborted, "epoch");
  EXPECT_REFUSED(store_->Describe("child").status(), kUnavailable, "being copied");
}

}  // namespace
}  // namespace lola::store
