#include <algorithm>

#include "absl/strings/str_cat.h"
#include "memory/env/failpoint.h"
#include "memory/env/random.h"
#include "memory/store/keys.h"
#include "memory/store/request_check.h"
#include "memory/store/store_impl.h"

namespace lola::store {
namespace {

// Leaves the segments that end at or before `position`, the last one cut there.
void CutLog(uint64_t position, StreamRecord* record) {
  auto* log = record->mutable_log();
  while (log->size() > 0 && log->rbegin()->from() >= position) log->RemoveLast();
  if (log->size() > 0) log->rbegin()->set_upto(position);
}

// As CutLog for snapshots.
void CutSnapshots(uint64_t position, StreamRecord* record) {
  auto* list = record->mutable_snapshots();
  list->erase(std::remove_if(list->begin(), list->end(),
                             [&](const auto& s) { return s.info().position() > position; }),
              list->end());
}

// So that the same request is known when it comes again.
void RememberRewind(const v1::RewindStreamRequest& request, uint64_t position,
                    StreamRecord* after) {
  if (request.request_id().empty()) return;
  if (size_t(after->rewinds_size()) >= memory::kRewindIdsKept) {
    after->mutable_rewinds()->DeleteSubrange(0, 1);
  }
  v1::RewindInfo& rewind = *after->add_rewinds();
  rewind.set_request_id(request.request_id());
  rewind.set_position(position);
  rewind.set_snapshot_name(request.snapshot_name());
  rewind.set_owner_epoch(after->owner_epoch());
}

void AppendSegment(memory::LogId log_id, uint64_t from, StreamRecord* record) {
  auto* segment = record->add_log();
  segment->set_log_id(log_id);
  segment->set_from(from);
}

// The child of `parent` at `position`, without identity, log of its own or labels.
StreamRecord MakeChild(const StreamRecord& parent, uint64_t position, size_t snapshots_kept) {
  StreamRecord child = parent;
  child.clear_owner();
  child.clear_owner_instance();
  child.clear_owner_epoch();
  child.clear_lease_ms();
  child.clear_rewinds();
  child.set_parent(parent.stream_id());
  child.set_forked_at(position);
  CutLog(position, &child);
  CutSnapshots(position, &child);
  auto* list = child.mutable_snapshots();
  const int spare = list->size() - int(snapshots_kept);
  if (spare > 0) list->DeleteSubrange(0, spare);
  // Names belong to the parent; for the child these are automatic.
  for (auto& snapshot : *list) snapshot.mutable_info()->clear_name();
  return child;
}

}  // namespace

absl::StatusOr<v1::StreamInfo> StoreImpl::Fork(const v1::ForkStreamRequest& request) {
  if (absl::Status status = CheckFork(request); !status.ok()) return status;
  std::vector<std::string> ids = {request.stream_id(), request.new_stream_id()};
  std::sort(ids.begin(), ids.end());
  auto streams = table_->LockEach(ids);
  for (const auto& stream : streams) {
    if (!stream.ok()) return stream.status();
  }
  const bool parent_first = ids[0] == request.stream_id();
  StreamEntry& parent = **streams[parent_first ? 0 : 1];
  StreamEntry& child = **streams[parent_first ? 1 : 0];
  if (child.exists) {
    const bool again = !request.request_id().empty() &&
                       child.record.request_id() == request.request_id() &&
                       child.record.parent() == request.stream_id();
    const bool same =
        !request.has_at_position() || request.at_position() == child.record.forked_at();
    if (again && same) return ToInfo(child);
    if (again) {
      return absl::AlreadyExistsError(
          absl::StrCat("at_position: request ", memory::Quoted(request.request_id()),
                       " made stream ", memory::Quoted(request.new_stream_id()), " at position ",
                       child.record.forked_at(), ", not at ", request.at_position()));
    }
    return absl::AlreadyExistsError(
        absl::StrCat("new_stream_id: stream ", memory::Quoted(request.new_stream_id()),
                     " exists, made by request ", memory::Quoted(child.record.request_id()),
                     ", not ", memory::Quoted(request.request_id())));
  }
  if (!parent.exists) {
    return absl::NotFoundError(
        absl::StrCat("stream ", memory::Quoted(request.stream_id()), " not found"));
  }
  if (absl::Status status = CheckFinished(parent.record); !status.ok()) return status;
  const uint64_t position = request.has_at_position() ? request.at_position() : parent.committed;
  if (position > parent.committed) {
    return absl::OutOfRangeError(absl::StrCat("at_position: is ", position, ", stream ",
                                              memory::Quoted(request.stream_id()), " ends at ",
                                              parent.committed));
  }
  if (const uint64_t count = Stats().streams; count >= options_.streams_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("streams: this shard holds ", count, ", at most ", options_.streams_max));
  }
  StreamRecord record = MakeChild(parent.record, position, options_.automatic_snapshots_kept);
  if (size_t(record.log_size()) >= memory::kLogSegmentsMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("stream ", memory::Quoted(request.stream_id()), " is the end of ",
                     record.log_size(), " forks of forks, at most ", memory::kLogSegmentsMax));
  }
  auto log_id = NewLogId();
  if (!log_id.ok()) return log_id.status();
  AppendSegment(*log_id, position, &record);
  record.set_stream_id(request.new_stream_id());
  record.set_stream_uid(memory::NewUid());
  record.set_request_id(request.request_id());
  if (!request.labels().empty()) *record.mutable_labels() = request.labels();
  record.set_created_unix_ms(options_.clock->UnixMs());
  record.set_last_used_unix_ms(record.created_unix_ms());
  LOLA_FAILPOINT("store.fork.before_commit");
  if (absl::Status status = Publish(child, std::move(record), position); !status.ok()) {
    return status;
  }
  Count([](StoreStats& counts) { ++counts.forks; });
  LOLA_FAILPOINT("store.fork.after_commit");
  return ToInfo(child);
}

