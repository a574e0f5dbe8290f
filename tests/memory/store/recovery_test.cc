// Damage below the store, and a full disk under the records.
#include <algorithm>
#include <atomic>
#include <thread>

#include "rocksdb/env.h"
#include "rocksdb/file_system.h"
#include "tests/memory/store/store_fixture.h"

namespace lola::store {
namespace {

// The last file of the records folder that ends so, by name.
std::string LastFile(const std::string& folder, const std::string& ending) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path();
    if (name.size() > ending.size() &&
        name.compare(name.size() - ending.size(), ending.size(), ending) == 0 &&
        entry.file_size() > 0) {
      names.push_back(name);
    }
  }
  std::sort(names.begin(), names.end());
  return names.empty() ? "" : names.back();
}

void FlipBit(const std::string& path, uint64_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(std::streamoff(at));
  const char byte = char(file.get() ^ 1);
  file.seekp(std::streamoff(at));
  file.put(byte);
}

class RecoveryTest : public StoreTest {
 protected:
  void Fill(int streams) {
    for (int i = 0; i < streams; ++i) {
      const std::string id = "s" + std::to_string(i);
      Create(id);
      ASSERT_TRUE(Append(id, Acquire(id), 0, Count(0, 500)).ok());
    }
  }
  // What a process that was killed leaves: the folder as it is while the store is open.
  void CopyToCrashed() {
    std::filesystem::remove_all(crashed_);
    std::filesystem::copy(folder_, crashed_, std::filesystem::copy_options::recursive);
    crashed_options_ = options_;
    crashed_options_.directory = crashed_;
  }
  ~RecoveryTest() override {
    store_.reset();  // before its env
    std::filesystem::remove_all(crashed_);
  }

  const std::string crashed_ = folder_ + "_crashed";
  StoreOptions crashed_options_;
  std::unique_ptr<rocksdb::Env> env_;
};

TEST_F(RecoveryTest, FlippedBitInTheLogOfWritesIsRefusedByName) {
  Fill(10);
  CopyToCrashed();
  const std::string wal = LastFile(crashed_ + "/records", ".log");
  ASSERT_NE(wal, "");
  FlipBit(wal, std::filesystem::file_size(wal) / 2);
  EXPECT_REFUSED(StreamStore::Open(crashed_options_).status(), kDataLoss, crashed_ + "/records");
}

TEST_F(RecoveryTest, TornLastWriteIsTheOnlyThingLost) {
  Fill(3);
  CopyToCrashed();
  const std::string wal = LastFile(crashed_ + "/records", ".log");
  std::filesystem::resize_file(wal, std::filesystem::file_size(wal) - 5);
  auto store = StreamStore::Open(crashed_options_);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->Describe("s1")->committed_position(), 500u);
  EXPECT_EQ((*store)->Describe("s2")->committed_position(), 0u);
  EXPECT_TRUE((*store)->Audit()->empty());
}

TEST_F(RecoveryTest, DamagedTableIsRefusedByName) {
  Fill(10);
  Reopen();  // recovery turns the log of writes into a table
  store_.reset();
  const std::string table = LastFile(folder_ + "/records", ".sst");
  ASSERT_NE(table, "");
  FlipBit(table, std::filesystem::file_size(table) / 3);
  auto store = StreamStore::Open(options_);
  absl::Status status = store.status();
  if (store.ok()) status = (*store)->Audit().status();
  EXPECT_REFUSED(status, kDataLoss, folder_);
  std::filesystem::remove(LastFile(folder_ + "/records", ".sst"));
  store = absl::CancelledError();
  EXPECT_EQ(StreamStore::Open(options_).status().code(), absl::StatusCode::kDataLoss);
}

// Answers "no space" to every append while `full`.
class FullFileSystem : public rocksdb::FileSystemWrapper {
 public:
  FullFileSystem() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}
  const char* Name() const override { return "FullFileSystem"; }

  rocksdb::IOStatus NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* debug) override {
    std::unique_ptr<rocksdb::FSWritableFile> base;
    rocksdb::IOStatus status = target()->NewWritableFile(path, options, &base, debug);
    if (status.ok()) *file = std::make_unique<File>(*this, path, std::move(base));
    return status;
  }

  std::atomic<bool> full{false};

 private:
  class File : public rocksdb::FSWritableFileOwnerWrapper {
   public:
    File(FullFileSystem& owner, std::string path, std::unique_ptr<rocksdb::FSWritableFile> base)
        : FSWritableFileOwnerWrapper(std::move(base)), owner_(owner), path_(std::move(path)) {}
    rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* debug) override {
      if (owner_.full) return rocksdb::IOStatus::NoSpace("While appending to " + path_);
      return FSWritableFileOwnerWrapper::Append(data, options, debug);
    }
    rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                             const rocksdb::DataVerificationInfo& info,
                             rocksdb::IODebugContext* debug) override {
      if (owner_.full) return rocksdb::IOStatus::NoSpace("While appending to " + path_);
      return FSWritableFileOwnerWrapper::Append(data, options, info, debug);
    }

   private:
    FullFileSystem& owner_;
    const std::string path_;
  };
};

TEST_F(RecoveryTest, FullDiskUnderTheRecordsRefusesAndGoesOnWhenSpaceReturns) {
  const auto full = std::make_shared<FullFileSystem>();
  env_ = rocksdb::NewCompositeEnv(full);
  store_.reset();
  options_.record_env = env_.get();
  Reopen();
  Create("s");
  const uint64_t epoch = Acquire("s");
  ASSERT_TRUE(Append("s", epoch, 0, {1, 2}).ok());
  full->full = true;
  for (int i = 0; i < 3; ++i) {
    EXPECT_REFUSED(Append("s", epoch, 2, {3}), kResourceExhausted, folder_ + "/records");
  }
  EXPECT_REFUSED(store_->Create(CreateRequest("t")).status(), kResourceExhausted, folder_);
  EXPECT_FALSE(Put("s", epoch, 1, "blob").ok());
  EXPECT_EQ(Info("s").committed_position(), 2u);
  EXPECT_EQ(Info("s").snapshots_size(), 0);
  EXPECT_EQ(Tokens("s"), (std::vector<int32_t>{1, 2}));
  full->full = false;
  absl::Status status = Append("s", epoch, 2, {3});
  for (int i = 0; i < 150 && !status.ok(); ++i) {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    status = Append("s", epoch, 2, {3});
  }
  ASSERT_TRUE(status.ok()) << status;
  ExpectClean();
  EXPECT_TRUE(Files("blobs").empty());
  CopyToCrashed();  // with all that the failed writes may have left
  crashed_options_.record_env = nullptr;
  auto crashed = StreamStore::Open(crashed_options_);
  ASSERT_TRUE(crashed.ok()) << crashed.status();
  EXPECT_EQ((*crashed)->Describe("s")->committed_position(), 3u);
  EXPECT_TRUE((*crashed)->Audit()->empty());
  Reopen();
  EXPECT_EQ(Tokens("s"), (std::vector<int32_t>{1, 2, 3}));
}

}  // namespace
}  // namespace lola::store
