// Epochs and leases.
#include "tests/memory/store/store_fixture.h"

namespace lola::store {
namespace {

class OwnershipTest : public StoreTest {
 protected:
  OwnershipTest() { Create("s"); }
};

TEST_F(OwnershipTest, AcquireRaisesTheEpoch) {
  EXPECT_EQ(Acquire("s", "a"), 1u);
  EXPECT_EQ(Acquire("s", "a"), 2u);  // a retry, or the same worker anew
  const v1::StreamInfo info = Info("s");
  EXPECT_EQ(info.owner(), "a");
  EXPECT_EQ(info.owner_epoch(), 2u);
  EXPECT_EQ(info.lease_remaining_ms(), 5000);
}

TEST_F(OwnershipTest, AnOwnerHearsWhatTheOneBeforeComputedWith) {
  const auto acquire = [this](const std::string& worker, const std::string& name) {
    v1::AcquireRequest request = AcquireRequest("s", worker);
    request.set_takeover(true);
    request.set_instruction_class(name);
    const auto reply = store_->Acquire(request);
    EXPECT_TRUE(reply.ok()) << reply.status();
    return reply->previous_instruction_class();
  };
  EXPECT_EQ(acquire("a", "avx2"), "");
  EXPECT_EQ(Info("s").instruction_class(), "avx2");
  EXPECT_EQ(acquire("b", "cuda-sm90"), "avx2");
  // The answer got lost: the same question has the same answer.
  EXPECT_EQ(acquire("b", "cuda-sm90"), "avx2");
  v1::ReleaseRequest release;
  release.set_stream_id("s");
  release.set_epoch(Info("s").owner_epoch());
  ASSERT_TRUE(store_->Release(release).ok());
  EXPECT_EQ(Info("s").instruction_class(), "cuda-sm90");  // still who computed its newest tokens
  EXPECT_EQ(acquire("b", "cuda-sm90"), "cuda-sm90");
  EXPECT_EQ(acquire("old", ""), "cuda-sm90");  // a worker of a release that does not say
  EXPECT_EQ(acquire("a", "avx2"), "");
  v1::AcquireRequest request = AcquireRequest("s", "a");
  request.set_instruction_class(std::string(513, 'x'));
  EXPECT_REFUSED(store_->Acquire(request).status(), kInvalidArgument, "instruction_class");
}

TEST_F(OwnershipTest, RunningLeaseRefusesOthersNamingTheOwner) {
  Acquire("s", "a");
  clock_.Advance(4999);
  const absl::Status refused = store_->Acquire(AcquireRequest("s", "b")).status();
  EXPECT_REFUSED(refused, kFailedPrecondition, "\"a\" for 1 ms more");
  EXPECT_EQ(std::string(*refused.GetPayload(kOwnerPayload)), "a");
  clock_.Advance(1);
  EXPECT_EQ(Acquire("s", "b"), 2u);
}

TEST_F(OwnershipTest, TakeoverIgnoresTheLeaseAndFencesTheOldOwner) {
  const uint64_t old_epoch = Acquire("s", "a");
  v1::AcquireRequest request = AcquireRequest("s", "b");
  request.set_takeover(true);
  const auto reply = store_->Acquire(request);
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->epoch(), old_epoch + 1);
  EXPECT_EQ(store_->Stats().takeovers, 1u);

  EXPECT_REFUSED(Append("s", old_epoch, 0, {1}), kAborted, "the call has 1, stream \"s\" has 2");
  EXPECT_REFUSED(Put("s", old_epoch, 0, "blob").status(), kAborted, "epoch");
  v1::ReleaseRequest release;
  release.set_stream_id("s");
  release.set_epoch(old_epoch);
  EXPECT_REFUSED(store_->Release(release), kAborted, "epoch");
  EXPECT_EQ(store_->Stats().fenced_writes, 3u);
  EXPECT_EQ(Info("s").committed_position(), 0u);
  EXPECT_TRUE(Append("s", reply->epoch(), 0, {1}).ok());
}

TEST_F(OwnershipTest, RenewExtendsAllStreamsOfAnInstance) {
  Create("t");
  Acquire("s", "a");
  Acquire("t", "a");
  clock_.Advance(4000);
  v1::RenewRequest renew;
  renew.set_worker_instance("a-instance");
  renew.set_lease_ms(5000);
  EXPECT_EQ(store_->Renew(renew)->streams(), 2u);
  clock_.Advance(4000);
  EXPECT_FALSE(store_->Acquire(AcquireRequest("s", "b")).ok());
  EXPECT_FALSE(store_->Acquire(AcquireRequest("t", "b")).ok());
  renew.set_worker_instance("nobody");
  EXPECT_EQ(store_->Renew(renew)->streams(), 0u);
  renew.set_lease_ms(1);
  EXPECT_REFUSED(store_->Renew(renew).status(), kInvalidArgument, "lease_ms: is 1");
}

TEST_F(OwnershipTest, ReleasedStreamIsFreeAtOnceAndItsEpochIsOver) {
  const uint64_t epoch = Acquire("s", "a");
  v1::ReleaseRequest release;
  release.set_stream_id("s");
  release.set_epoch(epoch);
  ASSERT_TRUE(store_->Release(release).ok());
  EXPECT_TRUE(store_->Release(release).ok());  // a retry
  EXPECT_EQ(Info("s").owner(), "");
  EXPECT_REFUSED(Append("s", epoch, 0, {1}), kAborted, "owner nobody");
  EXPECT_EQ(Acquire("s", "b"), epoch + 1);
  EXPECT_REFUSED(store_->Release(release), kAborted, "epoch");
}

TEST_F(OwnershipTest, LeasesStartAnewAfterARestart) {
  const uint64_t epoch = Acquire("s", "a");
  clock_.Advance(4000);
  Reopen();
  EXPECT_EQ(Info("s").lease_remaining_ms(), 5000);
  EXPECT_FALSE(store_->Acquire(AcquireRequest("s", "b")).ok());
  EXPECT_TRUE(Append("s", epoch, 0, {1}).ok());
  v1::RenewRequest renew;
  renew.set_worker_instance("a-instance");
  renew.set_lease_ms(5000);
  EXPECT_EQ(store_->Renew(renew)->streams(), 1u);
  clock_.Advance(5000);
  EXPECT_EQ(Acquire("s", "b"), epoch + 1);
}

TEST_F(OwnershipTest, BadRequestsAreRefused) {
  v1::AcquireRequest request = AcquireRequest("s", "a");
  request.set_model_fingerprint("other");
  EXPECT_REFUSED(store_->Acquire(request).status(), kFailedPrecondition,
                 "the call has \"other\", stream \"s\" was made with \"model\"");
  EXPECT_REFUSED(store_->Acquire(AcquireRequest("none", "a")).status(), kNotFound, "none");
  const auto refuse = [&](auto change, const std::string& words) {
    v1::AcquireRequest bad = AcquireRequest("s", "a");
    change(bad);
    EXPECT_REFUSED(store_->Acquire(bad).status(), kInvalidArgument, words);
  };
  refuse([](auto& r) { r.set_worker(""); }, "worker: is empty");
  refuse([](auto& r) { r.set_worker_instance(""); }, "worker_instance");
  refuse([](auto& r) { r.set_lease_ms(0); }, "lease_ms");
  refuse([](auto& r) { r.set_lease_ms(86'400'000); }, "lease_ms");
  EXPECT_EQ(Info("s").owner_epoch(), 0u);
}

}  // namespace
}  // namespace lola::store
