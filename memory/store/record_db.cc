#include "memory/store/record_db.h"

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "memory/store/keys.h"
#include "rocksdb/cache.h"
#include "rocksdb/filter_policy.h"
#include "rocksdb/listener.h"
#include "rocksdb/options.h"
#include "rocksdb/table.h"

namespace lola::store {
namespace {

constexpr char kLogFamily[] = "log";

rocksdb::DBOptions MakeOptions(rocksdb::Env* env) {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.paranoid_checks = true;
  // A torn last record is a write that was never acknowledged. Damage before it is lost data: the
  // default mode would cut off acknowledged writes there without a word.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.track_and_verify_wals_in_manifest = true;
  options.max_total_wal_size = 64u << 20;
  options.max_open_files = 1000;
  options.info_log_level = rocksdb::InfoLogLevel::WARN_LEVEL;
  options.max_log_file_size = 4u << 20;
  options.keep_log_file_num = 4;
  options.avoid_flush_during_shutdown = true;  // what is not in the log of writes is padding
  if (env != nullptr) options.env = env;
  return options;
}

rocksdb::ColumnFamilyOptions FamilyOptions(const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.cache_index_and_filter_blocks = true;
  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.write_buffer_size = 16u << 20;
  options.compression = rocksdb::kLZ4Compression;
  return options;
}

}  // namespace

// Notes that a memory table was put away to be flushed, so that a new and empty one took its place.
class RecordDb::SealListener : public rocksdb::EventListener {
 public:
  explicit SealListener(RecordDb& db) : db_(db) {}
  void OnMemTableSealed(const rocksdb::MemTableInfo&) override { db_.sealed_.store(true); }

