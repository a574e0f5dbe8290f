#include "memory/store/stream_entry.h"

#include "absl/strings/str_cat.h"
#include "memory/ids.h"
#include "memory/store/keys.h"

namespace lola::store {

LockedStream::~LockedStream() {
  if (!lock_.owns_lock()) return;
  const bool keep = entry_->loaded && entry_->exists;
  lock_.unlock();
  if (keep) return;
  const std::string stream_id = entry_->stream_id;
  entry_.reset();
  table_->Forget(stream_id);
}

absl::StatusOr<LockedStream> StreamTable::Lock(std::string_view stream_id) {
  LockedStream stream;
  stream.table_ = this;
  {
    std::lock_guard lock(mu_);
    auto& entry = entries_[std::string(stream_id)];
    if (entry == nullptr) entry = std::make_shared<StreamEntry>(std::string(stream_id));
    stream.entry_ = entry;
  }
  stream.lock_ = std::unique_lock(stream.entry_->mu);
  if (!stream.entry_->loaded) {
    if (absl::Status status = Load(*stream.entry_); !status.ok()) return status;
  }
  return stream;
}

absl::StatusOr<LockedStream> StreamTable::LockExisting(std::string_view stream_id) {
  auto stream = Lock(stream_id);
  if (stream.ok() && !stream->exists()) {
    return absl::NotFoundError(absl::StrCat("stream ", memory::Quoted(stream_id), " not found"));
  }
  return stream;
}

absl::StatusOr<std::vector<LockedStream>> StreamTable::LockAll(
    const std::vector<std::string>& ids) {
  std::vector<LockedStream> streams;
  streams.reserve(ids.size());
  for (const std::string& id : ids) {
    auto stream = Lock(id);
    if (!stream.ok()) return stream.status();
    streams.push_back(*std::move(stream));
  }
  return streams;
}

void StreamTable::Trim(size_t entries_max) {
  std::lock_guard lock(mu_);
  for (auto it = entries_.begin(); it != entries_.end() && entries_.size() > entries_max;) {
    // Only the table holds it, and nobody can get it while mu_ is held.
    it = it->second.use_count() == 1 ? entries_.erase(it) : std::next(it);
  }
}

void StreamTable::Forget(const std::string& stream_id) {
  std::lock_guard lock(mu_);
  const auto found = entries_.find(stream_id);
  if (found != entries_.end() && found->second.use_count() == 1 && !found->second->exists) {
    entries_.erase(found);
  }
}

absl::Status StreamTable::Load(StreamEntry& entry) const {
  auto bytes = db_.Get(StreamKey(entry.stream_id));
  if (absl::IsNotFound(bytes.status())) {
    entry.exists = false;
    entry.loaded = true;
    return absl::OkStatus();
  }
  if (!bytes.ok()) return bytes.status();
  if (!entry.record.ParseFromString(*bytes) || entry.record.stream_id() != entry.stream_id ||
      entry.record.log_size() == 0) {
    return absl::DataLossError(
        absl::StrCat("record of stream ", memory::Quoted(entry.stream_id), " cannot be read"));
  }
  auto length = db_.LogLength(entry.own_log());
  if (!length.ok()) return length.status();
  entry.committed = entry.own_log_from() + *length;
  entry.stored_used_ms = entry.record.last_used_unix_ms();
  entry.exists = true;
  entry.loaded = true;
  return absl::OkStatus();
}

}  // namespace lola::store
