// What happens when a chunk leaves a window, for many streams and layers at once: score, discount,
// select, absorb, move. The rules are those of memory/stream/README.md;
// memory/stream/chunk_event.cc is the judge.
//
// A "pair" is a number: below `cached` a slot of the sparse cache, else a row of the leaving chunk.
// Kernels run in the order of this file; each needs the one before to be done.
#ifndef LOLA_KERNELS_CUDA_EVENT_CUH_
#define LOLA_KERNELS_CUDA_EVENT_CUH_

#include "kernels/cuda/calls.h"
#include "kernels/cuda/portable.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/tables.h"

namespace lola::cuda {

inline constexpr unsigned kEventThreads = 128;
inline constexpr unsigned kSelectThreads = 256;
inline constexpr float kUnranked = -1.0f;  // score of a pair that was admitted without a ranking

// Working memory of one head of one event; EventBytesOf bytes.
struct EventWork {
  float* errors;       // [pairs_max] self-recall errors
  uint32_t* near;      // [pairs_max] values close to each one, itself included
  float* features;     // [chunk_max, F] of the dropped pairs
  uint32_t* dropped;   // [chunk_max] pairs, by position
  uint32_t* admitted;  // [chunk_max, 2] leaving row and the slot it gets
  uint32_t* counts;    // dropped, admitted
};

// One head of one event: pointers and counts, the same in all kernels below.
struct EventHead {
  const Plan* plan;
  const LayerPlace* place;
  unsigned char* record;
  Counters* state;
  unsigned char* cache_k;
  unsigned char* cache_v;
  const unsigned char* window_k;  // of the kv head
  const unsigned char* window_v;
  Slot* slots;
  float* h;
  float* s;
  const float* map_k;
  uint32_t ring_row;  // of the leaving chunk
  uint32_t cached, pairs, lambda;
  uint64_t first_position;
  EventWork work;

