#ifndef LOLA_MEMORY_STORE_STREAM_STORE_H_
#define LOLA_MEMORY_STORE_STREAM_STORE_H_

// The durable side of one shard: stream records, token logs, ownership, snapshots. Knows records
// and bytes, not models: a state's blob is checked by its own checksums only.
//
// All methods may be called from any thread and block on the disk. Requests and answers are the
// wire messages of lola.v1; what a method promises is durable when it returns. One write makes a
// change visible: readers see whole versions only. What an owner changes carries its epoch, which
// is compared inside the commit; Rewind fences it by a new one, Delete by the stream's absence.
//
// Errors (all methods; messages name the field and both values, nothing is changed):
//   NOT_FOUND            no such stream, snapshot
//   INVALID_ARGUMENT     a value that can never be accepted (memory/limits.h)
//   ALREADY_EXISTS       the stream or the snapshot's name is there, made by another request
//   FAILED_PRECONDITION  owned by somebody else, wrong model, other tokens at a position
//   OUT_OF_RANGE         a position beyond the committed end
//   ABORTED              stale epoch: a newer owner exists
//   RESOURCE_EXHAUSTED   a limit, or the disk is full (names the path); later calls work again
//   UNAVAILABLE          a stream whose copy from another shard is not complete; a disk that fails:
//                        the same call later, perhaps after a restart, says what became of it
//   DATA_LOSS            stored bytes are damaged (names the file)

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lola/v1/common.pb.h"
#include "lola/v1/memory.pb.h"
#include "memory/env/clock.h"
#include "memory/env/file_env.h"
#include "memory/ids.h"
#include "memory/limits.h"
#include "memory/store/blob_check.h"
#include "memory/store/store_stats.h"

namespace rocksdb {
class Env;
}

namespace lola::store {

struct StoreOptions {
  std::string directory;                             // made when missing; one process at a time
  uint32_t partitions = memory::kPartitionsDefault;  // must equal the one the store was made with
  uint64_t streams_max = memory::kStreamsPerShardMax;
  size_t automatic_snapshots_kept = memory::kAutomaticSnapshotsKept;
  // Memory for cached records and log blocks, bytes.
  size_t cache_bytes = 64u << 20;
  // Makes the check that a snapshot passes while it streams in, before it becomes visible:
  // NewSnapshotCheck (snapshot_check.h). Null: bytes are taken as they are, for tests of the store.
  BlobCheckFactory blob_check;
  // Pause between rounds of expiry and collection; 0: only when CollectNow is called.
  int64_t collect_every_ms = 1000;
  memory::Clock* clock = memory::Clock::Real();
  memory::FileEnv* files = memory::FileEnv::Real();  // of blobs
  rocksdb::Env* record_env = nullptr;  // of records; null: the machine's. For fault tests
};

// A snapshot on its way in. One thread at a time. Dropped unfinished, it leaves nothing.
class SnapshotUpload {
 public:
  virtual ~SnapshotUpload() = default;
  // Bytes in order, any pieces. The first error is final.
  virtual absl::Status Write(std::string_view data) = 0;
  // Checks digest, size and position, makes the blob durable and visible. Call once, last.
  virtual absl::StatusOr<v1::SnapshotInfo> Commit() = 0;
};

// A snapshot on its way out. One thread at a time. Stays readable when the stream is deleted.
class SnapshotDownload {
 public:
  virtual ~SnapshotDownload() = default;
  virtual const v1::SnapshotInfo& info() const = 0;
  // Puts the next piece into `piece`, at most `bytes_max`; empty at the end. DATA_LOSS at the
  // latest with the last piece when the file is not what was written: the file is then set aside as
  // *.broken, and the snapshot leaves the stream's list.
  virtual absl::Status Next(size_t bytes_max, std::string* piece) = 0;
};

// Tokens on their way out: one consistent version of the log. One thread at a time.
class TokenReader {
 public:
  virtual ~TokenReader() = default;
  // The next run (one author, at most kTokenRunMax ids); false at the end.
  virtual absl::StatusOr<bool> Next(v1::TokenRun* run) = 0;
};

// Uploads, downloads and readers must be gone before the store is.
class StreamStore {
 public:
  static absl::StatusOr<std::unique_ptr<StreamStore>> Open(const StoreOptions& options);
  virtual ~StreamStore() = default;

