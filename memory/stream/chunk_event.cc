#include "memory/stream/chunk_event.h"

#include <algorithm>

#include "kernels/feature_map/feature_map.h"
#include "kernels/rope/rope.h"
#include "memory/stream/scratch.h"

namespace lola::memory {
void ChunkEvent::Run() const {
  const size_t ring_row = layout.RingRow(first_position);
  const PairRows chunk = WindowRows(layout, record, layer, kv_head).From(ring_row);
  LoadEvicted(chunk);
  for (uint32_t i = 0; i < layout.geometry().group(); i += layout.cache_heads()) RunCache(i);
  chunk.Clear(layout.chunk_rows());
}

// With constant memory positions the window holds keys rotated by their place in the chunk; memory
// holds them as they were. The result is rounded as the cache will hold it, so that a pair has one
// set of features for its whole life.
void ChunkEvent::LoadEvicted(const PairRows& chunk) const {
  ScratchBuffers& scratch = params.scratch->buffers();
  const size_t d = layout.geometry().head_dim;
  const bool rotated = layout.settings().memory_positions == MemoryPositions::kConstant;
  for (size_t row = 0; row < layout.settings().chunk; ++row) {
    float* key = scratch.evicted_keys.data() + row * d;
    chunk.Load(row, key, scratch.evicted_values.data() + row * d);
    if (!rotated) continue;
    const float* cos = params.rope->distance_cos + row * (d / 2);
    const float* sin = params.rope->distance_sin + row * (d / 2);
    kernels::RotateRow(key, cos, sin, d, /*inverse=*/true, key);
    RoundRow(layout.settings().cache_dtype, key, d);
  }
}

void ChunkEvent::RunCache(uint32_t first) const {
  ScratchBuffers& scratch = params.scratch->buffers();
  const uint32_t owners = layout.cache_heads();
  const size_t chunk = layout.settings().chunk;
  const size_t lambda = layout.settings().CachePairs(layer);
  for (uint32_t i = 0; i < owners; ++i) {
    scratch.heads[i] =
        HeadOf(layout, record, layer, kv_head * layout.geometry().group() + first + i);
    ++scratch.heads[i].counters->events;
  }
  params.stats->events += owners;
  const size_t cached = scratch.heads[0].counters->cached;
  const EventCache cache{.layout = layout,
                         .layer = layer,
                         .first_position = first_position,
                         .heads = {scratch.heads.data(), owners},
                         .scratch = scratch,
                         .stats = *params.stats,
                         .cached = cached,
                         .pairs = cached + chunk};
  if (cache.pairs <= lambda && cache.heads[0].counters->absorbed == 0) {
    AdmitAll(cache);
  } else {
    GatherPairs(cache, first);
    if (lambda > 0) {
      cache.ScorePairs();
    } else {
      for (size_t i = 0; i < cache.pairs; ++i) {
        scratch.candidates[i] = {0.0f, static_cast<uint32_t>(i), cache.Position(i)};
      }
    }
    cache.KeepAndAbsorb();
  }
  params.stats->occupancy_sum += cache.heads[0].counters->cached;
  ++params.stats->occupancy_count;
  if (cache.heads[0].window_mass == nullptr) return;
  for (const HeadMemory& head : cache.heads) {
    std::fill_n(head.window_mass + layout.RingRow(first_position), chunk, 0.0f);
  }
}

// A cache that never overflowed takes every pair unranked.
void ChunkEvent::AdmitAll(const EventCache& cache) const {
  const ScratchBuffers& scratch = cache.scratch;
  const size_t d = layout.geometry().head_dim;
  const size_t chunk = cache.pairs - cache.cached;
  const size_t ring_row = layout.RingRow(first_position);
  const HeadMemory& owner = cache.heads[0];
  for (size_t i = 0; i < chunk; ++i) {
    owner.cache.Store(cache.cached + i, scratch.evicted_keys.data() + i * d,
                      scratch.evicted_values.data() + i * d);
    owner.meta[cache.cached + i] = {static_cast<int64_t>(first_position + i), kUnranked, 0.0f};
  }
  for (const HeadMemory& head : cache.heads) {
    head.counters->cached = static_cast<uint32_t>(cache.pairs);
    if (head.cache_mass == nullptr) continue;
    std::copy_n(head.window_mass + ring_row, chunk, head.cache_mass + cache.cached);
  }
  params.stats->admissions += chunk;
}

// Keys, values, features and received attention of E: cached pairs by slot, then the leaving ones.
void ChunkEvent::GatherPairs(const EventCache& cache, uint32_t first) const {
  ScratchBuffers& scratch = cache.scratch;
  const size_t d = layout.geometry().head_dim;
  const size_t cached = cache.cached;
  const size_t chunk = cache.pairs - cached;
  for (size_t slot = 0; slot < cached; ++slot) {
    cache.heads[0].cache.Load(slot, scratch.keys.data() + slot * d,
                              scratch.values.data() + slot * d);
  }
  std::copy_n(scratch.evicted_keys.data(), chunk * d, scratch.keys.data() + cached * d);
  std::copy_n(scratch.evicted_values.data(), chunk * d, scratch.values.data() + cached * d);
  const size_t map_dim = layout.geometry().map_dim();
  for (size_t h = 0; h < cache.heads.size(); ++h) {
    kernels::FeatureMap({.input = scratch.keys.data(),
                         .input_stride = d,
                         .map = params.weights.map_k + (first + h) * d * map_dim,
                         .rows = cache.pairs,
                         .head_dim = d,
                         .map_dim = map_dim,
                         .output = cache.Features(h)});
    const HeadMemory& head = cache.heads[h];
    if (head.cache_mass == nullptr) continue;
    std::copy_n(head.cache_mass, cached, cache.Masses(h));
    std::copy_n(head.window_mass + layout.RingRow(first_position), chunk, cache.Masses(h) + cached);
  }
}

}  // namespace lola::memory
