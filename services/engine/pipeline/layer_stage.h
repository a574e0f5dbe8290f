// A range of a model's layers with the state sections of these layers, in host memory: what a stage
// of a pipeline is made of, the front's own range included. Knows nothing of links.
// Not thread-safe.
#ifndef LOLA_SERVICES_ENGINE_PIPELINE_LAYER_STAGE_H_
#define LOLA_SERVICES_ENGINE_PIPELINE_LAYER_STAGE_H_

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/thread_pool.h"
#include "memory/stream/arena.h"
#include "memory/stream/layout.h"
#include "services/engine/model.h"
#include "services/engine/pipeline/stage_link.h"

namespace lola::engine {

// Bytes of a stage's slot, given that a slot for a whole record of this model has `slot_bytes`: the
// same share that its layers have in a record of the default settings.
size_t StageSlotBytes(const Model& model, const LayerRange& layers, size_t slot_bytes);

class LayerStage {
 public:
  // Takes the memory for all slots and for steps of terms.rows_max rows. FAILED_PRECONDITION naming
  // the field and both values where the terms do not fit the model; INVALID_ARGUMENT for numbers
  // that make no sense, RESOURCE_EXHAUSTED when the memory is not there.
  static absl::StatusOr<std::unique_ptr<LayerStage>> Create(std::shared_ptr<const Model> model,
                                                            const StageTerms& terms, int threads);

  const Model& model() const { return *model_; }
  uint64_t rows_max() const { return workspace_.max_rows(); }
  size_t slots() const { return slots_.size(); }

  // OK when a record of these (whole-model) settings fits a slot.
  absl::Status CheckSettings(const memory::LolaSettings& settings) const;
  absl::Status Reset(size_t slot, const memory::LolaSettings& settings);
  // Memory of `bytes` to fill with the sections of these layers; Loaded() then checks them.
  // INVALID_ARGUMENT when slot or size are wrong.
  absl::StatusOr<std::span<std::byte>> BeginLoad(size_t slot, const memory::LolaSettings& settings,
                                                 uint64_t position, size_t bytes);
  // DATA_LOSS when counters and positions make no sense; the slot is empty then.
  absl::Status Loaded(size_t slot);

  // Floats that Step writes for these segments.
  size_t OutputFloats(std::span<const StageSegment> segments) const;
  // Why Step would refuse the segment: its slot, a token, a full window; else OK.
  absl::Status Check(const StageSegment& segment);
  // `hidden`: rows of all segments in order, empty where the stage has layer 0. `out` gets rows, or
  // with the last layer the wanted logits. INVALID_ARGUMENT or FAILED_PRECONDITION, with nothing
  // touched, when the call as a whole is wrong.
  absl::Status Step(std::span<const StageSegment> segments, std::span<const float> hidden,
                    std::span<float> out, StageOutcome* outcome);

  // Of a slot in use. INVALID_ARGUMENT for others.
  absl::StatusOr<std::span<const std::byte>> Sections(size_t slot) const;
  // REQUIRES: the slot was Reset or Loaded.
  uint64_t position(size_t slot) const;

 private:
  struct Slot {
    memory::LolaSettings settings;  // cut down to the layers
    std::optional<memory::StateLayout> layout;
    bool loading = false;
    bool in_step = false;
  };

  LayerStage(std::shared_ptr<const Model> model, const StageTerms& terms, int threads,
             std::unique_ptr<memory::StreamArena> arena);
  absl::Status Prepare(size_t slot, const memory::LolaSettings& settings);
  absl::Status CheckSlot(size_t slot) const;
  absl::Status CheckStep(std::span<const StageSegment> segments, size_t hidden_floats,
                         size_t out_floats);
  std::span<std::byte> Record(size_t slot) const;
  Segment MakeSegment(const StageSegment& part);

  const std::shared_ptr<const Model> model_;
  const std::unique_ptr<memory::StreamArena> arena_;
  std::vector<Slot> slots_;
  kernels::ThreadPool pool_;
  StepWorkspace workspace_;
  std::vector<Segment> segments_;  // of the step at hand
  std::vector<memory::MemoryStats> stats_;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_PIPELINE_LAYER_STAGE_H_
