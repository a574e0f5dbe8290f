// A range of a model's layers with the state sections of these layers: what a stage of a pipeline
// is made of, the front's own range included. Knows nothing of links. Where the states are and what
// computes is the implementation's: host memory and the CPU (host_stage.h), or a device
// (services/engine/device/device_stage.h).
//
// Not thread-safe, except what Copy returned, the space of a load, and StageMaker.
#ifndef LOLA_SERVICES_ENGINE_PIPELINE_LAYER_STAGE_H_
#define LOLA_SERVICES_ENGINE_PIPELINE_LAYER_STAGE_H_

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/stream/layout.h"
#include "services/engine/model.h"
#include "services/engine/pipeline/stage_link.h"
#include "services/engine/runtime/resident_states.h"
#include "services/engine/runtime/statistics.h"

namespace lola::engine {

// Bytes of a stage's slot, given that a slot for a whole record of this model has `slot_bytes`: the
// same share that its layers have in a record of the default settings.
size_t StageSlotBytes(const Model& model, const LayerRange& layers, size_t slot_bytes);

// OK when the terms are those of this model and class. FAILED_PRECONDITION naming the field and
// both values where they are not, INVALID_ARGUMENT for numbers that make no sense.
absl::Status CheckTerms(const Model& model, const std::string& instruction_class,
                        const StageTerms& terms);

class LayerStage {
 public:
  virtual ~LayerStage() = default;

  const Model& model() const { return *model_; }
  uint64_t rows_max() const { return rows_max_; }
  size_t slots() const { return slots_.size(); }
  // True: StageSegment::sampling is honoured.
  virtual bool samples() const { return false; }

  // OK when a record of these (whole-model) settings fits a slot.
  virtual absl::Status CheckSettings(const memory::LolaSettings& settings) const;
  absl::Status Reset(size_t slot, const memory::LolaSettings& settings);

  // A load: BeginLoad, then its space of `bytes` is filled with the sections of these layers, then
  // Loaded checks and takes them. INVALID_ARGUMENT when slot or size are wrong.
  absl::Status BeginLoad(size_t slot, const memory::LolaSettings& settings, uint64_t position,
                         size_t bytes);
  // Any one thread may fill it, until the next call for this slot. INVALID_ARGUMENT when the slot
  // is not being loaded.
  absl::StatusOr<std::span<std::byte>> LoadSpace(size_t slot);
  // DATA_LOSS when counters and positions make no sense; the slot is empty then.
  absl::Status Loaded(size_t slot);

  // Floats that Step writes for these segments.
  size_t OutputFloats(std::span<const StageSegment> segments) const;
  // Why Step would refuse the segment: its slot, a token, a full window; else OK.
  virtual absl::Status Check(const StageSegment& segment) = 0;
  // `hidden`: rows of all segments in order, empty where the stage has layer 0. `out` gets rows, or
  // with the last layer the wanted logits. INVALID_ARGUMENT or FAILED_PRECONDITION, with nothing
  // touched, when the call as a whole is wrong. UNAVAILABLE when what computes has failed.
  absl::Status Step(std::span<const StageSegment> segments, std::span<const float> hidden,
                    std::span<float> out, StageOutcome* outcome);

  // Of a slot that holds a state: bytes of its record, a header page and the sections.
  absl::StatusOr<size_t> RecordBytes(size_t slot) const;
  // Starts a copy of the record as of the last step into `to`, which has its size and stays until
  // the copy was waited for; what the header page holds then is nobody's business.
  virtual absl::StatusOr<StateCopy> Copy(size_t slot, std::span<std::byte> to) = 0;
  // Memory that Copy fills fast.
  virtual std::shared_ptr<std::byte[]> AllocateHost(size_t bytes);
  // Pairs in the sparse caches of each of these slots; 0 for those without a state.
  virtual absl::Status CountCached(std::span<const size_t> slots, std::span<uint64_t> cached) = 0;
  // REQUIRES: the slot was Reset or Loaded.
  virtual uint64_t position(size_t slot) const = 0;

 protected:
  struct Slot {
    memory::LolaSettings settings;  // cut down to the layers
    std::optional<memory::StateLayout> layout;
    bool loading = false;
    bool in_step = false;
  };

  LayerStage(std::shared_ptr<const Model> model, const StageTerms& terms);
  bool holds_state(size_t slot) const {
    return slot < slots_.size() && slots_[slot].layout && !slots_[slot].loading;
  }
  const Slot& slot(size_t index) const { return slots_[index]; }
  const std::shared_ptr<const Model>& shared_model() const { return model_; }

  // A segment's rows of the residual stream and its logits, as Segment has them.
  struct Rows {
    std::span<const float> hidden_in;
    std::span<float> hidden_out;
    float* logits = nullptr;
  };
  // Cuts those of the next segment off the fronts of what Step was given.
  Rows NextRows(const StageSegment& segment, std::span<const float>& hidden,
                std::span<float>& out) const;

  // What a record of these layers must be to be one: header, counters, positions.
  absl::Status CheckRecord(size_t slot, std::span<std::byte> record) const;

  // The slot's layout is set and its number checked in all of these.
  virtual absl::Status Clear(size_t slot) = 0;
  // Memory of a whole record for the load at hand; its header page has to say `position`.
  virtual absl::StatusOr<std::span<std::byte>> Place(size_t slot, uint64_t position) = 0;
  virtual std::span<std::byte> Placed(size_t slot) = 0;  // the same again
  virtual absl::Status Take(size_t slot) = 0;            // CheckRecord, then it is the slot's
  // A step that was checked.
  virtual absl::Status Run(std::span<const StageSegment> segments, std::span<const float> hidden,
                           std::span<float> out, StageOutcome* outcome) = 0;

 private:
  absl::Status Prepare(size_t slot, const memory::LolaSettings& settings);
  absl::Status CheckSlot(size_t slot) const;
  absl::Status CheckStep(std::span<const StageSegment> segments, size_t hidden_floats,
                         size_t out_floats);
  absl::Status CheckPart(const StageSegment& part) const;

  const std::shared_ptr<const Model> model_;
  const size_t slot_bytes_;
  const uint64_t rows_max_;
  std::vector<Slot> slots_;
};

// Makes stages of one kind, one after another: a later one takes over what the one before left
// (weights on a device stay there).
class StageMaker {
 public:
  virtual ~StageMaker() = default;
  virtual std::string instruction_class() const = 0;
  // Stages with the last layer pick tokens themselves.
  virtual bool samples() const { return false; }
  // UNAVAILABLE once what computes has failed for good.
  virtual absl::Status health() const { return absl::OkStatus(); }
  virtual RunnerCounters counters() const { return {}; }
  // Why no stage can be made of this model, whatever the terms: what kernels do not take.
  virtual absl::Status CheckModel(const Model&) const { return absl::OkStatus(); }
  // Takes the memory for all slots and for steps of terms.rows_max rows. As CheckTerms, and
  // RESOURCE_EXHAUSTED when the memory is not there.
  virtual absl::StatusOr<std::unique_ptr<LayerStage>> Make(std::shared_ptr<const Model> model,
                                                           const StageTerms& terms) = 0;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_PIPELINE_LAYER_STAGE_H_
