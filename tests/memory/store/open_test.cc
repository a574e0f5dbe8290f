// Opening: folders that must be durable, records that cannot belong together.
#include <set>

#include "memory/store/keys.h"
#include "memory/store/record_db.h"
#include "memory/store/stream_entry.h"
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
      if (step == "sync_folder")
        synced.insert((std::filesystem::path(path) / "").lexically_normal());
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

TEST_F(OpenTest, TimesThatNobodyCanHaveSetAreRefusedByName) {
  Create("s");
  store_.reset();
  auto db = RecordDb::Open(folder_ + "/records", 1 << 20, nullptr);
  ASSERT_TRUE(db.ok()) << db.status();
  const auto good = (*db)->Get(StreamKey("s"));
  ASSERT_TRUE(good.ok()) << good.status();
  const std::pair<const char*, void (*)(record::v1::StreamRecord&)> bad[] = {
      {"ttl_ms is 9223372036854775807", [](auto& r) { r.set_ttl_ms(INT64_MAX); }},
      {"ttl_ms is -1", [](auto& r) { r.set_ttl_ms(-1); }},
      {"lease_ms is 9223372036854775807", [](auto& r) { r.set_lease_ms(INT64_MAX); }},
      {"last_used is 9223372036854775807", [](auto& r) { r.set_last_used_unix_ms(INT64_MAX); }},
  };
  for (const auto& [words, damage] : bad) {
    record::v1::StreamRecord record;
    ASSERT_TRUE(record.ParseFromString(*good));
    damage(record);
    EXPECT_REFUSED(ParseRecord("s", record.SerializeAsString()).status(), kDataLoss, words);
  }
  EXPECT_TRUE(ParseRecord("s", *good).ok());
}

// A path may hold the name of RocksDB's lock file: an error is not an occupied folder for that.
TEST_F(OpenTest, AFolderNamedLikeTheLockIsNotInUse) {
  auto db = RecordDb::Open(folder_ + "/BLOCK/records", 1 << 20, nullptr);
  EXPECT_FALSE(db.ok());  // its parent is not there
  EXPECT_NE(db.status().code(), absl::StatusCode::kFailedPrecondition) << db.status();
}

}  // namespace
}  // namespace lola::store
