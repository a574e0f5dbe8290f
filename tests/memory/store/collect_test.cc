// Delete, expiry, collection.
#include <algorithm>

#include "tests/memory/store/store_fixture.h"

namespace lola::store {
namespace {

class CollectTest : public StoreTest {
 protected:
  v1::StreamInfo CreateWithTtl(const std::string& id, int64_t ttl_ms) {
    v1::CreateStreamRequest request = CreateRequest(id);
    request.set_ttl_ms(ttl_ms);
    auto info = store_->Create(request);
    EXPECT_TRUE(info.ok());
    return *info;
  }
  bool Exists(const std::string& id) { return store_->Describe(id).ok(); }
  void Collect() { ASSERT_TRUE(store_->CollectNow().ok()); }
};

TEST_F(CollectTest, DeletedStreamLeavesNothing) {
  Create("s");
  const uint64_t epoch = Acquire("s");
  ASSERT_TRUE(Append("s", epoch, 0, Count(0, 5000)).ok());
  ASSERT_TRUE(Put("s", epoch, 10, "x", "named").ok());
  ASSERT_TRUE(Put("s", epoch, 20, "y").ok());
  ASSERT_TRUE(store_->Delete("s").ok());
  EXPECT_REFUSED(store_->Delete("s"), kNotFound, "\"s\"");
  EXPECT_REFUSED(Append("s", epoch, 5000, {1}), kNotFound, "\"s\"");
  ExpectClean();
  EXPECT_TRUE(Files("blobs").empty());
  const StoreStats stats = store_->Stats();
  EXPECT_EQ(stats.streams, 0u);
  EXPECT_EQ(stats.log_tokens, 0u);
  EXPECT_EQ(stats.owned_streams, 0u);
  EXPECT_EQ(stats.collected_blobs, 2u);
  EXPECT_EQ(stats.collected_logs, 1u);
}

TEST_F(CollectTest, SnapshotBeingReadSurvivesItsDeletion) {
  Create("s");
  const auto info = Put("s", Acquire("s"), 0, std::string(5000, 'x'));
  v1::GetSnapshotRequest request;
  request.set_stream_id("s");
  request.set_blob_id(info->blob_id());
  auto download = store_->GetSnapshot(request);
  ASSERT_TRUE(store_->Delete("s").ok());
  Collect();
  std::string bytes, piece;
  do {
    ASSERT_TRUE((*download)->Next(100, &piece).ok());
    bytes += piece;
  } while (!piece.empty());
  EXPECT_EQ(bytes, std::string(5000, 'x'));
}

TEST_F(CollectTest, TailOfASharedLogGoesWithItsWriter) {
  Create("s");
  ASSERT_TRUE(Append("s", Acquire("s"), 0, Count(0, 50'000)).ok());
  ASSERT_TRUE(Fork("s", "child", 1500).ok());
  ASSERT_TRUE(store_->Delete("s").ok());
  ExpectClean();
  EXPECT_EQ(Tokens("child"), Count(0, 1500));
  ASSERT_TRUE(Rewind("child", 1400).ok());  // now the only reader: writes on in the old log
  ASSERT_TRUE(Append("child", Acquire("child"), 1400, {7}).ok());
  Reopen();
  EXPECT_EQ(Info("child").committed_position(), 1401u);
  ExpectClean();
}

TEST_F(CollectTest, UnusedStreamExpires) {
  CreateWithTtl("s", 10'000);
  CreateWithTtl("for-ever", 0);
  clock_.Advance(9'999);
  Collect();
  EXPECT_TRUE(Exists("s"));
  clock_.Advance(1);
  Collect();
  EXPECT_FALSE(Exists("s"));
  EXPECT_TRUE(Exists("for-ever"));
  EXPECT_EQ(store_->Stats().expired_streams, 1u);
  ExpectClean();
}

TEST_F(CollectTest, UseAndRunningLeasesPutExpiryOff) {
  CreateWithTtl("s", 10'000);
  clock_.Advance(8'000);
  const uint64_t epoch = Acquire("s");
  clock_.Advance(4'000);
  ASSERT_TRUE(Append("s", epoch, 0, {1}).ok());
  clock_.Advance(9'000);
  Collect();
  EXPECT_TRUE(Exists("s"));
  clock_.Advance(1'000);
  v1::RenewRequest renew;
  renew.set_worker_instance("worker-instance");
  renew.set_lease_ms(5'000);
  ASSERT_EQ(store_->Renew(renew)->streams(), 1u);
  Collect();
  EXPECT_TRUE(Exists("s"));
  clock_.Advance(15'000);  // from the end of the lease on
  Collect();
  EXPECT_FALSE(Exists("s"));
}

TEST_F(CollectTest, ALeaseCountsAsUseUpToItsEndWheneverThatIsLookedAt) {
  CreateWithTtl("s", 10'000);
  Acquire("s");
  v1::RenewRequest renew;
  renew.set_worker_instance("worker-instance");
  renew.set_lease_ms(5'000);
  for (int i = 0; i < 2; ++i) {
    clock_.Advance(4'000);
    ASSERT_EQ(store_->Renew(renew)->streams(), 1u);
  }
  clock_.Advance(6'000);  // the owner died; its lease ran out a second ago
  Collect();
  EXPECT_TRUE(Exists("s"));
  clock_.Advance(9'000 - 1);
  Collect();
  EXPECT_TRUE(Exists("s"));
  clock_.Advance(1);
  Collect();
  EXPECT_FALSE(Exists("s"));
}

TEST_F(CollectTest, RestartNeverExpiresEarly) {
  CreateWithTtl("s", 160'000);
  const uint64_t epoch = Acquire("s");
  clock_.Advance(9'000);  // below the lag after which an append stores the time of use
  ASSERT_TRUE(Append("s", epoch, 0, {1}).ok());
  Reopen();
  clock_.Advance(160'000 - 1);
  Collect();
  EXPECT_TRUE(Exists("s"));
  clock_.Advance(10'001);
  Collect();
  EXPECT_FALSE(Exists("s"));
}

TEST_F(CollectTest, BackgroundRoundsCollect) {
  store_.reset();
  options_.collect_every_ms = 1;
  Reopen();
  CreateWithTtl("s", 1'000);
  clock_.Advance(1'000);
  for (int i = 0; i < 5'000 && Exists("s"); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_FALSE(Exists("s"));
}

TEST_F(CollectTest, FailedRoundIsDoneAgain) {
  Create("s");
  ASSERT_TRUE(Put("s", Acquire("s"), 0, "x").ok());
  ASSERT_TRUE(store_->Delete("s").ok());
  files_.SetFault([](std::string_view step, const std::string& path) {
    return step == "remove" ? absl::InternalError(path) : absl::OkStatus();
  });
  EXPECT_FALSE(store_->CollectNow().ok());
  EXPECT_EQ(Files("blobs").size(), 1u);
  files_.SetFault(nullptr);
  ExpectClean();
  EXPECT_TRUE(Files("blobs").empty());
}

TEST_F(CollectTest, WhatCannotBeRemovedDoesNotKeepTheRest) {
  std::vector<std::string> blobs;
  for (const char* id : {"a", "b"}) {
    Create(id);
    const uint64_t epoch = Acquire(id);
    ASSERT_TRUE(Append(id, epoch, 0, Count(0, 10)).ok());
    blobs.push_back(Put(id, epoch, 0, "x")->blob_id());
    ASSERT_TRUE(store_->Delete(id).ok());
  }
  std::sort(blobs.begin(), blobs.end());  // the order they are met in
  files_.SetFault([&](std::string_view step, const std::string& path) {
    const bool stuck = step == "remove" && path.ends_with(blobs[0]);
    return stuck ? absl::InternalError(path + ": Operation not permitted") : absl::OkStatus();
  });
  EXPECT_REFUSED(store_->CollectNow(), kInternal, blobs[0]);
  EXPECT_EQ(Files("blobs"), std::vector<std::string>{blobs[0]});
  EXPECT_EQ(store_->Stats().collected_logs, 2u);
  files_.SetFault(nullptr);
  ExpectClean();
  EXPECT_TRUE(Files("blobs").empty());
}

TEST_F(CollectTest, StartRemovesStagedAndUnlistedFiles) {
  store_.reset();
  ASSERT_TRUE(memory::WriteWholeFile(files_, folder_ + "/tmp/half", "x").ok());
  ASSERT_TRUE(memory::WriteWholeFile(files_, folder_ + "/blobs/unlisted", "x").ok());
  Reopen();
  EXPECT_TRUE(Files("tmp").empty());
  EXPECT_TRUE(Files("blobs").empty());
}

}  // namespace
}  // namespace lola::store
