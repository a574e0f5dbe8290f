#ifndef LOLA_MEMORY_STORE_STORE_IMPL_H_
#define LOLA_MEMORY_STORE_STORE_IMPL_H_

// StreamStore over RecordDb and BlobStore. Private to memory/store; one .cc per group of verbs.
//
// A change of a stream: lock it, check, copy its record, change the copy, put record and references
// into one batch, commit, then replace the record in memory. References follow from the record
// (PutReferences), so they cannot drift from it.

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "memory/store/blob_store.h"
#include "memory/store/expiry_queue.h"
#include "memory/store/lease_table.h"
#include "memory/store/log_cursor.h"
#include "memory/store/record_db.h"
#include "memory/store/stream_entry.h"
#include "memory/store/stream_store.h"

namespace lola::store {

using record::v1::StreamRecord;

class StoreImpl final : public StreamStore {
 public:
  explicit StoreImpl(const StoreOptions& options) : options_(options) {}
  ~StoreImpl() override;
  absl::Status Start();  // once, before anything else

  absl::StatusOr<v1::StreamInfo> Create(const v1::CreateStreamRequest& request) override;
  absl::StatusOr<v1::StreamInfo> Describe(std::string_view stream_id) override;
  absl::StatusOr<v1::ListStreamsReply> List(const v1::ListStreamsRequest& request) override;
  absl::StatusOr<v1::AcquireReply> Acquire(const v1::AcquireRequest& request) override;
  absl::StatusOr<v1::RenewReply> Renew(const v1::RenewRequest& request) override;
  absl::Status Release(const v1::ReleaseRequest& request) override;
  absl::StatusOr<v1::AppendBatchReply> Append(const v1::AppendBatchRequest& request) override;
  absl::StatusOr<std::unique_ptr<TokenReader>> ReadTokens(
      const v1::ReadTokensRequest& request) override;
  absl::StatusOr<std::unique_ptr<SnapshotUpload>> PutSnapshot(
      const v1::PutSnapshotHeader& header) override;
  absl::StatusOr<std::unique_ptr<SnapshotDownload>> GetSnapshot(
      const v1::GetSnapshotRequest& request) override;
  absl::StatusOr<v1::StreamInfo> Fork(const v1::ForkStreamRequest& request) override;
  absl::StatusOr<v1::StreamInfo> Rewind(const v1::RewindStreamRequest& request) override;
  absl::Status Delete(std::string_view stream_id, std::string_view stream_uid) override;
  v1::ShardInfo DescribeShard() override;
  StoreStats Stats() const override;
  absl::Status Health() const override { return db_->health(); }
  absl::Status CollectNow() override;
  absl::StatusOr<std::vector<std::string>> Audit() override;

 private:
  friend class UploadImpl;
  friend class DownloadImpl;

  // store_open.cc
  absl::Status LoadStoreRecord();
  absl::Status ScanStreams(std::set<std::string>* blobs);
  absl::Status SweepBlobs(const std::set<std::string>& listed);
  absl::StatusOr<memory::LogId> NewLogId();

  // store_impl.cc
  v1::StreamInfo ToInfo(const StreamEntry& stream) const;
  // ABORTED (counted) unless the caller is the owner with this epoch.
  absl::Status CheckEpoch(const StreamEntry& stream, uint64_t epoch);
  // Puts and deletes references so that they are those of `after`; either may be null. What nobody
  // may use any more is noted for the collector.
  static void PutReferences(const StreamRecord* before, const StreamRecord* after,
                            rocksdb::WriteBatch* batch);
  static void PutRecord(const StreamRecord& record, rocksdb::WriteBatch* batch);
  // Commits `after` in place of the stream's record together with `batch`, synced.
  absl::Status Replace(StreamEntry& stream, StreamRecord after, rocksdb::WriteBatch* batch);
  // As Replace, for a stream that does not exist yet.
  absl::Status Publish(StreamEntry& stream, StreamRecord record, uint64_t committed);
  bool LeaseRuns(const StreamRecord& record) const;
  template <typename Change>
  void Count(Change change) const {
    std::lock_guard lock(counts_mu_);
    change(counts_);
  }
  void ScheduleExpiry(const StreamRecord& record, int64_t grace_ms);