  // A retry with the same request_id returns the same stream. `unfinished`: the child of a fork
  // that its creator copies here from another shard. Until it is released `finished` all others get
  // UNAVAILABLE for it; it is removed when its copier releases it before, or has no lease any more.
  virtual absl::StatusOr<v1::StreamInfo> Create(const v1::CreateStreamRequest& request) = 0;
  virtual absl::StatusOr<v1::StreamInfo> Describe(std::string_view stream_id) = 0;
  // In order of id. `page_token` is the one of the last answer. A page of large streams, or of few
  // that match, ends early: only an empty token is the end.
  virtual absl::StatusOr<v1::ListStreamsReply> List(const v1::ListStreamsRequest& request) = 0;

  // epoch + 1 for the caller. While another instance's lease runs: FAILED_PRECONDITION whose
  // payload kOwnerPayload is the owner's address, unless `takeover`.
  virtual absl::StatusOr<v1::AcquireReply> Acquire(const v1::AcquireRequest& request) = 0;
  // Does not touch the disk.
  virtual absl::StatusOr<v1::RenewReply> Renew(const v1::RenewRequest& request) = 0;
  virtual absl::Status Release(const v1::ReleaseRequest& request) = 0;

  // All entries in one write; concurrent callers share a sync. Refusals are per entry; the status
  // is an error only when the request as a whole cannot be read or the write failed.
  virtual absl::StatusOr<v1::AppendBatchReply> Append(const v1::AppendBatchRequest& request) = 0;
  virtual absl::StatusOr<std::unique_ptr<TokenReader>> ReadTokens(
      const v1::ReadTokensRequest& request) = 0;

  virtual absl::StatusOr<std::unique_ptr<SnapshotUpload>> PutSnapshot(
      const v1::PutSnapshotHeader& header) = 0;
  virtual absl::StatusOr<std::unique_ptr<SnapshotDownload>> GetSnapshot(
      const v1::GetSnapshotRequest& request) = 0;

  // O(1): shares blobs and log. The child starts ownerless, with the newest snapshots at or before
  // the position; the state at position 0 needs none. A retry with the same request_id returns the
  // same child; for another position it is ALREADY_EXISTS.
  virtual absl::StatusOr<v1::StreamInfo> Fork(const v1::ForkStreamRequest& request) = 0;
  // Forgets tokens and snapshots behind the position; epoch + 1, no owner afterwards. A request_id
  // that is known (the newest kRewindIdsKept) changes nothing and gets the answer it got.
  virtual absl::StatusOr<v1::StreamInfo> Rewind(const v1::RewindStreamRequest& request) = 0;
  // With a uid only that stream: NOT_FOUND when its id was made anew.
  virtual absl::Status Delete(std::string_view stream_id, std::string_view stream_uid = "") = 0;

  // Counts and bytes; shard_id and partitions are the caller's to fill.
  virtual v1::ShardInfo DescribeShard() = 0;
  virtual StoreStats Stats() const = 0;
  // OK, or what keeps the store from writing until it is opened anew. Does not touch the disk.
  virtual absl::Status Health() const = 0;

  // One round of expiry and collection, now. Deleted streams' blobs and logs, files of broken-off
  // uploads: gone when this returns, except what something still shares.
  virtual absl::Status CollectNow() = 0;

  // Compares records, references, blob files and logs; returns what does not fit, one line each.
  // Slow, for tests and operators; consistent only while nothing else changes the store.
  virtual absl::StatusOr<std::vector<std::string>> Audit() = 0;
};

// Payload of a refused Acquire: the owner's address.
inline constexpr char kOwnerPayload[] = "lola.v1/owner";

}  // namespace lola::store

#endif  // LOLA_MEMORY_STORE_STREAM_STORE_H_
