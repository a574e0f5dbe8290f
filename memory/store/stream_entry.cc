#include "memory/store/stream_entry.h"

#include <tuple>

#include "absl/strings/str_cat.h"
#include "memory/ids.h"
#include "memory/limits.h"
#include "memory/store/keys.h"

namespace lola::store {

absl::StatusOr<record::v1::StreamRecord> ParseRecord(std::string_view stream_id,
                                                     std::string_view bytes) {
  const auto damaged = [&](const std::string& what) {
    return absl::DataLossError(
        absl::StrCat("record of stream ", memory::Quoted(stream_id), " cannot be read: ", what));
  };
  record::v1::StreamRecord record;
  if (!record.ParseFromArray(bytes.data(), int(bytes.size()))) return damaged("no such message");
  if (record.stream_id() != stream_id) {
    return damaged("stream_id is " + memory::Quoted(record.stream_id()));
  }
  if (record.stream_uid().size() != kUidBytes) return damaged("stream_uid");
  constexpr int64_t kUnixMsMax = int64_t{1} << 50;  // sums of these stay far from overflow
  for (const auto& [field, value, max] : {std::tuple("ttl_ms", record.ttl_ms(), memory::kTtlMsMax),
                                          {"lease_ms", record.lease_ms(), memory::kLeaseMsMax},
                                          {"last_used", record.last_used_unix_ms(), kUnixMsMax},
                                          {"created", record.created_unix_ms(), kUnixMsMax}}) {
    if (value < 0 || value > max) return damaged(absl::StrCat(field, " is ", value));
  }
  if (record.log_size() == 0) return damaged("log is empty");
  uint64_t position = 0;
  for (int i = 0; i < record.log_size(); ++i) {
    const record::v1::LogSegment& segment = record.log(i);
    const bool last = i + 1 == record.log_size();
    if (segment.from() != position || segment.from() > memory::kPositionMax ||
        (last ? segment.upto() != 0 : segment.upto() <= segment.from())) {
      return damaged(absl::StrCat("log ", segment.log_id(), " from ", segment.from(), " up to ",
                                  segment.upto(), " behind position ", position));
    }
    position = segment.upto();
  }
  for (const auto& snapshot : record.snapshots()) {
    if (snapshot.info().blob_id().size() != kUidBytes ||
        snapshot.info().blob_id().find('/') != std::string::npos) {
      return damaged("blob_id is " + memory::Quoted(snapshot.info().blob_id()));
    }
  }
  return record;
}

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

std::vector<absl::StatusOr<LockedStream>> StreamTable::LockEach(
    const std::vector<std::string>& ids) {
  std::vector<absl::StatusOr<LockedStream>> streams;
  streams.reserve(ids.size());
  for (const std::string& id : ids) streams.push_back(Lock(id));
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
  auto record = ParseRecord(entry.stream_id, *bytes);
  if (!record.ok()) return record.status();
  entry.record = *std::move(record);
  auto length = db_.LogLength(entry.own_log());
  if (!length.ok()) return length.status();
  entry.committed = entry.own_log_from() + *length;
  entry.stored_used_ms = entry.record.last_used_unix_ms();
  entry.exists = true;
  entry.loaded = true;
  return absl::OkStatus();
}

}  // namespace lola::store