 private:
  RecordDb& db_;
};

absl::StatusOr<std::unique_ptr<RecordDb>> RecordDb::Open(const std::string& folder,
                                                         size_t cache_bytes, rocksdb::Env* env) {
  const auto cache = rocksdb::NewLRUCache(cache_bytes);
  const rocksdb::ColumnFamilyOptions main_options = FamilyOptions(cache);
  rocksdb::ColumnFamilyOptions log_options = FamilyOptions(cache);
  log_options.merge_operator = TokenBlockMerge();
  // Single-token appends pile up in one block while a model decodes: join them as they come.
  log_options.max_successive_merges = 64;
  std::unique_ptr<RecordDb> db(new RecordDb(folder));
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DBOptions options = MakeOptions(env);
  options.listeners.push_back(std::make_shared<SealListener>(*db));
  const rocksdb::Status status = rocksdb::DB::Open(
      options, folder,
      {{rocksdb::kDefaultColumnFamilyName, main_options}, {kLogFamily, log_options}}, &handles,
      &db->db_);
  if (!status.ok()) return db->ToStatus(status);
  db->main_family_ = handles[0];
  db->log_family_ = handles[1];
  if (const rocksdb::Status padded = db->PadTables(); !padded.ok()) return db->ToStatus(padded);
  return db;
}

RecordDb::~RecordDb() {
  if (db_ == nullptr) return;
  (void)db_->DestroyColumnFamilyHandle(main_family_);
  (void)db_->DestroyColumnFamilyHandle(log_family_);
  (void)db_->Close();
  delete db_;
}

absl::Status RecordDb::ToStatus(const rocksdb::Status& status) const {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat(
      folder_, ": ", status.IsBusy() ? "recovering from a full disk: " : "", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(message);
  if (status.IsCorruption()) return absl::DataLossError(message);
  // Busy: RocksDB waits for space on its own thread and looks every five seconds.
  if (status.IsNoSpace() || status.IsBusy() ||
      absl::StrContains(message, "No space left on device")) {
    return absl::ResourceExhaustedError(message);
  }
  if (status.IsIOError() && absl::StrContains(status.ToString(), folder_ + "/LOCK")) {
    return absl::FailedPreconditionError(
        absl::StrCat(folder_, ": in use by another process: ", status.ToString()));
  }
  return absl::InternalError(message);
}

// A write that failed leaves the log of writes unusable. RocksDB goes on in a new one when it has a
// memory table to flush; with empty tables, as after a start, it would write behind the half
// record, and its own check ends the process for that. So there is always something in a table: a
// key that nobody reads, written past the log.
rocksdb::Status RecordDb::PadTables() {
  if (!sealed_.exchange(false)) return rocksdb::Status::OK();
  rocksdb::WriteOptions options;
  options.disableWAL = true;
  const rocksdb::Status status = db_->Put(options, main_family_, ToSlice(PaddingKey()), "");
  if (!status.ok()) sealed_.store(true);
  return status;
}

// As ToStatus, for a write: what a failing disk did to it, only the same call later can tell.
absl::Status RecordDb::WriteStatus(const rocksdb::Status& status) const {
  absl::Status result = ToStatus(status);
  return absl::IsInternal(result) ? absl::UnavailableError(result.message()) : result;
}

absl::Status RecordDb::health() const {
  std::lock_guard lock(recover_mu_);
  return health_;
}

absl::Status RecordDb::Recover() {
  std::lock_guard lock(recover_mu_);
  if (!failed_.load()) return absl::OkStatus();  // somebody else did
  // "Nothing to recover from" is an OK too.
  rocksdb::Status status = db_->Resume();
  if (status.ok()) status = PadTables();
  if (!status.ok()) {
    if (status.severity() >= rocksdb::Status::kFatalError) health_ = WriteStatus(status);
    return WriteStatus(status);
  }
  failed_.store(false);
  return absl::OkStatus();
}

absl::Status RecordDb::Commit(rocksdb::WriteBatch* batch, bool sync) {
  if (failed_.load()) {
    if (absl::Status status = Recover(); !status.ok()) {
      ++commit_failures_;
      return status;
    }
  }
  rocksdb::WriteOptions options;
  options.sync = sync;
#ifdef __SANITIZE_THREAD__
  // RocksDB is not instrumented: the sanitizer cannot see how a write group's leader comes to read
  // its followers' batches, and would drown our own races in that.
  static std::mutex one_at_a_time;
  std::lock_guard lock(one_at_a_time);
#endif
  rocksdb::Status status = PadTables();
  if (status.ok()) status = db_->Write(options, batch);
  if (!status.ok()) {
    failed_.store(true);
    ++commit_failures_;
    return WriteStatus(status);
  }
  ++commits_;
  return absl::OkStatus();
}

absl::StatusOr<std::string> RecordDb::Get(std::string_view key) const {
  std::string value;
  const rocksdb::Status status = db_->Get({}, main_family_, ToSlice(key), &value);
  if (!status.ok()) return ToStatus(status);
  return value;
}

absl::Status RecordDb::Scan(std::string_view prefix, std::string_view from,
                            const Visit& visit) const {
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator({}, main_family_));
  it->Seek(ToSlice(from < prefix ? prefix : from));
  for (; it->Valid() && it->key().starts_with(ToSlice(prefix)); it->Next()) {
    if (!visit(ToView(it->key()), ToView(it->value()))) return absl::OkStatus();
  }
  return ToStatus(it->status());
}

absl::StatusOr<std::vector<LoggedToken>> RecordDb::GetBlock(uint64_t log_id, uint64_t block) const {
  std::string value;
  const rocksdb::Status status =
      db_->Get({}, log_family_, ToSlice(BlockKey(log_id, block)), &value);
  if (status.IsNotFound()) return std::vector<LoggedToken>{};
  if (!status.ok()) return ToStatus(status);
  return DecodeBlock(value);
}

absl::StatusOr<uint64_t> RecordDb::LogLength(uint64_t log_id) const {
  std::unique_ptr<rocksdb::Iterator> it = NewLogIterator();
  const std::string last = BlockKey(log_id, ~uint64_t{0});
  it->SeekForPrev(ToSlice(last));
  if (!it->status().ok()) return ToStatus(it->status());
  if (!it->Valid() || GetBe64(ToView(it->key())) != log_id) return 0;
  auto tokens = DecodeBlock(ToView(it->value()));
  if (!tokens.ok()) return tokens.status();
  return GetBe64(ToView(it->key()).substr(8)) * kBlockTokens + tokens->size();
}

std::unique_ptr<rocksdb::Iterator> RecordDb::NewLogIterator() const {
  return std::unique_ptr<rocksdb::Iterator>(db_->NewIterator({}, log_family_));
}

}  // namespace lola::store
