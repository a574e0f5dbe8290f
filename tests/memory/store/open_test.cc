// Opening: folders that must be durable, records that cannot belong together.
#include <set>

#include "memory/store/keys.h"
#include "memory/store/record_db.h"
#include "rocksdb/write_batch.h"
#include "tests/memory/store/store_fixture.h"

namespace lola::store {
namespace {

class OpenTest : public StoreTest {
 protected:
  // Folders synced while a store is opened at `directory`.
  std::set<std::string> SyncedByOpening(const std::string& directory) {
    std::set<std::string> synced;
    files_.SetFault([&](std::string_view step, const std::string& path) {
      if (step == "sync_folder") synced.insert((std::filesystem::path(path) / "").lexically_normal());
      return absl::OkStatus();
    });
    StoreOptions options = options_;
    options.directory = directory;
    auto store = StreamStore::Open(options);
    EXPECT_TRUE(store.ok()) << store.status();
    files_.SetFault(nullptr);
    return synced;
  }
};

TEST_F(OpenTest, EveryFolderThatIsMadeIsSyncedIntoItsParent) {
  const std::set<std::string> synced = SyncedByOpening(folder_ + "/a/b/c");
  for (const char* parent : {"/", "/a/", "/a/b/", "/a/b/c/"}) {
    EXPECT_TRUE(synced.count(folder_ + parent) > 0) << parent;
  }
}

TEST_F(OpenTest, ASlashAtTheEndHidesNoParent) {
  const std::set<std::string> synced = SyncedByOpening(folder_ + "/d//");
  EXPECT_TRUE(synced.count(folder_ + "/") > 0);
  EXPECT_TRUE(synced.count(folder_ + "/d/") > 0);
}

TEST_F(OpenTest, ALogIdTheStoreNeverGaveOutIsRefused) {
  Create("s");
  ASSERT_TRUE(Append("s", Acquire("s"), 0, {1, 2, 3}).ok());
  store_.reset();
  {
    // A store record that was lost: opened as if new, it would give out the ids of logs in use.
    auto db = RecordDb::Open(folder_ + "/records", 1 << 20, nullptr);
    ASSERT_TRUE(db.ok()) << db.status();
    rocksdb::WriteBatch batch;
    batch.Delete(StoreKey());
    ASSERT_TRUE((*db)->Commit(&batch, true).ok());
  }
  EXPECT_REFUSED(StreamStore::Open(options_).status(), kDataLoss, "\"s\"");
}

}  // namespace
}  // namespace lola::store
