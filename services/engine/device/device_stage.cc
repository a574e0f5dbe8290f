#include "services/engine/device/device_stage.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "memory/stream/stream_state.h"
#include "services/engine/device/device_arena.h"
#include "services/engine/device/device_health.h"
#include "services/engine/device/device_stepper.h"
#include "services/engine/device/plan_cache.h"

namespace lola::engine {
namespace {

// Copies to the host that are under way at the same time; more of them wait.
constexpr size_t kStagings = 4;
constexpr size_t kLogitsRowsMax = 256;

// What stages of one process share, one after the other.
struct Shared {
  explicit Shared(std::shared_ptr<cuda::Device> opened)
      : device(std::move(opened)), instruction_class(device->info().backend) {}

  const std::shared_ptr<cuda::Device> device;
  const std::string instruction_class;
  DeviceHealth health;
  std::mutex mu;
  std::unique_ptr<DeviceStepper> stepper;  // guarded by mu; while no stage has it
  bool in_use = false;                     // guarded by mu
  RunnerCounters counters;                 // guarded by mu
};

// Page-locked memory, used again and again: taking it anew costs milliseconds.
class PinnedPool : public std::enable_shared_from_this<PinnedPool> {
 public:
  explicit PinnedPool(std::shared_ptr<cuda::Device> device) : device_(std::move(device)) {}
  ~PinnedPool() {
    for (const auto& [data, bytes] : free_) device_->FreePinned(data);
  }
  // Null when there is none.
  std::shared_ptr<std::byte[]> Take(size_t bytes) {
    std::byte* data = Find(bytes);
    if (data == nullptr) data = static_cast<std::byte*>(device_->AllocatePinned(bytes));
    if (data == nullptr) return nullptr;
    return {data, [pool = shared_from_this(), bytes](std::byte* p) { pool->Give(p, bytes); }};
  }

 private:
  static constexpr size_t kKept = 4;

  std::byte* Find(size_t bytes) {
    std::lock_guard lock(mu_);
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if (it->second != bytes) continue;
      std::byte* data = it->first;
      free_.erase(it);
      return data;
    }
    return nullptr;
  }
  void Give(std::byte* data, size_t bytes) {
    {
      std::lock_guard lock(mu_);
      if (free_.size() < kKept) return free_.emplace_back(data, bytes), void();
    }
    device_->FreePinned(data);
  }

  const std::shared_ptr<cuda::Device> device_;
  std::mutex mu_;
  std::vector<std::pair<std::byte*, size_t>> free_;  // guarded by mu_
};

class DeviceStage : public LayerStage {
 public:
  DeviceStage(std::shared_ptr<const Model> model, const StageTerms& terms,
              std::shared_ptr<Shared> shared, std::unique_ptr<DeviceStepper> stepper,
              std::unique_ptr<DeviceArena> arena)
      : LayerStage(std::move(model), terms),
        shared_(std::move(shared)),
        pool_(std::make_shared<PinnedPool>(shared_->device)),
        arena_(std::move(arena)),
        stepper_(std::move(stepper)),
        loads_(terms.slots) {
    stepper_->UseArena(arena_.get());
  }
  ~DeviceStage() override {
    // Copies may still be on their way out of the arena.
    shared_->device->WaitOnHost(shared_->device->Record(cuda::Queue::kCopy));
    stepper_->UseArena(nullptr);
    std::lock_guard lock(shared_->mu);
    shared_->in_use = false;
    shared_->counters = stepper_->counters();
    shared_->stepper = std::move(stepper_);
  }

