// What the front of a pipeline sees of one later stage, wherever it runs: slots for the state
// sections of its layers, and steps that take rows of the residual stream and give back rows of it,
// or logits. Implementations: gRPC (services/worker/stage_client.h), and one in tests.
//
// Threads: Open, Reset, Load, StartStep, FinishStep, Copy and CountCached from one thread (the
// scheduler's); state() and what Copy returned from any thread; the rest is immutable.
#ifndef LOLA_SERVICES_ENGINE_PIPELINE_STAGE_LINK_H_
#define LOLA_SERVICES_ENGINE_PIPELINE_STAGE_LINK_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/stream/settings.h"
#include "memory/stream/statistics.h"
#include "services/engine/layer_range.h"
#include "services/engine/sampler.h"

namespace lola::engine {

// What a session with a stage is about. The stage refuses what is not as it is there.
struct StageTerms {
  std::string front;  // who asks, for messages and logs
  std::string model_fingerprint;
  LayerRange layers;
  uint32_t model_layers = 0;
  uint32_t hidden = 0;
  uint32_t vocab = 0;
  std::string weight_dtype;
  std::string instruction_class;  // states continue bit for bit within one class only
  uint64_t slot_bytes = 0;        // of a record cut down to the layers; a multiple of 4096
  uint64_t slots = 0;
  uint64_t rows_max = 0;  // of one step
};

// One stream's part of a step.
struct StageSegment {
  size_t slot = 0;
  uint64_t position = 0;            // of the stream before the step; the stage checks it
  uint32_t rows = 0;                // at least one
  uint32_t logits_rows = 0;         // logits wanted for the last n of them; last stage only
  std::span<const int32_t> tokens;  // `rows` of them; stage with layer 0 only
  // Asks a last stage that samples for a token after the last row; no logits then.
  const SamplingParams* sampling = nullptr;
  std::span<const int32_t> recent{};  // newest tokens of the stream, beside `sampling`
};

// What became of a segment.
struct SegmentOutcome {
  bool advanced = false;   // false: refused before anything was touched, see status
  absl::Status status;     // as Segment::status
  SampledToken sampled{};  // when a token was asked for
};

struct StageOutcome {
  std::vector<SegmentOutcome> segments;
  memory::MemoryStats stats;  // of all segments and the stage's layers
};

// Waits for the sections of a copy and writes them to memory of their size. Call at most once.
using PieceCopy = std::function<absl::Status(std::span<std::byte> to)>;

class StageLink {
 public:
  virtual ~StageLink() = default;

  virtual std::string name() const = 0;  // host:port
  virtual const LayerRange& layers() const = 0;
  // What the stage computes with; states continue bit for bit within one class only.
  virtual std::string instruction_class() const = 0;
  // True: StageSegment::sampling is honoured.
  virtual bool samples() const = 0;

  // Begins to open a session, and tries again until one is open; state() tells how it stands.
  // Nothing happens while one is open or being opened. All slots are empty afterwards.
  virtual void Open(const StageTerms& terms) = 0;
  // OK: a session is open. UNAVAILABLE: the stage cannot be reached, is another front's, or the
  // session broke. Another code: it refused the terms, naming field and both values.
  virtual absl::Status state() const = 0;

  // UNAVAILABLE from any of the following, and any failure of a step, ends the session: state()
  // is not OK until the next Open.

  // Settings are the whole model's. Makes the slot an empty stream.
  virtual absl::Status Reset(size_t slot, const memory::LolaSettings& settings) = 0;
  // `sections`, of the stage's layers (PieceOf), become the slot's state. They leave beside steps,
  // which do not wait for them; `owner` keeps them alive. `done` is called once, on any thread,
  // perhaps before the return; until then nothing else may be asked of the slot.
  virtual void Load(size_t slot, const memory::LolaSettings& settings, uint64_t position,
                    std::shared_ptr<void> owner, std::span<const std::byte> sections,
                    std::function<void(absl::Status)> done) = 0;
  // Sends a step off. `hidden`: rows of all segments in order, not read after the return.
  virtual absl::Status StartStep(std::span<const StageSegment> segments,
                                 std::span<const float> hidden) = 0;
  // Waits for the step that was started; nothing else is called in between. `out` gets as many rows
  // as were sent, or with the last layer the wanted logits, of all segments in order.
  virtual absl::Status FinishStep(std::span<float> out, StageOutcome* outcome) = 0;
  // Starts a copy of the slot's sections, `bytes` of them, as of the last step.
  virtual absl::StatusOr<PieceCopy> Copy(size_t slot, size_t bytes) = 0;
  // Pairs in the sparse caches of each slot, in the stage's layers.
  virtual absl::Status CountCached(std::span<const size_t> slots, std::span<uint64_t> cached) = 0;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_PIPELINE_STAGE_LINK_H_
