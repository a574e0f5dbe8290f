// Damage below the store.
#include <algorithm>

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
  ~RecoveryTest() override { std::filesystem::remove_all(crashed_); }

  const std::string crashed_ = folder_ + "_crashed";
  StoreOptions crashed_options_;
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

}  // namespace
}  // namespace lola::store