  LOLA_DEVICE bool overflows() const { return pairs > lambda; }
  LOLA_DEVICE bool ranks() const { return overflows() && lambda > 0; }
};

LOLA_DEVICE EventHead HeadOf(const EventParams& p, uint32_t event_index, uint32_t head) {
  const Event event = p.events[event_index];
  const SegmentEntry segment = p.segments[event.segment];
  const uint32_t d = p.shape.head_dim, features = p.shape.feature_dim;
  EventHead e{};
  e.plan = segment.plan;
  e.place = &e.plan->layers[event.layer];
  e.record = segment.record;
  e.state = reinterpret_cast<Counters*>(e.record + e.place->counters) + head;
  const size_t row_bytes = d * (e.plan->cache_type == CacheType::kFloat32 ? 4 : 2);
  const size_t cache = head * size_t(e.place->cache_slots) * row_bytes;
  const uint32_t kv_head = head / (p.shape.query_heads / p.shape.kv_heads);
  const size_t window = kv_head * size_t(e.plan->ring_rows) * row_bytes;
  e.cache_k = e.record + e.place->cache_k + cache;
  e.cache_v = e.record + e.place->cache_v + cache;
  e.window_k = e.record + e.place->window_k + window;
  e.window_v = e.record + e.place->window_v + window;
  e.slots =
      reinterpret_cast<Slot*>(e.record + e.place->cache_meta) + head * size_t(e.place->cache_slots);
  e.h = reinterpret_cast<float*>(e.record + e.place->h) + head * size_t(features) * d;
  e.s = reinterpret_cast<float*>(e.record + e.place->s) + head * size_t(2) * features;
  e.map_k = p.map_k + (size_t(event.layer) * p.shape.query_heads + head) * d * (features / 2);
  e.ring_row = RingRow(*e.plan, event.first_position);
  e.cached = e.state->cached;
  e.lambda = e.place->cache_pairs;
  e.pairs = e.cached + e.plan->chunk;
  e.first_position = event.first_position;
  unsigned char* work = p.work + (size_t(event_index) * p.shape.query_heads + head) *
                                     EventBytesOf(p.pairs_max, p.chunk_max, features);
  e.work.features = reinterpret_cast<float*>(work);
  e.work.errors = e.work.features + size_t(p.chunk_max) * features;
  e.work.near = reinterpret_cast<uint32_t*>(e.work.errors + p.pairs_max);
  e.work.dropped = e.work.near + p.pairs_max;
  e.work.admitted = e.work.dropped + p.chunk_max;
  e.work.counts = e.work.admitted + 2 * p.chunk_max;
  return e;
}

LOLA_DEVICE float Element(const unsigned char* data, CacheType type, size_t index) {
  return type == CacheType::kFloat32 ? reinterpret_cast<const float*>(data)[index]
                                     : ToFloat(reinterpret_cast<const Bf16*>(data)[index]);
}
LOLA_DEVICE void PutElement(unsigned char* data, CacheType type, size_t index, float value) {
  if (type == CacheType::kFloat32) {
    reinterpret_cast<float*>(data)[index] = value;
  } else {
    Put(reinterpret_cast<Bf16*>(data)[index], value);
  }
}

LOLA_DEVICE float PairValue(const EventHead& e, uint32_t pair, uint32_t dim, uint32_t d) {
  const CacheType type = e.plan->cache_type;
  if (pair < e.cached) return Element(e.cache_v, type, size_t(pair) * d + dim);
  return Element(e.window_v, type, size_t(e.ring_row + pair - e.cached) * d + dim);
}

// A pair's key as the cache holds or will hold it: leaving keys lose their rotation inside the
// chunk and are rounded, so that a pair has one set of features for its whole life.
LOLA_DEVICE float PairKey(const EventHead& e, uint32_t pair, uint32_t dim, uint32_t d) {
  const CacheType type = e.plan->cache_type;
  if (pair < e.cached) return Element(e.cache_k, type, KeyOffset(pair, dim, d));
  const uint32_t row = pair - e.cached, half = d / 2;
  const float own = Element(e.window_k, type, KeyOffset(e.ring_row + row, dim, d));
  if (!e.plan->constant_positions) return own;
  const uint32_t partner = dim < half ? dim + half : dim - half;
  const float other = Element(e.window_k, type, KeyOffset(e.ring_row + row, partner, d));
  const size_t angle = size_t(row) * half + (dim < half ? dim : partner);
  const float sin = e.plan->distance_sin[angle];
  const float key = fmaf(dim < half ? other : -other, sin, own * e.plan->distance_cos[angle]);
  if (type == CacheType::kFloat32) return key;
  Bf16 rounded;
  Put(rounded, key);
  return ToFloat(rounded);
}

// Features of up to kEventPairs keys: keys [pairs, d] -> phi [pairs, F]. All threads of the block.
LOLA_DEVICE void KeyFeatures(const float* keys, const float* map, uint32_t pairs, uint32_t d,
                             uint32_t f, float* z, float* phi) {
  for (uint32_t n = ThreadX(); n < pairs * f; n += BlockSize()) {
    const uint32_t pair = n / f, j = n % f;
    float sum = 0;
    for (uint32_t i = 0; i < d; ++i) sum = fmaf(keys[pair * d + i], map[i * f + j], sum);
    z[n] = sum;
  }
  SyncThreads();
  for (uint32_t pair = ThreadX() / kWarpThreads; pair < pairs; pair += BlockSize() / kWarpThreads) {
    FeaturesOfWarp(z + pair * f, f, phi + pair * 2 * f);
  }
  SyncThreads();
}

// Shared floats of ScoreKernel: keys (later errors), values, z, features.
constexpr size_t ScoreSharedFloats(uint32_t d, uint32_t f) {
  return size_t(kEventPairs) * (2 * d + 3 * f);
}

LOLA_DEVICE unsigned ErrorBucket(float error) {
  // Bounds 2^-20, 2^-18 ... 2^18; memory/stream/statistics.h.
  unsigned bucket = 0;
  for (float bound = 0x1p-20f; bucket < 20 && !(error <= bound); ++bucket) bound *= 4;
  return bucket;
}

// Self-recall errors of all pairs against the state before the event. Grid: events, query heads,
// tiles of kEventPairs pairs.
LOLA_KERNEL ScoreKernel(EventParams p) {
  const uint32_t d = p.shape.head_dim, features = p.shape.feature_dim, f = features / 2;
  const EventHead e = HeadOf(p, BlockX(), BlockY());
  const uint32_t first = BlockZ() * kEventPairs;
  if (!e.ranks() || first >= e.pairs) return;
  const uint32_t pairs = e.pairs - first < kEventPairs ? e.pairs - first : kEventPairs;
  float* keys = reinterpret_cast<float*>(SharedBytes());
  float* values = keys + kEventPairs * d;
  float* z = values + kEventPairs * d;
  float* phi = z + kEventPairs * f;
  for (uint32_t n = ThreadX(); n < pairs * d; n += BlockSize()) {
    keys[n] = PairKey(e, first + n / d, n % d, d);
    values[n] = PairValue(e, first + n / d, n % d, d);
  }
  SyncThreads();
  KeyFeatures(keys, e.map_k, pairs, d, f, z, phi);
  float* mass = z;  // free again
  const unsigned lane = ThreadX() % kWarpThreads;
  for (uint32_t pair = ThreadX() / kWarpThreads; pair < pairs; pair += BlockSize() / kWarpThreads) {
    float sum = 0;
    for (uint32_t j = lane; j < features; j += kWarpThreads) {
      sum = fmaf(phi[pair * features + j], e.s[j], sum);
    }
    sum = WarpSum(sum);
    if (lane == 0) mass[pair] = sum + e.plan->score_epsilon;
  }
  SyncThreads();
  const bool empty = e.state->absorbed == 0;
  const uint32_t groups = BlockSize() > d ? BlockSize() / d : 1;  // threads that share a dimension
  const uint32_t each = kEventPairs / groups;
  for (uint32_t dim = ThreadX() % d; dim < d; dim += BlockSize()) {
    const uint32_t begin = ThreadX() / d * each;
    float recalled[kEventPairs] = {};
    for (uint32_t j = 0; j < features; ++j) {
      const float h = e.h[size_t(j) * d + dim];
      LOLA_UNROLL
      for (uint32_t i = 0; i < kEventPairs; ++i) {
        if (i < each && begin + i < pairs) {
          recalled[i] = fmaf(phi[(begin + i) * features + j], h, recalled[i]);
        }
      }
    }
    LOLA_UNROLL
    for (uint32_t i = 0; i < kEventPairs; ++i) {
      if (i >= each || begin + i >= pairs) continue;
      const uint32_t at = (begin + i) * d + dim;
      const float guess = empty ? 0.0f : recalled[i] / mass[begin + i];
      keys[at] = (guess - values[at]) * (guess - values[at]);
    }
  }
  SyncThreads();
  for (uint32_t pair = ThreadX() / kWarpThreads; pair < pairs; pair += BlockSize() / kWarpThreads) {
    float sum = 0;
    for (uint32_t i = lane; i < d; i += kWarpThreads) sum += keys[pair * d + i];
    sum = WarpSum(sum);
    if (lane != 0) continue;
    e.work.errors[first + pair] = sum;
    AtomicAdd(&p.counters->recall_errors[ErrorBucket(sum)], 1);
    if (sum < 1e12f) {
      AtomicAdd(&p.counters->recall_error_sum, (unsigned long long)(sum * 0x1p20f));
    }
  }
}

// How many values lie close to each one. Grid as ScoreKernel. Shared: values of two tiles and their
// squared norms.
LOLA_KERNEL RedundancyKernel(EventParams p) {
  const uint32_t d = p.shape.head_dim;
  const EventHead e = HeadOf(p, BlockX(), BlockY());
  const uint32_t first = BlockZ() * kEventPairs;
  const float threshold = e.plan->redundancy_threshold;
  if (!e.ranks() || threshold <= 0 || first >= e.pairs) return;
  constexpr uint32_t kOthers = kEventThreads / kEventPairs;  // compared at the same time
  float* own = reinterpret_cast<float*>(SharedBytes());
  float* others = own + kEventPairs * (d + 1);  // rows d + 1 apart: no bank conflicts
  float* close = others + kOthers * (d + 1);
  for (uint32_t n = ThreadX(); n < kEventPairs * d; n += BlockSize()) {
    const uint32_t pair = first + n / d;
    own[n / d * (d + 1) + n % d] = pair < e.pairs ? PairValue(e, pair, n % d, d) : 0.0f;
  }
  const uint32_t i = ThreadX() % kEventPairs, j = ThreadX() / kEventPairs;
  uint32_t count = 0;
  for (uint32_t begin = 0; begin < e.pairs; begin += kOthers) {
    SyncThreads();
    for (uint32_t n = ThreadX(); n < kOthers * d; n += BlockSize()) {
      const uint32_t pair = begin + n / d;
      others[n / d * (d + 1) + n % d] = pair < e.pairs ? PairValue(e, pair, n % d, d) : 0.0f;
    }
    SyncThreads();
    float norm = 0, other_norm = 0, dot = 0;
    for (uint32_t k = 0; k < d; ++k) {
      const float a = own[i * (d + 1) + k], b = others[j * (d + 1) + k];
      norm = fmaf(a, a, norm);
      other_norm = fmaf(b, b, other_norm);
      dot = fmaf(a, b, dot);
    }
    const float distance = norm + other_norm - 2 * dot;
    const bool same = begin + j == first + i;
    if (begin + j < e.pairs && (same || distance <= threshold * threshold * norm)) ++count;
  }
  close[j * kEventPairs + i] = float(count);  // exact: counts are far below 2^24
  SyncThreads();
  if (j == 0 && first + i < e.pairs) {
    float sum = 0;
    for (uint32_t n = 0; n < kOthers; ++n) sum += close[n * kEventPairs + i];
    e.work.near[first + i] = uint32_t(sum);
  }
}
constexpr size_t RedundancySharedFloats(uint32_t d) {
  return size_t(kEventPairs + kEventThreads / kEventPairs) * (d + 1) + kEventThreads;
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_EVENT_CUH_
