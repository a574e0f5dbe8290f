#ifndef LOLA_MEMORY_STORE_RECORD_DB_H_
#define LOLA_MEMORY_STORE_RECORD_DB_H_

// RocksDB as the store uses it: two families, one write-ahead log, absl::Status. Any thread.
// Errors name the folder or the file: DATA_LOSS (corruption), RESOURCE_EXHAUSTED (disk full),
// FAILED_PRECONDITION (folder in use by another process), INTERNAL (anything else).

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/store/token_block.h"
#include "rocksdb/db.h"
#include "rocksdb/write_batch.h"

namespace lola::store {

inline rocksdb::Slice ToSlice(std::string_view text) { return {text.data(), text.size()}; }
inline std::string_view ToView(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

class RecordDb {
 public:
  // `env` null: the machine's files.
  static absl::StatusOr<std::unique_ptr<RecordDb>> Open(const std::string& folder,
                                                        size_t cache_bytes, rocksdb::Env* env);
  ~RecordDb();
  RecordDb(const RecordDb&) = delete;
  RecordDb& operator=(const RecordDb&) = delete;

  // All of the batch or nothing. With `sync` it survives a power cut when this returns; concurrent
  // callers share one sync. After a failed write the next commit first asks RocksDB to recover; a
  // disk that was full is used again within five seconds of having space. UNAVAILABLE when the disk
  // fails: the batch may be there or not, and the same call later is the way to know.
  absl::Status Commit(rocksdb::WriteBatch* batch, bool sync);

  // What keeps it from ever writing again until it is opened anew: a failed sync. OK: nothing.
  absl::Status health() const;

  // NOT_FOUND when there is none.
  absl::StatusOr<std::string> Get(std::string_view key) const;
  // The family's pairs whose key begins with `prefix`, from `from` on (a key; "" = the first),
  // until `visit` answers false.
  using Visit = std::function<bool(std::string_view key, std::string_view value)>;
  absl::Status Scan(std::string_view prefix, std::string_view from, const Visit& visit) const;

  absl::StatusOr<std::vector<LoggedToken>> GetBlock(uint64_t log_id, uint64_t block) const;
  // Tokens in a log, from its last block; 0 when it has none.
  absl::StatusOr<uint64_t> LogLength(uint64_t log_id) const;
  std::unique_ptr<rocksdb::Iterator> NewLogIterator() const;

  rocksdb::ColumnFamilyHandle* log_family() const { return log_family_; }
  absl::Status ToStatus(const rocksdb::Status& status) const;
  uint64_t commits() const { return commits_; }
  uint64_t commit_failures() const { return commit_failures_; }

 private:
  class SealListener;
  explicit RecordDb(std::string folder) : folder_(std::move(folder)) {}
  absl::Status Recover();  // after a failed write
  rocksdb::Status PadTables();
  absl::Status WriteStatus(const rocksdb::Status& status) const;

  const std::string folder_;
  rocksdb::DB* db_ = nullptr;
  rocksdb::ColumnFamilyHandle* main_family_ = nullptr;
  rocksdb::ColumnFamilyHandle* log_family_ = nullptr;
  std::atomic<uint64_t> commits_{0};
  std::atomic<uint64_t> commit_failures_{0};
  std::atomic<bool> failed_{false};  // the last write failed: recover before the next
  std::atomic<bool> sealed_{true};   // a memory table may be empty: pad before the next write
  mutable std::mutex recover_mu_;
  absl::Status health_;  // guarded by recover_mu_
};

}  // namespace lola::store

#endif  // LOLA_MEMORY_STORE_RECORD_DB_H_
