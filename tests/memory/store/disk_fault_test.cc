// The disk under the records is full or fails.
#include <atomic>
#include <chrono>
#include <thread>

#include "tests/memory/store/faulty_file_system.h"
#include "tests/memory/store/store_fixture.h"

namespace lola::store {
namespace {

class DiskFaultTest : public StoreTest {
 protected:
  DiskFaultTest() {
    store_.reset();
    options_.record_env = env_.get();
    options_.cache_bytes = 1;  // what is not in a stream's entry is read from the disk
    Reopen();
  }
  ~DiskFaultTest() override {
    store_.reset();  // before its env
    std::filesystem::remove_all(crashed_);
  }

  void AppendWhenThereIsSpace(uint64_t epoch, uint64_t position, const std::vector<int32_t>& ids) {
    absl::Status status = Append("s", epoch, position, ids);
    for (int i = 0; i < 150 && !status.ok(); ++i) {
      EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      status = Append("s", epoch, position, ids);
    }
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(store_->Health().ok()) << store_->Health();
  }
  // The folder as a killed process leaves it, with all that failed writes may have left.
  void ExpectAfterACrash(const std::vector<int32_t>& tokens) {
    std::filesystem::remove_all(crashed_);
    std::filesystem::copy(folder_, crashed_, std::filesystem::copy_options::recursive);
    StoreOptions options = options_;
    options.directory = crashed_;
    options.record_env = nullptr;
    auto crashed = StreamStore::Open(options);
    ASSERT_TRUE(crashed.ok()) << crashed.status();
    store_.swap(*crashed);
    EXPECT_EQ(Tokens("s"), tokens);
    EXPECT_THAT(*store_->Audit(), ::testing::IsEmpty());
    store_.swap(*crashed);
  }

  const std::string crashed_ = folder_ + "_crashed";
  const std::shared_ptr<FaultyFileSystem> disk_ = std::make_shared<FaultyFileSystem>();
  const std::unique_ptr<rocksdb::Env> env_ = rocksdb::NewCompositeEnv(disk_);
};

TEST_F(DiskFaultTest, FullDiskUnderTheRecordsRefusesAndGoesOnWhenSpaceReturns) {
  Create("s");
  const uint64_t epoch = Acquire("s");
  ASSERT_TRUE(Append("s", epoch, 0, {1, 2}).ok());
  disk_->full = true;
  for (int i = 0; i < 3; ++i) {
    EXPECT_REFUSED(Append("s", epoch, 2, {3}), kResourceExhausted, folder_ + "/records");
  }
  EXPECT_REFUSED(store_->Create(CreateRequest("t")).status(), kResourceExhausted, folder_);
  EXPECT_FALSE(Put("s", epoch, 1, "blob").ok());
  EXPECT_EQ(Info("s").committed_position(), 2u);
  EXPECT_EQ(Info("s").snapshots_size(), 0);
  EXPECT_EQ(Tokens("s"), (std::vector<int32_t>{1, 2}));
  disk_->full = false;
  AppendWhenThereIsSpace(epoch, 2, {3});
  ExpectClean();
  EXPECT_TRUE(Files("blobs").empty());
  ExpectAfterACrash({1, 2, 3});
  Reopen();
  EXPECT_EQ(Tokens("s"), (std::vector<int32_t>{1, 2, 3}));
}

// The first writes after a start, or after a recovery, meet empty memory tables: left to itself,
// RocksDB would not begin a new log behind the half record that the full disk took.
TEST_F(DiskFaultTest, WritesTornByAFullDiskLoseNothingHoweverEarlyTheyCome) {
  Create("s");
  ASSERT_TRUE(Append("s", Acquire("s"), 0, {1, 2}).ok());
  Reopen();
  const uint64_t epoch = Info("s").owner_epoch();
  disk_->tears = true;
  for (int32_t end = 2; end < 5; ++end) {
    disk_->full = true;
    EXPECT_REFUSED(Append("s", epoch, uint64_t(end), Count(900, 500)), kResourceExhausted, folder_);
    disk_->full = false;
    AppendWhenThereIsSpace(epoch, uint64_t(end), {end + 1});
    if (end == 3) Reopen();
  }
  ASSERT_TRUE(Append("s", epoch, 5, {6, 7}).ok());
  EXPECT_EQ(Tokens("s"), Count(1, 7));
  ExpectAfterACrash(Count(1, 7));
  Reopen();
  EXPECT_EQ(Tokens("s"), Count(1, 7));
}

// A write whose sync failed is not acknowledged; the disk may have it all the same.
TEST_F(DiskFaultTest, AFailedSyncIsNotAcknowledgedAndLosesNothing) {
  Create("s");
  const uint64_t epoch = Acquire("s");
  std::vector<int32_t> tokens = {1};
  ASSERT_TRUE(Append("s", epoch, 0, tokens).ok());
  for (int round = 0; round < 4; ++round) {
    if (round % 2 == 0) Reopen();
    disk_->sync_fails = true;
    EXPECT_TRUE(store_->Health().ok());
    EXPECT_REFUSED(Append("s", epoch, tokens.size(), {7, 8, 9}), kUnavailable, "While syncing");
    EXPECT_EQ(Tokens("s"), tokens);
    disk_->sync_fails = false;
    // RocksDB trusts nothing after that, and is right: the store asks to be opened anew.
    EXPECT_REFUSED(Append("s", epoch, tokens.size(), {5}), kUnavailable, "While syncing");
    EXPECT_REFUSED(store_->Health(), kUnavailable, folder_ + "/records");
    EXPECT_EQ(Tokens("s"), tokens);
    EXPECT_GT(store_->Stats().commit_failures, 0u);
    std::vector<int32_t> refused = tokens;
    refused.insert(refused.end(), {7, 8, 9});
    Reopen();
    const std::vector<int32_t> now = Tokens("s");
    EXPECT_TRUE(now == tokens || now == refused) << ::testing::PrintToString(now);
    ExpectClean();
    tokens = now;
    ASSERT_TRUE(Append("s", epoch, tokens.size(), {6}).ok());
    tokens.push_back(6);
  }
}

TEST_F(DiskFaultTest, AStreamThatCannotBeReadDoesNotKeepTheOthersFromWriting) {
  for (const char* id : {"s", "t", "u"}) Create(id);
  for (const char* id : {"s", "t", "u"}) ASSERT_EQ(Acquire(id), 1u);
  Reopen();  // from here on records are in tables, not in memory
  for (const char* id : {"s", "u"}) (void)Info(id);
  disk_->read_fails = true;
  v1::AppendBatchRequest request;
  for (const char* id : {"s", "t", "u"}) AddEntry(id, 1, 0, {1, 2}, &request);
  const auto reply = store_->Append(request);
  disk_->read_fails = false;
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->results(0).code(), 0) << reply->results(0).message();
  EXPECT_NE(reply->results(1).code(), 0);
  EXPECT_THAT(reply->results(1).message(), ::testing::HasSubstr("Input/output error"));
  EXPECT_EQ(reply->results(2).code(), 0) << reply->results(2).message();
  EXPECT_EQ(Tokens("s"), Count(1, 2));
  EXPECT_EQ(Tokens("u"), Count(1, 2));
  EXPECT_TRUE(Append("t", 1, 0, {1, 2}).ok());
}

}  // namespace
}  // namespace lola::store