  bool samples() const override { return model().has_last_layer(); }
  absl::Status CheckSettings(const memory::LolaSettings& settings) const override {
    absl::Status status = LayerStage::CheckSettings(settings);
    return status.ok() ? CheckDeviceSettings(settings, model().geometry()) : status;
  }
  absl::Status Check(const StageSegment& segment) override {
    if (absl::Status held = RecordBytes(segment.slot).status(); !held.ok()) return held;
    DeviceSegment part = MakeSegment(segment);
    return stepper_->Check(part, segment.rows);
  }
  absl::StatusOr<StateCopy> Copy(size_t index, std::span<std::byte> to) override {
    absl::StatusOr<DeviceArena::Copy> copy = arena_->CopyOut(index, to);
    if (absl::IsResourceExhausted(copy.status())) {
      arena_->AwaitStaging();
      copy = arena_->CopyOut(index, to);
    }
    if (!copy.ok()) return shared_->health.Seen(copy.status());
    return StateCopy([copy = *copy, shared = shared_, arena = arena_]() mutable {
      return shared->health.Seen(copy.Wait());
    });
  }
  std::shared_ptr<std::byte[]> AllocateHost(size_t bytes) override {
    std::shared_ptr<std::byte[]> data = pool_->Take(bytes);
    // No page-locked memory left: ordinary memory holds the same bytes, the copy takes longer.
    return data != nullptr ? data : LayerStage::AllocateHost(bytes);
  }
  absl::Status CountCached(std::span<const size_t> slots, std::span<uint64_t> cached) override {
    std::vector<ResidentStates::Held> held;
    std::vector<uint64_t> counted;
    for (const size_t index : slots) {
      if (holds_state(index)) held.push_back({index, &*slot(index).layout});
    }
    counted.resize(held.size());
    absl::Status status = shared_->health.Seen(arena_->CountCached(held, counted));
    if (!status.ok()) return status;
    size_t next = 0;
    for (size_t i = 0; i < slots.size(); ++i) {
      cached[i] = holds_state(slots[i]) ? counted[next++] : 0;
    }
    return absl::OkStatus();
  }
  uint64_t position(size_t index) const override { return arena_->position(index); }

 protected:
  absl::Status Clear(size_t index) override {
    loads_[index] = nullptr;
    return shared_->health.Seen(arena_->Clear(
        index, memory::EmptyHeader(*slot(index).layout, model().fingerprint_bytes())));
  }
  absl::StatusOr<std::span<std::byte>> Place(size_t index, uint64_t position) override {
    const memory::StateLayout& layout = *slot(index).layout;
    loads_[index] = AllocateHost(layout.stride_bytes());
    const std::span<std::byte> record = Placed(index);
    std::memset(record.data(), 0, memory::kPageBytes);
    memory::StreamState(&layout, record).WriteHeader(model().fingerprint_bytes(), position);
    return record;
  }
  std::span<std::byte> Placed(size_t index) override {
    return {loads_[index].get(), slot(index).layout->stride_bytes()};
  }
  absl::Status Take(size_t index) override {
    const std::shared_ptr<std::byte[]> held = std::exchange(loads_[index], nullptr);
    const std::span<std::byte> record(held.get(), slot(index).layout->stride_bytes());
    absl::Status valid = CheckRecord(index, record);
    return valid.ok() ? shared_->health.Seen(arena_->Load(index, record)) : valid;
  }
  absl::Status Run(std::span<const StageSegment> segments, std::span<const float> hidden,
                   std::span<float> out, StageOutcome* outcome) override;

 private:
  DeviceSegment MakeSegment(const StageSegment& part) const {
    DeviceSegment segment;
    segment.slot = part.slot;
    segment.layout = &*slot(part.slot).layout;
    segment.tokens = part.tokens;
    segment.sampling = part.sampling;
    segment.recent = part.recent;
    return segment;
  }

  const std::shared_ptr<Shared> shared_;
  const std::shared_ptr<PinnedPool> pool_;
  const std::shared_ptr<DeviceArena> arena_;  // copies hold it too
  std::unique_ptr<DeviceStepper> stepper_;
  std::vector<std::shared_ptr<std::byte[]>> loads_;  // [slots], null where there is none
  std::vector<DeviceSegment> segments_;              // of the step at hand
};

absl::Status DeviceStage::Run(std::span<const StageSegment> segments, std::span<const float> hidden,
                              std::span<float> out, StageOutcome* outcome) {
  segments_.clear();
  for (const StageSegment& part : segments) {
    if (part.logits_rows > 1) {
      return absl::UnimplementedError(
          absl::StrCat("slot ", part.slot, ": logits for ", part.logits_rows,
                       " rows are asked for, a stage on a GPU gives them for the last row only"));
    }
    DeviceSegment segment = MakeSegment(part);
    const Rows rows = NextRows(part, hidden, out);
    segment.hidden_in = rows.hidden_in;
    segment.hidden_out = rows.hidden_out;
    segment.logits = rows.logits;
    segments_.push_back(segment);
  }
  const absl::Status stepped = shared_->health.Seen(stepper_->Step(segments_, &outcome->stats));
  {
    std::lock_guard lock(shared_->mu);
    shared_->counters = stepper_->counters();
  }
  if (!stepped.ok()) return stepped;
  for (size_t i = 0; i < segments.size(); ++i) {
    const bool advanced = position(segments[i].slot) != segments[i].position;
    outcome->segments.push_back({advanced, segments_[i].status, segments_[i].sampled});
  }
  return absl::OkStatus();
}

class DeviceStageMaker : public StageMaker {
 public:
  explicit DeviceStageMaker(std::shared_ptr<cuda::Device> device)
      : shared_(std::make_shared<Shared>(std::move(device))) {}

