#include "memory/store/store_impl.h"

#include "absl/strings/str_cat.h"
#include "memory/env/random.h"
#include "memory/store/keys.h"

namespace lola::store {
namespace {

std::map<memory::LogId, std::string> LogReferences(const StreamRecord* record) {
  std::map<memory::LogId, std::string> logs;
  if (record == nullptr) return logs;
  for (const auto& segment : record->log()) {
    logs[segment.log_id()] = LogRefValue(segment.from(), segment.upto());
  }
  return logs;
}

std::set<std::string> BlobReferences(const StreamRecord* record) {
  std::set<std::string> blobs;
  if (record == nullptr) return blobs;
  for (const auto& snapshot : record->snapshots()) blobs.insert(snapshot.info().blob_id());
  return blobs;
}

}  // namespace

v1::StreamInfo StoreImpl::ToInfo(const StreamEntry& stream) const {
  const StreamRecord& record = stream.record;
  v1::StreamInfo info;
  info.set_stream_id(record.stream_id());
  info.set_stream_uid(record.stream_uid());
  info.set_tenant(record.tenant());
  *info.mutable_labels() = record.labels();
  info.set_model_fingerprint(record.model_fingerprint());
  *info.mutable_settings() = record.settings();
  *info.mutable_sampling() = record.sampling();
  info.set_committed_position(stream.committed);
  info.set_owner(record.owner());
  info.set_owner_epoch(record.owner_epoch());
  info.set_lease_remaining_ms(
      record.owner().empty()
          ? 0
          : leases_.RemainingMs(record.owner_instance(), options_.clock->MonotonicMs()));
  for (const auto& snapshot : record.snapshots()) *info.add_snapshots() = snapshot.info();
  info.set_parent(record.parent());
  info.set_forked_at(record.forked_at());
  info.set_created_unix_ms(record.created_unix_ms());
  info.set_last_used_unix_ms(record.last_used_unix_ms());
  info.set_ttl_ms(record.ttl_ms());
  info.set_partition(memory::PartitionOf(record.stream_id(), options_.partitions));
  info.set_state_bytes(record.state_bytes());
  info.set_request_id(record.request_id());
  info.set_unfinished(record.unfinished());
  *info.mutable_rewinds() = record.rewinds();
  info.set_instruction_class(record.instruction_class());
  return info;
}

absl::Status StoreImpl::CheckEpoch(const StreamEntry& stream, uint64_t epoch) {
  const StreamRecord& record = stream.record;
  if (record.owner_epoch() == epoch && !record.owner().empty()) return absl::OkStatus();
  Count([](StoreStats& counts) { ++counts.fenced_writes; });
  return absl::AbortedError(
      absl::StrCat("epoch: stale, the call has ", epoch, ", stream ",
                   memory::Quoted(record.stream_id()), " has ", record.owner_epoch(), ", owner ",
                   record.owner().empty() ? "nobody" : memory::Quoted(record.owner())));
}

void StoreImpl::PutReferences(const StreamRecord* before, const StreamRecord* after,
                              rocksdb::WriteBatch* batch) {
  const std::string& uid = (after != nullptr ? after : before)->stream_uid();
  const std::string note = memory::NewUid();
  const auto logs_before = LogReferences(before);
  const auto logs_after = LogReferences(after);
  for (const auto& [log_id, range] : logs_after) {
    const auto old = logs_before.find(log_id);
    if (old != logs_before.end() && old->second == range) continue;
    batch->Put(LogRefKey(log_id, uid), range);
    if (old != logs_before.end())
      batch->Put(LogGarbageKey(log_id, note), "");  // its tail may be free
  }
  for (const auto& [log_id, range] : logs_before) {
    if (logs_after.count(log_id) > 0) continue;
    batch->Delete(LogRefKey(log_id, uid));
    batch->Put(LogGarbageKey(log_id, note), "");
  }
  const auto blobs_before = BlobReferences(before);
  const auto blobs_after = BlobReferences(after);
  for (const std::string& blob_id : blobs_after) {
    if (blobs_before.count(blob_id) == 0) batch->Put(BlobRefKey(blob_id, uid), "");
  }
  for (const std::string& blob_id : blobs_before) {
    if (blobs_after.count(blob_id) > 0) continue;
    batch->Delete(BlobRefKey(blob_id, uid));
    batch->Put(BlobGarbageKey(blob_id, note), "");
  }
}

void StoreImpl::PutRecord(const StreamRecord& record, rocksdb::WriteBatch* batch) {
  batch->Put(StreamKey(record.stream_id()), record.SerializeAsString());
}

absl::Status StoreImpl::Replace(StreamEntry& stream, StreamRecord after,
                                rocksdb::WriteBatch* batch) {
  PutReferences(&stream.record, &after, batch);
  PutRecord(after, batch);
  if (absl::Status status = db_->Commit(batch, /*sync=*/true); !status.ok()) return status;
  stream.stored_used_ms = after.last_used_unix_ms();
  stream.record = std::move(after);
  return absl::OkStatus();
}

absl::Status StoreImpl::Publish(StreamEntry& stream, StreamRecord record, uint64_t committed) {
  rocksdb::WriteBatch batch;
  PutReferences(nullptr, &record, &batch);
  PutRecord(record, &batch);
  if (absl::Status status = db_->Commit(&batch, /*sync=*/true); !status.ok()) return status;
  stream.stored_used_ms = record.last_used_unix_ms();
  stream.record = std::move(record);
  stream.committed = committed;
  stream.exists = true;
  ScheduleExpiry(stream.record, 0);
  NoteUnfinished(stream.record);
  Count([](StoreStats& counts) { ++counts.streams; });
  return absl::OkStatus();
}

bool StoreImpl::LeaseRuns(const StreamRecord& record) const {
  return !record.owner().empty() &&
         leases_.RemainingMs(record.owner_instance(), options_.clock->MonotonicMs()) > 0;
}

v1::ShardInfo StoreImpl::DescribeShard() {
  const StoreStats stats = Stats();
  v1::ShardInfo info;
  info.set_streams(stats.streams);
  info.set_blob_bytes(stats.blob_bytes);
  info.set_log_tokens(stats.log_tokens);
  return info;
}

StoreStats StoreImpl::Stats() const {
  StoreStats stats;
  Count([&](StoreStats& counts) { stats = counts; });
  stats.owned_streams = leases_.owned_streams();
  stats.commits = db_->commits();
  stats.commit_failures = db_->commit_failures();
  return stats;
}

}  // namespace lola::store
