// What passes keep between calls: buffers, and plans per kind of settings.
#include <algorithm>

#include "kernels/core/check.h"
#include "services/engine/model.h"
#include "services/engine/model_impl.h"

namespace lola::engine {

SettingsPlan::SettingsPlan(const memory::LolaSettings& stream_settings,
                           std::span<const double> frequencies)
    : settings(stream_settings) {
  if (settings.mode == memory::Mode::kLola &&
      settings.memory_positions == memory::MemoryPositions::kConstant) {
    distances = kernels::RotationTable(frequencies, 0, settings.window + settings.chunk);
    memory = kernels::RotationTable(frequencies, settings.memory_distance, 1);
  }
}

StepWorkspace::Buffers::Buffers(const Model& owner, size_t rows, int pool_threads)
    : model(owner), max_rows(rows), threads(pool_threads) {
  const memory::ModelGeometry& g = owner.geometry();
  const size_t q_width = size_t{g.query_heads} * g.head_dim;
  x.resize(rows * g.hidden);
  normed.resize(rows * g.hidden);
  qkv.resize(rows * (q_width + 2 * size_t{g.kv_heads} * g.head_dim));
  attended.resize(rows * q_width);
  gate_up.resize(rows * 2 * g.ffn);
  cos.resize(rows * g.head_dim / 2);
  sin.resize(rows * g.head_dim / 2);
  if (owner.has_last_layer()) {
    head_in.resize(std::min(rows, kHeadRows) * g.hidden);
    head_out.resize(std::min(rows, kHeadRows) * g.vocab);
  }
  active.reserve(rows);
  tasks.reserve(rows * g.kv_heads);
}

SettingsPlan* StepWorkspace::Buffers::FindPlan(const memory::StateLayout& layout) {
  for (const auto& plan : plans) {
    if (plan->settings == layout.settings()) {
      plan->last_used = clock;
      return plan.get();
    }
  }
  // Plans used by this pass stay; the oldest other one makes room.
  const auto oldest =
      std::min_element(plans.begin(), plans.end(),
                       [](const auto& a, const auto& b) { return a->last_used < b->last_used; });
  if (plans.size() >= kPlansMax && (*oldest)->last_used != clock) plans.erase(oldest);
  plans.push_back(std::make_unique<SettingsPlan>(layout.settings(), model.impl_->frequencies));
  plans.back()->last_used = clock;
  for (const auto& buffers : scratch) buffers->Reserve(layout);
  while (scratch.size() < static_cast<size_t>(threads)) {
    scratch.push_back(std::make_unique<memory::Scratch>(layout));
  }
  return plans.back().get();
}

StepWorkspace::StepWorkspace(const Model& model, size_t max_rows, int threads)
    : buffers_(std::make_unique<Buffers>(model, max_rows, threads)) {
  LOLA_CHECK(max_rows > 0 && threads > 0);
}
StepWorkspace::~StepWorkspace() = default;
size_t StepWorkspace::max_rows() const { return buffers_->max_rows; }
const StepTimes& StepWorkspace::times() const { return buffers_->times; }

size_t StepWorkspace::bytes() const {
  const Buffers& b = *buffers_;
  size_t floats = 0;
  for (const auto* buffer : {&b.x, &b.normed, &b.qkv, &b.attended, &b.gate_up, &b.cos, &b.sin,
                             &b.head_in, &b.head_out}) {
    floats += buffer->size();
  }
  return floats * sizeof(float) + b.tasks.capacity() * sizeof(MemoryTask);
}

}  // namespace lola::engine
