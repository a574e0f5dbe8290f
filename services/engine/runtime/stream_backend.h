// What the engine needs from the memory shards, as an asynchronous interface in domain terms. The
// worker service implements it over gRPC; tests implement it in memory. A backend speaks for one
// worker instance: it knows the worker's address, instance name and lease time.
//
// Threads: methods are called from the engine's scheduler thread and its upload thread. Callbacks
// run exactly once, on any thread, possibly before the method returns; they do not block.
// Errors are canonical: UNAVAILABLE and DEADLINE_EXCEEDED mean "try again"; ABORTED means the owner
// epoch is stale; NOT_FOUND the stream or blob is gone; DATA_LOSS stored bytes are damaged.
#ifndef LOLA_SERVICES_ENGINE_RUNTIME_STREAM_BACKEND_H_
#define LOLA_SERVICES_ENGINE_RUNTIME_STREAM_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/stream/settings.h"
#include "services/engine/runtime/arithmetic.h"
#include "services/engine/sampler.h"

namespace lola::engine {

enum class TokenAuthor : uint8_t { kClient = 1, kModel = 2 };
enum class Durability : uint8_t { kLocal, kNone };

// Tokens [position, position + ids.size()) of one author.
struct TokenRun {
  uint64_t position = 0;
  TokenAuthor author = TokenAuthor::kClient;
  std::vector<int32_t> ids;
};

struct SnapshotRecord {
  std::string blob_id;
  uint64_t position = 0;  // length of the stream it stands for
  std::string digest;     // 16 bytes
  uint64_t size_bytes = 0;
  std::string name;  // empty = automatic
  int64_t created_unix_ms = 0;
  uint64_t state_position = 0;  // tokens consumed by the state in it; 0 = `position`
  Classes computed_by;          // empty = not known

  uint64_t state() const { return state_position > 0 ? state_position : position; }
};

struct StreamRecord {
  std::string stream_id;
  std::string stream_uid;
  std::string tenant;
  std::map<std::string, std::string> labels;
  std::string model_fingerprint;
  memory::LolaSettings settings;
  SamplingParams sampling;
  uint64_t committed_position = 0;
  std::string owner;
  uint64_t owner_epoch = 0;
  int64_t lease_remaining_ms = 0;
  std::vector<SnapshotRecord> snapshots;  // oldest first
  std::string parent;
  uint64_t forked_at = 0;
  int64_t created_unix_ms = 0;
  int64_t last_used_unix_ms = 0;
  int64_t ttl_ms = 0;
  uint32_t partition = 0;
  uint64_t state_bytes = 0;
  std::string instruction_class;  // of the owner, or the last one; empty = not known
};

struct CreateRequest {
  std::string stream_id;
  std::string tenant;
  std::map<std::string, std::string> labels;
  std::string model_fingerprint;
  memory::LolaSettings settings;  // resolved
  SamplingParams sampling;        // resolved
  int64_t ttl_ms = 0;
  uint64_t state_bytes = 0;
};

struct AcquireRequest {
  std::string stream_id;
  std::string model_fingerprint;
  bool takeover = false;
  std::string instruction_class;  // what this worker computes with
};

struct AcquiredStream {
  StreamRecord record;
  uint64_t epoch = 0;
  std::string previous_class;  // of the owner before; empty = there was none, or not known
};

// New tokens of one stream; runs are adjacent and start at the committed position.
struct AppendEntry {
  std::string stream_id;
  uint64_t epoch = 0;
  std::vector<TokenRun> runs;
};

struct AppendBatch {
  std::vector<AppendEntry> entries;
  Durability durability = Durability::kLocal;
};

struct AppendResult {
  absl::Status status;
  uint64_t committed_position = 0;  // when the status is OK
};

// A snapshot blob on its way to the shard. Immutable; read from any thread.
class SnapshotBlob {
 public:
  virtual ~SnapshotBlob() = default;
  virtual uint64_t size_bytes() const = 0;
  // The longest run of bytes at `offset` in one piece of memory, at most `max_bytes`.
  virtual std::span<const std::byte> Piece(uint64_t offset, size_t max_bytes) const = 0;
};

struct PutSnapshotRequest {
  std::string stream_id;
  uint64_t epoch = 0;
  uint64_t position = 0;
  std::string digest;           // 16 bytes
  std::string name;             // empty = automatic
  uint64_t state_position = 0;  // as SnapshotRecord's
  Classes computed_by;
  std::shared_ptr<const SnapshotBlob> blob;
};

class StreamBackend {
 public:
  template <typename T>
  using Callback = std::function<void(absl::StatusOr<T>)>;
  using StatusCallback = std::function<void(absl::Status)>;
  // Takes the next bytes of a blob; an error ends the download.
  using ByteSink = std::function<absl::Status(std::span<const std::byte>)>;

  virtual ~StreamBackend() = default;

  // Appends of streams of one shard travel together. ShardOf < shards().
  virtual size_t shards() const = 0;
  virtual size_t ShardOf(std::string_view stream_id) const = 0;

  // ALREADY_EXISTS when the id is taken.
  virtual void Create(CreateRequest request, Callback<StreamRecord> done) = 0;
  virtual void Describe(std::string stream_id, Callback<StreamRecord> done) = 0;
  // Become owner: epoch + 1. FAILED_PRECONDITION while another owner's lease runs, unless takeover.
  virtual void Acquire(AcquireRequest request, Callback<AcquiredStream> done) = 0;
  // Extends the leases of everything this instance owns, on all shards. Called again before the
  // last answer is there: an answer later than the lease is of no use, so wait no longer.
  virtual void Renew(StatusCallback done) = 0;
  virtual void Release(std::string stream_id, uint64_t epoch, StatusCallback done) = 0;

  // One durable write; entries succeed or fail on their own. Repeating a batch whose tokens are
  // already there is OK. REQUIRES: all entries belong to `shard`.
  virtual void Append(size_t shard, std::shared_ptr<const AppendBatch> batch,
                      Callback<std::vector<AppendResult>> done) = 0;
  // All tokens of [from, to), from < to; in order and without holes, or an error.
  virtual void ReadTokens(std::string stream_id, uint64_t from, uint64_t to,
                          Callback<std::vector<TokenRun>> done) = 0;

  virtual void PutSnapshot(PutSnapshotRequest request, Callback<SnapshotRecord> done) = 0;
  // `sink` is called with the blob's bytes in order, from one thread at a time, before `done`.
  virtual void GetSnapshot(std::string stream_id, std::string blob_id, ByteSink sink,
                           StatusCallback done) = 0;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_RUNTIME_STREAM_BACKEND_H_
