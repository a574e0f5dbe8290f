#include "memory/stream/scratch.h"

#include <algorithm>

#include "kernels/redundancy/redundancy.h"
#include "memory/stream/layer_memory.h"

namespace lola::memory {
namespace {

template <typename T>
void Grow(std::vector<T>& buffer, size_t size) {
  if (buffer.size() < size) buffer.resize(size);
}

}  // namespace

void ScratchBuffers::Reserve(const StateLayout& layout) {
  const size_t d = layout.geometry().head_dim;
  const size_t features_n = layout.geometry().feature_dim;
  const bool softmax = layout.settings().mode == Mode::kSoftmax;
  size_t slots = 0;
  for (uint32_t layer = 0; layer < layout.geometry().layers; ++layer) {
    slots = std::max<size_t>(slots, layout.cache_slots(layer));
  }
  Grow(queries, (layout.ring_chunks() + 1) * kQueryRows * d);
  Grow(query_features, kQueryRows * features_n);
  Grow(attend, kernels::AttendScratchFloats(slots + layout.ring_rows()));
  Grow(spans, layout.ring_chunks() + 1);
  Grow(key, d);
  if (softmax) return;
  const size_t chunk = layout.settings().chunk;
  const size_t pairs = slots + chunk;
  Grow(evicted_keys, chunk * d);
  Grow(evicted_values, chunk * d);
  Grow(keys, pairs * d);
  Grow(values, pairs * d);
  const size_t owners = layout.cache_heads();
  Grow(heads, owners);
  Grow(features, owners * pairs * features_n);
  Grow(masses, owners * pairs);
  Grow(head_errors, pairs);
  Grow(scores, pairs);
  Grow(recall_errors, pairs);
  Grow(counts, pairs);
  Grow(redundancy, kernels::RedundancyScratchFloats(pairs, d));
  Grow(candidates, pairs);
  Grow(dropped_values, pairs * d);
  Grow(dropped_features, pairs * features_n);
  Grow(free_slots, slots);
  Grow(trial_h, features_n * d);
  Grow(trial_s, 2 * features_n);
}

Scratch::Scratch(const StateLayout& layout) : buffers_(std::make_unique<ScratchBuffers>()) {
  Reserve(layout);
}

Scratch::~Scratch() = default;

void Scratch::Reserve(const StateLayout& layout) { buffers_->Reserve(layout); }

}  // namespace lola::memory