  // store_unfinished.cc
  // UNAVAILABLE while the stream's copy from another shard is under way.
  static absl::Status CheckFinished(const StreamRecord& record);
  absl::StatusOr<LockedStream> LockFinished(std::string_view stream_id);  // also NOT_FOUND
  void NoteUnfinished(const StreamRecord& record);  // REQUIRES: its stream is locked, or Start
  bool CopierGone(const StreamRecord& record) const;
  absl::Status DropUnfinished();

  // store_append.cc
  struct PreparedEntry;
  absl::Status PrepareEntry(const v1::AppendEntry& entry, StreamEntry& stream,
                            PreparedEntry* prepared);
  absl::Status CheckOverlap(const v1::AppendEntry& entry, const StreamEntry& stream,
                            uint64_t count);
  void PutTokens(const v1::AppendEntry& entry, const PreparedEntry& prepared,
                 const StreamEntry& stream, rocksdb::WriteBatch* batch) const;

  // store_snapshot.cc
  absl::Status CheckSnapshot(const StreamEntry& stream, const v1::PutSnapshotHeader& header);
  absl::StatusOr<v1::SnapshotInfo> PublishSnapshot(const v1::PutSnapshotHeader& header,
                                                   const BlobWriter& blob);
  void DropBrokenSnapshot(const std::string& stream_id, const std::string& blob_id);

  // store_fork.cc
  absl::Status Truncate(StreamEntry& stream, uint64_t position, StreamRecord* after,
                        rocksdb::WriteBatch* batch);
  absl::StatusOr<v1::StreamInfo> RewoundBefore(const StreamEntry& stream,
                                               const v1::RewindInfo& done,
                                               const v1::RewindStreamRequest& request) const;
  static absl::StatusOr<uint64_t> RewindTarget(const StreamEntry& stream,
                                               const v1::RewindStreamRequest& request);
  absl::StatusOr<bool> OnlyReader(memory::LogId log_id, const std::string& uid) const;

  // store_collect.cc
  absl::Status DeleteLocked(StreamEntry& stream);
  absl::Status ExpireStreams();
  absl::Status ExpireStream(StreamEntry& stream, int64_t now_ms);
  absl::Status NoteDoubtfulBlobs();
  absl::Status CollectGarbage();
  absl::Status CollectLog(const std::string& note);
  // A file that cannot be removed stays noted, said in `stuck`: it keeps nothing behind it.
  absl::Status CollectBlob(const std::string& note, absl::Status* stuck);
  void CollectLoop();

  const StoreOptions options_;
  std::unique_ptr<RecordDb> db_;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<StreamTable> table_;
  LeaseTable leases_;

  std::mutex log_ids_mu_;
  memory::LogId next_log_id_ = 1;      // guarded by log_ids_mu_
  memory::LogId reserved_log_id_ = 1;  // guarded by log_ids_mu_: ids below are ours on disk

  mutable std::mutex counts_mu_;
  mutable StoreStats counts_;  // guarded by counts_mu_

  ExpiryQueue expiry_;

  std::mutex unfinished_mu_;
  std::set<std::string> unfinished_;  // guarded by unfinished_mu_: ids; more than there are is fine

  std::mutex doubtful_mu_;
  std::vector<std::string> doubtful_blobs_;  // guarded by doubtful_mu_: their commit failed

  std::mutex collect_mu_;  // one round at a time
  // Held from a look at who reads a log to the commit that follows from it, by the collector and by
  // a reader that becomes the log's writer. Taken after a stream's lock.
  std::mutex log_readers_mu_;
  std::mutex stop_mu_;
  std::condition_variable stop_changed_;
  bool stop_ = false;  // guarded by stop_mu_
  std::thread collector_;
};

}  // namespace lola::store

#endif  // LOLA_MEMORY_STORE_STORE_IMPL_H_
