// What the scheduler knows about one stream, one attachment, one operation. Internal to the engine;
// touched by the scheduler thread only.
//
// Invariants: committed <= end; tail.end() <= end, equal outside a restore; consumed <= tail.end();
// a stream without a slot has committed == end and consumed == 0 in memory.
#ifndef LOLA_SERVICES_ENGINE_RUNTIME_STREAM_H_
#define LOLA_SERVICES_ENGINE_RUNTIME_STREAM_H_

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "memory/snapshot/writer.h"
#include "memory/stream/layout.h"
#include "services/engine/runtime/engine.h"
#include "services/engine/runtime/snapshot_uploader.h"
#include "services/engine/runtime/token_tail.h"

namespace lola::engine {

using Time = std::chrono::steady_clock::time_point;

struct Stream;
using StreamPtr = std::shared_ptr<Stream>;

// Exponential waiting for a shard that is away.
struct Backoff {
  std::optional<Time> since;  // first failure in a row
  std::chrono::milliseconds delay{0};
  void Reset() { since.reset(); }
};

// Replay of the log to one attachment (`after_position`), page by page.
struct LogReplay {
  uint64_t next = 0;          // next position to read
  uint64_t deliver_from = 0;  // tokens before it only prime the decoder
  uint64_t until = 0;
  bool reading = false;
  TextDecoder decoder;
  Backoff backoff;
};

struct Op {
  enum class Kind : uint8_t { kAppend, kGenerate, kSnapshot, kInspect };
  // kQueued -> [kFetching ->] kGenerating | kSettling -> kProduced | kFailed
  enum class Stage : uint8_t {
    kQueued,
    kFetching,
    kFetched,
    kGenerating,
    kSettling,
    kProduced,
    kFailed
  };
  struct Output {
    uint64_t position = 0;
    SampledToken token;
    std::string text;
    bool replayed = false;
    Time sampled;
  };

  Kind kind = Kind::kAppend;
  Stage stage = Stage::kQueued;
  AttachmentId attachment = 0;  // 0 = nobody listens (any more)
  uint64_t seq = 0;
  std::optional<uint64_t> base;
  Time received;
  absl::Status status;  // of kFailed
  uint64_t end = 0;     // of kProduced: the stream's length after it

  std::vector<int32_t> ids;  // append
  std::optional<std::vector<int32_t>> ids_at_start;

  GenerateOp generate;
  SamplingParams sampling;
  std::optional<StopMatcher> matcher;
  std::deque<Output> outbox;  // decided, not yet delivered
  std::string last_text;      // text released by a cancel
  FinishReason reason = FinishReason::kNone;
  uint64_t generated = 0;
  bool cancelled = false;
  bool first_delivered = false;

  std::vector<TokenRun> fetched;  // log tokens that are no longer in the tail
  uint64_t fetch = 0;             // of kFetching: the number of the answer that is awaited
  Backoff backoff;

  std::string snapshot_name;
  Engine::Callback<SnapshotRecord> on_snapshot;
  std::optional<uint32_t> layer, head;
  Engine::Callback<MemoryReport> on_inspect;
};

struct Attachment {
  AttachmentId id = 0;
  AttachRequest request;
  std::shared_ptr<EventSink> sink;
  StreamPtr stream;                        // null until the stream is known to be ours
  std::vector<std::unique_ptr<Op>> early;  // operations that came before
  Backoff backoff;
  bool opened = false;
  uint64_t cursor = 0;  // nothing below is delivered (any more)
  uint64_t durable_told = 0;
  std::optional<LogReplay> replay;
  std::optional<Time> last_delivery;
};

// One attempt to bring a state back; callbacks of an abandoned one find another object here.
struct Restore {
  Time started;
  std::vector<SnapshotRecord> candidates;  // best first
  size_t next_candidate = 0;
  uint64_t skipped = 0;
  uint64_t reused = 0;
  Classes computed_by;  // of the snapshot it goes on from
  bool reading_page = false;
  bool log_loaded = false;  // the tail has its beginning; pages may follow
  // Nothing of the download under way is written from the return on: the slot changes hands. Null
  // when there was none.
  std::function<void()> stop_download;
  Backoff backoff;
};

struct Closing {
  std::string target;
  std::vector<Engine::Callback<ReleaseResult>> done;
  bool skip_snapshot = false;
  bool releasing = false;
  Backoff backoff;
};

enum class Phase : uint8_t {
  kAcquiring,  // describe, create, acquire under way
  kParked,     // owned, state at the shard
  kWaiting,    // for a slot, or for its own snapshot to arrive at the shard
  kRestoring,  // has a slot; snapshot and log tail on their way, or being replayed
  kReady,      // resident
  kGone,
};

struct Stream {
  std::string id;
  Phase phase = Phase::kAcquiring;
  bool takeover = false;
  std::optional<AttachRequest> create;  // how to create it when it does not exist
  StreamRecord record;
  uint64_t epoch = 0;
  size_t shard = 0;
  memory::SnapshotIdentity identity;
  std::optional<memory::StateLayout> layout;
  Backoff backoff;

  std::optional<size_t> slot;
  TokenTail tail;
  uint64_t end = 0;
  uint64_t committed = 0;
  uint64_t consumed = 0;
  bool appending = false;      // an entry of this stream is in the append in flight
  std::vector<float> settled;  // logits after all `end` tokens; empty = not known
  uint64_t settled_at = 0;

  std::deque<std::unique_ptr<Op>> ops;
  std::vector<std::shared_ptr<Attachment>> attachments;
  std::vector<Engine::Callback<PrepareResult>> on_ready;

  bool record_fresh = false;  // `record` is what the shard answered a moment ago
  std::shared_ptr<Restore> restore;
  RestoreReport report;
  // Who computed the newest tokens before this worker restored the stream for the first time; own
  // class afterwards.
  std::string previous_class;
  Classes computed_by;                            // whose arithmetic is in the slot's state
  uint64_t cached_pairs = 0, cache_capacity = 0;  // when they were last counted
  bool restore_below_end = false;                 // logits at the end are wanted: start below it
  bool poisoned = false;                          // the state in the slot is not to be used
  bool preempt = false;

  uint64_t snapshot_position = 0;  // newest durable one; 0 = none
  std::optional<SnapshotRecord> newest_snapshot;
  uint64_t next_checkpoint = 0;
  std::shared_ptr<SnapshotJob> upload;  // waiting for its commit or in flight
  bool upload_submitted = false;
  Engine::Callback<SnapshotRecord> on_upload;

  Time last_used;
  Time slot_since;
  Time waiting_since;
  std::optional<Closing> closing;

  bool gone() const { return phase == Phase::kGone; }
  Op* active() const {  // the operation being worked on
    for (const auto& op : ops) {
      if (op->stage != Op::Stage::kProduced && op->stage != Op::Stage::kFailed) return op.get();
    }
    return nullptr;
  }
  // Nothing runs and nothing is on its way to the log.
  bool quiet() const {
    return phase == Phase::kReady && ops.empty() && committed == end && !appending && !closing;
  }
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_RUNTIME_STREAM_H_
