#include "services/engine/device/device_runner.h"

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "memory/stream/stream_state.h"
#include "services/engine/device/device_arena.h"
#include "services/engine/device/device_health.h"
#include "services/engine/device/device_stepper.h"
#include "services/engine/runtime/arithmetic.h"

namespace lola::engine {
namespace {

static_assert(kVaryingMark == cuda::kVaryingClassMark, "JudgeContinuation looks for it");

// Slots on a device.
class DeviceStates : public ResidentStates {
 public:
  DeviceStates(std::shared_ptr<cuda::Device> device, std::unique_ptr<DeviceArena> arena,
               std::shared_ptr<DeviceHealth> health)
      : device_(std::move(device)),
        health_(std::move(health)),
        arena_(std::move(arena)),
        taken_(arena_->slots()) {}

  DeviceArena& arena() { return *arena_; }

  absl::StatusOr<size_t> Acquire() override {
    const auto free = std::find(taken_.begin(), taken_.end(), false);
    if (free == taken_.end()) {
      return absl::ResourceExhaustedError(absl::StrCat("slots: all ", taken_.size(), " in use"));
    }
    *free = true;
    return size_t(free - taken_.begin());
  }
  void Release(size_t slot) override {
    LOLA_CHECK(taken_.at(slot));
    taken_[slot] = false;
  }

  absl::Status Reset(size_t slot, const memory::StateLayout& layout,
                     const std::array<std::byte, 16>& model_fingerprint) override {
    return health_->Seen(arena_->Clear(slot, memory::EmptyHeader(layout, model_fingerprint)));
  }
  Staging Stage(size_t, size_t bytes) override {
    if (std::byte* data = AllocateHost(bytes)) {
      // The device outlives the memory: a download may still hold it when the engine is gone.
      return {std::shared_ptr<void>(data, [device = device_](void* p) { device->FreePinned(p); }),
              std::span(data, bytes)};
    }
    // No page-locked memory left (or the device failed, which the next call on it tells): ordinary
    // memory holds the same bytes, the copy to the device takes longer.
    auto pageable = std::make_shared<std::vector<std::byte>>(bytes);
    return {std::shared_ptr<void>(pageable, pageable->data()), std::span(*pageable)};
  }
  absl::Status Adopt(size_t slot, const memory::StateLayout&, const Staging& staging) override {
    return health_->Seen(arena_->Load(slot, staging.bytes));
  }
  absl::StatusOr<StateCopy> Copy(size_t slot, std::span<std::byte> to) override {
    absl::StatusOr<DeviceArena::Copy> copy = arena_->CopyOut(slot, to);
    if (!copy.ok()) return copy.status();
    return StateCopy(
        [copy = *copy, health = health_]() mutable { return health->Seen(copy.Wait()); });
  }
  absl::Status CountCached(std::span<const Held> states, std::span<uint64_t> cached) override {
    return health_->Seen(arena_->CountCached(states, cached));
  }
  std::byte* AllocateHost(size_t bytes) override {
    return static_cast<std::byte*>(device_->AllocatePinned(bytes));
  }
  void FreeHost(std::byte* data) override { device_->FreePinned(data); }
  std::span<std::byte> record(size_t, size_t) override { return {}; }

 private:
  const std::shared_ptr<cuda::Device> device_;
  const std::shared_ptr<DeviceHealth> health_;
  const std::unique_ptr<DeviceArena> arena_;
  std::vector<bool> taken_;
};

class DeviceRunner : public ModelRunner {
 public:
  DeviceRunner(std::shared_ptr<const Model> model, std::shared_ptr<cuda::Device> device,
               size_t rows_max)
      : model_(std::move(model)), device_(std::move(device)), rows_max_(rows_max) {}

  const Model& model() const override { return *model_; }
  size_t rows_max() const override { return rows_max_; }
  bool samples() const override { return true; }
  std::string instruction_class() const override { return device_->info().backend; }
  absl::Status CheckSettings(const memory::LolaSettings& settings) const override {
    absl::Status status = model_->CheckSettings(settings);
    return status.ok() ? CheckDeviceSettings(settings, model_->geometry()) : status;
  }

  absl::StatusOr<std::unique_ptr<ResidentStates>> MakeStates(size_t slot_bytes, size_t slots,
                                                             size_t copies) override {
    // Weights and buffers first: what is left is for slots, and a refusal says how many would fit.
    auto stepper = DeviceStepper::Create(
        model_, device_.get(), nullptr,
        {.rows_max = rows_max_, .logits_rows_max = std::min<size_t>(rows_max_, 256)});
    if (!stepper.ok()) return stepper.status();
    if (absl::Status room = (*stepper)->Reserve(model_->default_settings()); !room.ok()) {
      return room;
    }
    auto arena = DeviceArena::Create(device_.get(), slot_bytes, slots, copies);
    if (!arena.ok()) return arena.status();
    auto states = std::make_unique<DeviceStates>(device_, *std::move(arena), health_);
    stepper_ = *std::move(stepper);
    stepper_->UseArena(&states->arena());
    return states;
  }

  absl::Status Step(std::span<Segment> segments) override {
    LOLA_CHECK(stepper_ != nullptr) << "MakeStates comes first";
    parts_.clear();
    for (const Segment& segment : segments) {
      LOLA_CHECK_LE(segment.logits_rows, 1u);
      DeviceSegment part;
      part.slot = segment.slot;
      part.layout = segment.layout;
      part.tokens = segment.tokens;
      part.logits = segment.logits;
      part.sampling = segment.sampling;
      part.recent = segment.recent;
      parts_.push_back(part);
    }
    memory::MemoryStats stats;
    absl::Status status = health_->Seen(stepper_->Step(parts_, &stats));
    if (!status.ok()) return status;
    // What is not finite is in the segment it belongs to; the counters are of all of them together.
    stats.nonfinite_rows = stats.nonfinite_scores = 0;
    if (!segments.empty() && segments[0].stats != nullptr) segments[0].stats->Merge(stats);
    for (size_t i = 0; i < segments.size(); ++i) {
      segments[i].status = parts_[i].status;
      segments[i].sampled = parts_[i].sampled;
    }
    return absl::OkStatus();
  }

  absl::Status health() const override { return health_->health(); }
  RunnerCounters counters() const override {
    return stepper_ == nullptr ? RunnerCounters{} : stepper_->counters();
  }

 private:
  const std::shared_ptr<const Model> model_;
  const std::shared_ptr<cuda::Device> device_;
  const std::shared_ptr<DeviceHealth> health_ = std::make_shared<DeviceHealth>();
  const size_t rows_max_;
  std::unique_ptr<DeviceStepper> stepper_;  // its arena belongs to the states, which live as long
  std::vector<DeviceSegment> parts_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelRunner>> MakeDeviceRunner(std::shared_ptr<const Model> model,
                                                              std::shared_ptr<cuda::Device> device,
                                                              size_t rows_max) {
  if (!model->whole()) {
    return absl::UnimplementedError(absl::StrCat("layers: ", model->layers().ToString(), " of ",
                                                 model->geometry().layers,
                                                 "; a single worker runs whole models only"));
  }
  absl::Status fits = CheckDeviceSettings(model->default_settings(), model->geometry());
  if (!fits.ok()) return fits;
  return std::make_unique<DeviceRunner>(std::move(model), std::move(device), rows_max);
}

}  // namespace lola::engine