  std::string instruction_class() const override { return shared_->instruction_class; }
  bool samples() const override { return true; }
  absl::Status health() const override { return shared_->health.health(); }
  RunnerCounters counters() const override {
    std::lock_guard lock(shared_->mu);
    return shared_->counters;
  }
  absl::Status CheckModel(const Model& model) const override {
    absl::Status shape = DeviceWeights::CheckShape(model.geometry());
    return shape.ok() ? CheckDeviceSettings(model.default_settings(), model.geometry()) : shape;
  }
  absl::StatusOr<std::unique_ptr<LayerStage>> Make(std::shared_ptr<const Model> model,
                                                   const StageTerms& terms) override {
    absl::Status status = CheckTerms(*model, instruction_class(), terms);
    if (status.ok()) status = CheckModel(*model);
    if (status.ok()) status = health();
    if (status.ok()) status = CheckSlots(terms);
    if (!status.ok()) return status;
    auto stepper = TakeStepper(model, terms.rows_max);
    if (!stepper.ok()) return shared_->health.Seen(stepper.status());
    auto arena =
        DeviceArena::Create(shared_->device.get(), terms.slot_bytes, terms.slots, kStagings);
    std::lock_guard lock(shared_->mu);
    if (!arena.ok()) {
      shared_->stepper = *std::move(stepper);
      return shared_->health.Seen(arena.status());
    }
    shared_->in_use = true;
    return std::make_unique<DeviceStage>(std::move(model), terms, shared_, *std::move(stepper),
                                         *std::move(arena));
  }

 private:
  static absl::Status CheckSlots(const StageTerms& terms) {
    const bool whole = terms.slot_bytes > 0 && terms.slot_bytes % memory::kPageBytes == 0;
    // So that no product below wraps around: no device has that much.
    if (whole && terms.slots > 0 && terms.slots <= (uint64_t{1} << 50) / terms.slot_bytes) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        absl::StrCat("slots: ", terms.slots, " of ", terms.slot_bytes, " bytes"));
  }

  // The one of the stage before, when it fits; else a new one, with the weights in its place.
  absl::StatusOr<std::unique_ptr<DeviceStepper>> TakeStepper(
      const std::shared_ptr<const Model>& model, size_t rows_max) {
    std::lock_guard lock(shared_->mu);
    LOLA_CHECK(!shared_->in_use) << "one stage at a time";
    std::unique_ptr<DeviceStepper> kept = std::exchange(shared_->stepper, nullptr);
    if (kept != nullptr && kept->rows_max() == rows_max && &kept->model() == model.get()) {
      return kept;
    }
    kept.reset();  // its memory first
    auto stepper = DeviceStepper::Create(
        model, shared_->device.get(), nullptr,
        {.rows_max = rows_max, .logits_rows_max = std::min(rows_max, kLogitsRowsMax)});
    if (!stepper.ok()) return stepper.status();
    absl::Status room = (*stepper)->Reserve(model->default_settings());
    if (!room.ok()) return room;
    return stepper;
  }

  const std::shared_ptr<Shared> shared_;
};

}  // namespace

std::shared_ptr<StageMaker> MakeDeviceStages(std::shared_ptr<cuda::Device> device) {
  return std::make_shared<DeviceStageMaker>(std::move(device));
}

}  // namespace lola::engine