absl::StatusOr<bool> StoreImpl::OnlyReader(memory::LogId log_id, const std::string& uid) const {
  bool only = true;
  const std::string own = LogRefKey(log_id, uid);
  absl::Status status = db_->Scan(LogRefPrefix(log_id), "", [&](std::string_view key, auto) {
    only = key == own;
    return only;
  });
  if (!status.ok()) return status;
  return only;
}

// Puts into `after` and `batch` what makes the stream end at `position`.
absl::Status StoreImpl::Truncate(StreamEntry& stream, uint64_t position, StreamRecord* after,
                                 rocksdb::WriteBatch* batch) {
  CutLog(position, after);
  if (after->log_size() > 0) {
    record::v1::LogSegment& last = *after->mutable_log()->rbegin();
    auto alone = OnlyReader(last.log_id(), after->stream_uid());
    if (!alone.ok()) return alone.status();
    if (*alone) {
      // Nobody shares it: cut it and write on, so that rewinding does not pile up logs.
      last.set_upto(0);
      const uint64_t block = (position - last.from()) / kBlockTokens;
      const uint64_t rest = (position - last.from()) % kBlockTokens;
      batch->DeleteRange(db_->log_family(), BlockKey(last.log_id(), block),
                         BlockKey(last.log_id() + 1, 0));
      if (rest == 0) return absl::OkStatus();
      auto tokens = db_->GetBlock(last.log_id(), block);
      if (!tokens.ok()) return tokens.status();
      if (tokens->size() < rest) {
        return absl::DataLossError(absl::StrCat("log ", last.log_id(), " of stream ",
                                                memory::Quoted(after->stream_id()), " ends before ",
                                                position));
      }
      tokens->resize(rest);
      batch->Put(db_->log_family(), BlockKey(last.log_id(), block), EncodeBlock(*tokens));
      return absl::OkStatus();
    }
    if (size_t(after->log_size()) >= memory::kLogSegmentsMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat("stream ", memory::Quoted(after->stream_id()), " shares ", after->log_size(),
                       " logs with its forks, at most ", memory::kLogSegmentsMax));
    }
  }
  auto log_id = NewLogId();
  if (!log_id.ok()) return log_id.status();
  AppendSegment(*log_id, position, after);
  return absl::OkStatus();
}

