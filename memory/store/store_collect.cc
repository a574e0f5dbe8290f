#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "memory/env/failpoint.h"
#include "memory/env/random.h"
#include "memory/store/keys.h"
#include "memory/store/store_impl.h"

namespace lola::store {
namespace {

constexpr size_t kCachedStreamsMax = 65'536;
constexpr size_t kGarbageAtOnceMax = 4096;

}  // namespace

absl::Status StoreImpl::Delete(std::string_view stream_id, std::string_view stream_uid) {
  auto stream = table_->LockExisting(stream_id);
  if (!stream.ok()) return stream.status();
  const std::string& uid = (*stream)->record.stream_uid();
  if (!stream_uid.empty() && stream_uid != uid) {
    return absl::NotFoundError(absl::StrCat("stream_uid: stream ", memory::Quoted(stream_id),
                                            " is ", uid, ", the call means ",
                                            memory::Quoted(stream_uid), ", which is gone"));
  }
  LOLA_FAILPOINT("store.delete.before_commit");
  if (absl::Status status = DeleteLocked(**stream); !status.ok()) return status;
  Count([](StoreStats& counts) { ++counts.deletes; });
  LOLA_FAILPOINT("store.delete.after_commit");
  return absl::OkStatus();
}

absl::Status StoreImpl::DeleteLocked(StreamEntry& stream) {
  rocksdb::WriteBatch batch;
  PutReferences(&stream.record, nullptr, &batch);
  batch.Delete(StreamKey(stream.stream_id));
  if (absl::Status status = db_->Commit(&batch, /*sync=*/true); !status.ok()) return status;
  stream.exists = false;
  expiry_.Remove(stream.stream_id);
  if (!stream.record.owner().empty()) leases_.RemoveStream(stream.record.owner_instance());
  const uint64_t own_tokens = stream.committed - stream.own_log_from();
  Count([&](StoreStats& counts) {
    --counts.streams;
    counts.log_tokens -= own_tokens;
  });
  return absl::OkStatus();
}

void StoreImpl::ScheduleExpiry(const StreamRecord& record, int64_t grace_ms) {
  if (record.ttl_ms() == 0) return;
  expiry_.Set(record.stream_id(), record.last_used_unix_ms() + record.ttl_ms() + grace_ms);
}

absl::Status StoreImpl::ExpireStream(StreamEntry& stream, int64_t now_ms) {
  StreamRecord& record = stream.record;
  if (record.ttl_ms() == 0) return absl::OkStatus();
  // A lease is use up to its end: the owner may have held the stream between two tokens.
  if (!record.owner().empty()) {
    const auto over_ms =
        leases_.OverMs(record.owner_instance(), options_.clock->MonotonicMs()).value_or(0);
    record.set_last_used_unix_ms(std::max(record.last_used_unix_ms(), now_ms - over_ms));
  }
  ScheduleExpiry(record, 0);
  if (record.last_used_unix_ms() + record.ttl_ms() > now_ms) return absl::OkStatus();
  LOLA_FAILPOINT("store.expire.before_commit");
  if (absl::Status status = DeleteLocked(stream); !status.ok()) return status;
  Count([](StoreStats& counts) { ++counts.expired_streams; });
  LOLA_FAILPOINT("store.expire.after_commit");
  return absl::OkStatus();
}

absl::Status StoreImpl::ExpireStreams() {
  constexpr int64_t kUnreadableMs = 60'000;  // until one that cannot be read is tried again
  const int64_t now_ms = options_.clock->UnixMs();
  absl::Status problem = absl::OkStatus();
  while (const auto stream_id = expiry_.PopDue(now_ms)) {
    auto stream = table_->Lock(*stream_id);
    if (!stream.ok()) {
      expiry_.Set(*stream_id, now_ms + kUnreadableMs);
      problem = stream.status();
      continue;
    }
    if (!stream->exists()) continue;
    if (absl::Status status = ExpireStream(**stream, now_ms); !status.ok()) return status;
  }
  return problem;
}

absl::Status StoreImpl::NoteDoubtfulBlobs() {
  std::vector<std::string> blobs;
  {
    std::lock_guard lock(doubtful_mu_);
    blobs = doubtful_blobs_;
  }
  if (blobs.empty()) return absl::OkStatus();
  rocksdb::WriteBatch batch;
  const std::string note = memory::NewUid();
  for (const std::string& blob_id : blobs) batch.Put(BlobGarbageKey(blob_id, note), "");
  if (absl::Status status = db_->Commit(&batch, /*sync=*/true); !status.ok()) return status;
  std::lock_guard lock(doubtful_mu_);
  doubtful_blobs_.erase(doubtful_blobs_.begin(), doubtful_blobs_.begin() + ptrdiff_t(blobs.size()));
  // They were never counted; collecting them counts them out.
  Count([&](StoreStats& counts) { counts.blobs += blobs.size(); });
  for (const std::string& blob_id : blobs) {
    auto size = blobs_->Size(blob_id);
    Count([&](StoreStats& counts) { counts.blob_bytes += size.ok() ? *size : 0; });
  }
  return absl::OkStatus();
}

// Deletes what no stream reads: the whole log, or, when its writer is gone, the tail behind the
// last reader's end.
absl::Status StoreImpl::CollectLog(const std::string& note) {
  const memory::LogId log_id = GarbageLog(note);
  std::lock_guard lock(log_readers_mu_);
  bool used = false;
  bool written = false;
  uint64_t from = 0;
  uint64_t end = 0;
  absl::Status scan = db_->Scan(LogRefPrefix(log_id), "", [&](auto, std::string_view value) {
    used = true;
    // Unreadable counts as written: keep everything.
    written = value.size() != 16 || GetBe64(value.substr(8)) == 0;
    if (written) return false;
    from = GetBe64(value);
    end = std::max(end, GetBe64(value.substr(8)));
    return true;
  });
  if (!scan.ok()) return scan;
  rocksdb::WriteBatch batch;
  if (!written) {
    const uint64_t blocks = used ? (end - from + kBlockTokens - 1) / kBlockTokens : 0;
    batch.DeleteRange(db_->log_family(), BlockKey(log_id, blocks), BlockKey(log_id + 1, 0));
  }
  batch.Delete(note);
  LOLA_FAILPOINT("store.collect_log.before_commit");
  if (absl::Status status = db_->Commit(&batch, /*sync=*/false); !status.ok()) return status;
  if (!used) Count([](StoreStats& counts) { ++counts.collected_logs; });
  LOLA_FAILPOINT("store.collect_log.after_commit");
  return absl::OkStatus();
}

absl::Status StoreImpl::CollectBlob(const std::string& note, absl::Status* stuck) {
  const std::string blob_id = GarbageBlob(note);
  bool used = false;
  absl::Status scan = db_->Scan(BlobRefPrefix(blob_id), "", [&](auto, auto) {
    used = true;
    return false;
  });
  if (!scan.ok()) return scan;
  if (!used) {
    auto size = blobs_->Size(blob_id);
    LOLA_FAILPOINT("store.collect_blob.before_remove");
    if (absl::Status status = blobs_->Remove(blob_id); !status.ok()) {
      *stuck = std::move(status);
      return absl::OkStatus();
    }
    LOLA_FAILPOINT("store.collect_blob.after_remove");
    Count([&](StoreStats& counts) {
      if (!size.ok()) return;  // removed by an earlier round, or set aside
      ++counts.collected_blobs;
      --counts.blobs;
      counts.blob_bytes -= *size;
    });
  }
  rocksdb::WriteBatch batch;
  batch.Delete(note);
  if (absl::Status status = db_->Commit(&batch, /*sync=*/false); !status.ok()) return status;
  LOLA_FAILPOINT("store.collect_blob.after_commit");
  return absl::OkStatus();
}

absl::Status StoreImpl::CollectGarbage() {
  absl::Status stuck = absl::OkStatus();
  std::vector<std::string> keys;
  std::string from;
  do {
    keys.clear();
    absl::Status scan = db_->Scan("x", from, [&](std::string_view key, auto) {
      keys.emplace_back(key);
      return keys.size() < kGarbageAtOnceMax;
    });
    if (!scan.ok()) return scan;
    for (const std::string& key : keys) {
      absl::Status status = IsLogGarbage(key) ? CollectLog(key) : CollectBlob(key, &stuck);
      if (!status.ok()) return status;
    }
    if (!keys.empty()) from = keys.back() + '\0';
  } while (keys.size() == kGarbageAtOnceMax);
  return stuck;
}

absl::Status StoreImpl::CollectNow() {
  std::lock_guard lock(collect_mu_);
  absl::Status problem = absl::OkStatus();
  for (absl::Status status :
       {ExpireStreams(), DropUnfinished(), NoteDoubtfulBlobs(), CollectGarbage()}) {
    if (problem.ok()) problem = std::move(status);
  }
  table_->Trim(kCachedStreamsMax);
  if (!problem.ok()) Count([](StoreStats& counts) { ++counts.collect_failures; });
  return problem;
}

void StoreImpl::CollectLoop() {
  std::unique_lock lock(stop_mu_);
  while (!stop_) {
    stop_changed_.wait_for(lock, std::chrono::milliseconds(options_.collect_every_ms));
    if (stop_) return;
    lock.unlock();
    (void)CollectNow();  // what failed is still noted: the next round meets it again
    lock.lock();
  }
}

}  // namespace lola::store
