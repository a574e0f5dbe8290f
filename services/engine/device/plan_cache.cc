#include "services/engine/device/plan_cache.h"

#include <algorithm>
#include <functional>

#include "kernels/rope/rope.h"
#include "memory/text.h"
#include "services/engine/device/step_plan.h"

namespace lola::engine {
namespace {

using memory::LolaSettings;
using memory::Mode;

cuda::LayerPlace PlaceOf(const memory::StateLayout& layout, uint32_t layer) {
  const memory::LayerOffsets& at = layout.layer(layer);
  const bool softmax = layout.settings().mode == Mode::kSoftmax;
  return {.counters = at.counters,
          .s = at.s,
          .h = at.h,
          .window_k = at.window_k,
          .window_v = at.window_v,
          .cache_k = at.cache_k,
          .cache_v = at.cache_v,
          .cache_meta = at.cache_meta,
          .window_mass = at.window_mass,
          .cache_mass = at.cache_mass,
          .window_k_exponents = at.window_k_exponents,
          .window_v_exponents = at.window_v_exponents,
          .cache_k_exponents = at.cache_k_exponents,
          .cache_v_exponents = at.cache_v_exponents,
          .cache_pairs = softmax ? 0 : layout.settings().CachePairs(layer),
          .cache_slots = layout.cache_slots(layer),
          .cache_pairs_min = softmax ? 0 : layout.settings().CachePairsMin(layer)};
}

cuda::Plan PlanOf(const memory::StateLayout& layout) {
  const LolaSettings& s = layout.settings();
  cuda::Plan plan{};
  plan.window = s.window;
  plan.chunk = s.chunk;
  plan.ring_chunks = layout.ring_chunks();
  plan.chunk_rows = layout.chunk_rows();
  plan.ring_rows = layout.ring_rows();
  plan.softmax = s.mode == Mode::kSoftmax;
  plan.constant_positions =
      !plan.softmax && s.memory_positions == memory::MemoryPositions::kConstant;
  plan.rescore = s.rescore;
  plan.cache_type = s.cache_dtype == kernels::Dtype::kFloat32    ? cuda::CacheType::kFloat32
                    : s.cache_dtype == kernels::Dtype::kBFloat16 ? cuda::CacheType::kBFloat16
                                                                 : cuda::CacheType::kFloat8;
  plan.cache_heads = plan.softmax ? 1 : layout.cache_heads();
  plan.group_largest = s.cache_sharing == memory::CacheSharing::kGroupMax;
  plan.sinks = s.sinks;
  plan.adaptive_mass = s.adaptive_mass;
  plan.mixing = static_cast<cuda::MixForm>(s.mixing);
  plan.score = static_cast<cuda::ScoreForm>(s.score);
  plan.mass_cap = static_cast<float>(s.mass_cap);
  plan.redundancy_threshold = s.redundancy_threshold;
  plan.score_epsilon = s.score_epsilon;
  return plan;
}

}  // namespace

absl::Status CheckDeviceSettings(const LolaSettings& settings,
                                 const memory::ModelGeometry& geometry) {
  if (settings.mode == Mode::kSoftmax) return absl::OkStatus();
  if (settings.chunk > cuda::kChunkMax) {
    return absl::UnimplementedError(absl::StrCat(
        "chunk: ", settings.chunk, ", the CUDA kernels take at most ", cuda::kChunkMax));
  }
  for (uint32_t layer = 0; layer < geometry.layers; ++layer) {
    const uint32_t pairs = settings.CachePairs(layer) + settings.chunk;
    if (pairs <= cuda::kEventPairsMax) continue;
    return absl::UnimplementedError(
        absl::StrCat("cache_pairs: ", settings.CachePairs(layer), " with chunk ", settings.chunk,
                     ", the CUDA kernels take at most ", cuda::kEventPairsMax, " together"));
  }
  return absl::OkStatus();
}

absl::StatusOr<const DevicePlan*> PlanCache::Find(const memory::StateLayout& layout) {
  for (const auto& plan : plans_) {
    if (plan->settings != layout.settings()) continue;
    plan->asked = ++clock_;
    return plan.get();
  }
  absl::Status valid = CheckDeviceSettings(layout.settings(), layout.geometry());
  if (!valid.ok()) return valid;
  absl::StatusOr<std::unique_ptr<DevicePlan>> made = Make(layout);
  if (!made.ok()) return made.status();
  plans_.push_back(*std::move(made));
  plans_.back()->asked = ++clock_;
  return plans_.back().get();
}

bool PlanCache::Trim(size_t kept) {
  if (plans_.size() <= kept) return false;
  std::ranges::sort(plans_, std::greater(), [](const auto& plan) { return plan->asked; });
  plans_.resize(kept);
  return true;
}

absl::StatusOr<std::unique_ptr<DevicePlan>> PlanCache::Make(const memory::StateLayout& layout) {
  const LolaSettings& settings = layout.settings();
  const memory::ModelGeometry& geometry = layout.geometry();
  auto made = std::make_unique<DevicePlan>();
  made->settings = settings;
  made->sections = SectionsOf(settings, geometry);
  made->spans = SectionsOf(settings, geometry, cuda::kSpanSections);
  made->variants = VariantsOf(settings);
  std::vector<cuda::LayerPlace> places;
  for (uint32_t i = 0; i < geometry.layers; ++i) {
    places.push_back(PlaceOf(layout, i));
    made->pairs_max = std::max(made->pairs_max, places.back().cache_pairs + settings.chunk);
  }
  cuda::Plan plan = PlanOf(layout);
  made->trial = !plan.softmax && cuda::AgainstTrialState(plan.score);
  made->drops_max = made->trial || plan.adaptive_mass > 0 ? made->pairs_max : settings.chunk;
  std::vector<float> rotations;
  size_t rows = 0;
  if (plan.constant_positions) {
    rows = settings.window + settings.chunk;
    const kernels::RotationTable distances(frequencies_, 0, rows);
    const kernels::RotationTable memory(frequencies_, settings.memory_distance, 1);
    for (const auto* table : {&distances.cos, &distances.sin, &memory.cos, &memory.sin}) {
      rotations.insert(rotations.end(), table->begin(), table->end());
    }
  }
  absl::Status status = made->rotations.Allocate(device_, rotations.size(), "rotations");
  if (status.ok()) status = made->layers.Allocate(device_, places.size(), "layer places");
  if (status.ok()) status = made->block.Allocate(device_, 1, "settings");
  if (!status.ok()) return status;
  const size_t half = geometry.head_dim / 2;
  plan.distance_cos = made->rotations.data();
  plan.distance_sin = plan.distance_cos + rows * half;
  plan.memory_cos = plan.distance_sin + rows * half;
  plan.memory_sin = plan.memory_cos + half;
  plan.layers = made->layers.data();
  const auto upload = [&](void* to, const void* from, size_t bytes) {
    if (bytes > 0) device_->Upload(cuda::Queue::kCompute, to, from, bytes);
  };
  upload(made->rotations.data(), rotations.data(), rotations.size() * sizeof(float));
  upload(made->layers.data(), places.data(), places.size() * sizeof(places[0]));
  upload(made->block.data(), &plan, sizeof(plan));
  device_->WaitOnHost(device_->Record(cuda::Queue::kCompute));
  made->plan = made->block.data();
  return made;
}

}  // namespace lola::engine