// The answer to the request that `done` remembers, now that it comes once more: what was true then.
absl::StatusOr<v1::StreamInfo> StoreImpl::RewoundBefore(
    const StreamEntry& stream, const v1::RewindInfo& done,
    const v1::RewindStreamRequest& request) const {
  const bool by_name = request.to_case() == v1::RewindStreamRequest::kSnapshotName;
  const bool same = by_name ? done.snapshot_name() == request.snapshot_name()
                            : done.snapshot_name().empty() && done.position() == request.position();
  if (!same) {
    const std::string went = done.snapshot_name().empty()
                                 ? absl::StrCat("position ", done.position())
                                 : absl::StrCat("snapshot ", memory::Quoted(done.snapshot_name()),
                                                " at ", done.position());
    return absl::AlreadyExistsError(absl::StrCat(
        "request_id: ", memory::Quoted(request.request_id()), " rewound stream ",
        memory::Quoted(request.stream_id()), " to ", went, ", not to ",
        by_name ? memory::Quoted(request.snapshot_name()) : absl::StrCat(request.position())));
  }
  v1::StreamInfo info = ToInfo(stream);
  info.set_committed_position(done.position());
  info.set_owner_epoch(done.owner_epoch());
  info.clear_owner();
  info.clear_lease_remaining_ms();
  auto* list = info.mutable_snapshots();
  list->erase(std::remove_if(list->begin(), list->end(),
                             [&](const auto& s) { return s.position() > done.position(); }),
              list->end());
  return info;
}

absl::StatusOr<uint64_t> StoreImpl::RewindTarget(const StreamEntry& stream,
                                                 const v1::RewindStreamRequest& request) {
  uint64_t position = request.position();
  if (request.to_case() == v1::RewindStreamRequest::kSnapshotName) {
    const auto& list = stream.record.snapshots();
    const auto found = std::find_if(list.begin(), list.end(), [&](const auto& snapshot) {
      return !request.snapshot_name().empty() && snapshot.info().name() == request.snapshot_name();
    });
    if (found == list.end()) {
      return absl::NotFoundError(
          absl::StrCat("snapshot_name: stream ", memory::Quoted(request.stream_id()),
                       " has no snapshot ", memory::Quoted(request.snapshot_name())));
    }
    position = found->info().position();
  } else if (request.to_case() != v1::RewindStreamRequest::kPosition) {
    return absl::InvalidArgumentError("to: neither position nor snapshot_name is given");
  }
  if (position <= stream.committed) return position;
  return absl::OutOfRangeError(absl::StrCat("position: is ", position, ", stream ",
                                            memory::Quoted(request.stream_id()), " ends at ",
                                            stream.committed));
}

absl::StatusOr<v1::StreamInfo> StoreImpl::Rewind(const v1::RewindStreamRequest& request) {
  if (absl::Status status = CheckRewind(request); !status.ok()) return status;
  auto stream = LockFinished(request.stream_id());
  if (!stream.ok()) return stream.status();
  StreamEntry& entry = **stream;
  for (const v1::RewindInfo& done : entry.record.rewinds()) {
    if (request.request_id().empty() || done.request_id() != request.request_id()) continue;
    return RewoundBefore(entry, done, request);
  }
  const auto target = RewindTarget(entry, request);
  if (!target.ok()) return target.status();
  const uint64_t position = *target;
  StreamRecord after = entry.record;
  const std::string instance = after.owner().empty() ? "" : after.owner_instance();
  after.clear_owner();
  after.clear_owner_instance();
  after.clear_lease_ms();
  after.set_owner_epoch(entry.record.owner_epoch() + 1);
  after.set_last_used_unix_ms(options_.clock->UnixMs());
  RememberRewind(request, position, &after);
  CutSnapshots(position, &after);
  rocksdb::WriteBatch batch;
  std::unique_lock readers(log_readers_mu_, std::defer_lock);
  if (position < entry.committed) {
    // Its own log goes: it may go on in one of those it only read so far.
    if (position <= entry.own_log_from()) readers.lock();
    if (absl::Status status = Truncate(entry, position, &after, &batch); !status.ok()) {
      return status;
    }
  }
  const uint64_t own_tokens = entry.committed - entry.own_log_from();
  LOLA_FAILPOINT("store.rewind.before_commit");
  if (absl::Status status = Replace(entry, std::move(after), &batch); !status.ok()) return status;
  entry.committed = position;
  if (!instance.empty()) leases_.RemoveStream(instance);
  Count([&](StoreStats& counts) {
    ++counts.rewinds;
    counts.log_tokens += position - entry.own_log_from();
    counts.log_tokens -= own_tokens;
  });
  LOLA_FAILPOINT("store.rewind.after_commit");
  return ToInfo(entry);
}

}  // namespace lola::store
