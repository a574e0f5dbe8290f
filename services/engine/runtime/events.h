// What clients of the engine ask for and what they are told. Plain values.
#ifndef LOLA_SERVICES_ENGINE_RUNTIME_EVENTS_H_
#define LOLA_SERVICES_ENGINE_RUNTIME_EVENTS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "memory/stream/settings.h"
#include "services/engine/runtime/arithmetic.h"
#include "services/engine/runtime/stream_backend.h"
#include "services/engine/sampler.h"
#include "services/engine/stop_matcher.h"

namespace lola::engine {

// Payload of a RESOURCE_EXHAUSTED that waiting does not lift; the others pass.
inline constexpr char kLastingPayload[] = "lola.engine/lasting";

// Sampling given field by field; what is absent comes from the stream's record.
struct SamplingOverrides {
  std::optional<float> temperature;
  std::optional<uint32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> repetition_penalty;
  std::optional<uint32_t> repetition_window;
  std::optional<uint64_t> seed;

  SamplingParams Over(SamplingParams base) const {
    base.temperature = temperature.value_or(base.temperature);
    base.top_k = top_k.value_or(base.top_k);
    base.top_p = top_p.value_or(base.top_p);
    base.repetition_penalty = repetition_penalty.value_or(base.repetition_penalty);
    base.repetition_window = repetition_window.value_or(base.repetition_window);
    base.seed = seed.value_or(base.seed);
    return base;
  }
};

struct AttachRequest {
  std::string stream_id;
  bool create_if_missing = false;
  bool takeover = false;
  std::string tenant;                            // at creation
  std::map<std::string, std::string> labels;     // at creation
  std::optional<memory::LolaSettings> settings;  // resolved; must match an existing stream
  SamplingOverrides sampling;                    // stream defaults, at creation
  Durability durability = Durability::kLocal;
  // Deliver every committed token from here on first; nothing below it is delivered afterwards.
  std::optional<uint64_t> after_position;
  // Instead, the operation that was cut off comes again with its base: its tokens from
  // after_position on are delivered as its own, with the text an undisturbed run gives them.
  bool resume = false;
  std::string model_fingerprint;  // refuse any other; empty = whatever is served
  int64_t ttl_ms = 0;
};

struct AppendOp {
  uint64_t seq = 0;
  std::optional<uint64_t> base;  // absent: at the end
  std::vector<int32_t> ids;
  // Instead of `ids` when the append begins the stream: a text that starts a sequence may get other
  // tokens than one that goes on (Tokenizer::prefix, EncodeOptions::starts_text).
  std::optional<std::vector<int32_t>> ids_at_start;
};

struct GenerateOp {
  uint64_t seq = 0;
  std::optional<uint64_t> base;  // absent: at the end; below the end: continue what is logged
  uint64_t max_tokens = 0;
  std::vector<std::string> stops;
  SamplingOverrides sampling;
  bool logprobs = false;
  bool ignore_eos = false;
  bool cancelled = false;  // only deliver what is logged already
};

// How the state came to this worker.
struct RestoreReport {
  enum class Kind : uint8_t { kNew, kResident, kRestored };
  Kind kind = Kind::kNew;
  uint64_t reused_tokens = 0;      // covered by the snapshot
  uint64_t replayed_tokens = 0;    // recomputed from the log
  uint64_t skipped_snapshots = 0;  // newer ones that could not be used
  double seconds = 0;
  Continuation continuation = Continuation::kUnknown;
  std::string instruction_class;  // of this worker
  Classes computed_by;            // what it goes on from
};
std::string_view RestoreKindName(RestoreReport::Kind kind);

struct OpenedEvent {
  StreamRecord record;
  uint64_t position = 0;  // stream length
  RestoreReport restore;
};

struct TokensEvent {
  uint64_t seq = 0;  // operation; 0 = replay asked for by after_position
  uint64_t position = 0;
  std::vector<int32_t> ids;
  std::string text;             // valid UTF-8
  std::vector<float> logprobs;  // as many as ids, or empty
  TokenAuthor author = TokenAuthor::kModel;
  bool replayed = false;  // read from the log
};

struct DoneEvent {
  uint64_t seq = 0;
  bool append = false;                        // an append: `reason` means nothing
  FinishReason reason = FinishReason::kNone;  // of a generation
  uint64_t position = 0;                      // stream length after the operation
  uint64_t appended_tokens = 0;
  uint64_t generated_tokens = 0;
  uint64_t state_bytes = 0;
};

// Receives what happens to one attachment. Called from the scheduler thread only, one call at a
// time, in order; calls must not block. OnReleased or OnError is the last call.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void OnOpened(OpenedEvent event) = 0;
  virtual void OnTokens(TokensEvent event) = 0;
  // Everything below `position` survives any crash.
  virtual void OnDurable(uint64_t position) = 0;
  virtual void OnDone(DoneEvent event) = 0;
  // The stream has left this worker; attach at `target`, or anywhere when empty.
  virtual void OnReleased(std::string target) = 0;
  virtual void OnError(absl::Status status) = 0;
  // False while the receiver is slow: generation and replay pause until Engine::Poke().
  virtual bool Writable() const = 0;
};

// Sparse cache content, for people.
struct CachedPairReport {
  uint64_t position = 0;
  float score = 0;
  float recall_error = 0;
};
struct HeadReport {
  uint32_t layer = 0;
  uint32_t head = 0;
  uint64_t absorbed_pairs = 0;
  std::vector<CachedPairReport> pairs;  // ascending position
};
struct MemoryReport {
  uint64_t position = 0;
  uint64_t state_bytes = 0;
  std::string state_digest;  // 32 hex digits
  Classes computed_by;
  std::vector<HeadReport> heads;
};

struct ReleaseResult {
  uint64_t position = 0;
  std::optional<SnapshotRecord> snapshot;  // the newest one, when there is any
};

struct PrepareResult {
  uint64_t position = 0;
  RestoreReport restore;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_RUNTIME_EVENTS_H_
