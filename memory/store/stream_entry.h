#ifndef LOLA_MEMORY_STORE_STREAM_ENTRY_H_
#define LOLA_MEMORY_STORE_STREAM_ENTRY_H_

// Streams in memory: a cache of records with one lock per stream. Everything in an entry can be
// loaded again from the record store. Any thread.
//
// Order of locks: streams by id ascending; the table's own lock is taken last and held briefly.

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lola/record/v1/record.pb.h"
#include "memory/store/record_db.h"

namespace lola::store {

// A record as it was stored for `stream_id`. DATA_LOSS naming stream and field when it cannot be
// one: another id, or logs that are not adjacent from position 0 to one that is written.
absl::StatusOr<record::v1::StreamRecord> ParseRecord(std::string_view stream_id,
                                                     std::string_view bytes);

struct StreamEntry {
  explicit StreamEntry(std::string id) : stream_id(std::move(id)) {}

  const std::string stream_id;
  std::mutex mu;
  // Guarded by mu.
  bool loaded = false;
  bool exists = false;
  record::v1::StreamRecord record;  // as on disk, except last_used_unix_ms, which may be newer
  int64_t stored_used_ms = 0;       // last_used_unix_ms on disk
  uint64_t committed = 0;           // tokens durable; derived from the log

  uint64_t own_log() const { return record.log(record.log_size() - 1).log_id(); }
  uint64_t own_log_from() const { return record.log(record.log_size() - 1).from(); }
};

class StreamTable;

// A locked stream; unlocks when it goes.
class LockedStream {
 public:
  LockedStream() = default;
  LockedStream(LockedStream&&) = default;
  LockedStream& operator=(LockedStream&&) = delete;
  ~LockedStream();

  bool exists() const { return entry_->exists; }
  StreamEntry* operator->() const { return entry_.get(); }
  StreamEntry& operator*() const { return *entry_; }

 private:
  friend class StreamTable;
  StreamTable* table_ = nullptr;
  std::shared_ptr<StreamEntry> entry_;
  std::unique_lock<std::mutex> lock_;
};

class StreamTable {
 public:
  explicit StreamTable(const RecordDb& db) : db_(db) {}

  // Locks a stream whether it exists or not; DATA_LOSS when its record cannot be read.
  absl::StatusOr<LockedStream> Lock(std::string_view stream_id);
  // As Lock; NOT_FOUND when it does not exist.
  absl::StatusOr<LockedStream> LockExisting(std::string_view stream_id);
  // One answer for each id: a stream that cannot be read keeps nobody from the others.
  // REQUIRES: ids ascending, no doubles.
  std::vector<absl::StatusOr<LockedStream>> LockEach(const std::vector<std::string>& ids);

  // Drops streams nobody uses now, when there are more than `entries_max`.
  void Trim(size_t entries_max);

 private:
  friend class LockedStream;
  absl::Status Load(StreamEntry& entry) const;
  void Forget(const std::string& stream_id);

  const RecordDb& db_;
  std::mutex mu_;
  std::unordered_map<std::string, std::shared_ptr<StreamEntry>> entries_;  // guarded by mu_
};

}  // namespace lola::store

#endif  // LOLA_MEMORY_STORE_STREAM_ENTRY_H_
