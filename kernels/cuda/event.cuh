// What happens when a chunk leaves a window, for many streams and layers at once: score, discount,
// select, absorb, move. The rules are those of memory/stream/README.md;
// memory/stream/chunk_event.cc is the judge. Kernels: score.cuh, redundancy.cuh, select.cuh,
// absorb.cuh.
//
// A "pair" is a number: below `cached` a slot of the sparse cache, else a row of the leaving chunk.
// The query heads that share a cache each have their own errors, features, H and s; the first of
// them, the owner, decides for all.
#ifndef LOLA_KERNELS_CUDA_EVENT_CUH_
#define LOLA_KERNELS_CUDA_EVENT_CUH_

#include "kernels/cuda/cache_rows.cuh"
#include "kernels/cuda/calls.h"
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/portable.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/tables.h"

namespace lola::cuda {

inline constexpr unsigned kEventThreads = 128;
inline constexpr unsigned kEventWarps = kEventThreads / kWarpThreads;
inline constexpr unsigned kSelectThreads = 256;
inline constexpr float kUnranked = -1.0f;  // score of a pair that was admitted without a ranking

// Working memory of one head of one event; EventSizes::Bytes.
struct EventWork {
  float* features;   // [drops_max, F] of the dropped pairs; of all pairs before they are chosen
  float* trial_h;    // [F, d] the state with all pairs added, when a score needs it
  float* trial_s;    // [2, F]
  float* errors;     // [pairs_max] self-recall errors
  float* norms;      // [pairs_max] |v|^2
  float* key_norms;  // [pairs_max] |k|^2
  // The owner's count for all heads of a cache:
  uint32_t* near;     // [pairs_max] values close to each one, itself included
  uint32_t* dropped;  // [drops_max] pairs, by position
  uint32_t* moves;    // [drops_max, 2] a pair and the slot it gets
  uint32_t* counts;   // dropped, moves
};

// One head of one event: pointers and counts, the same in all kernels.
struct EventHead {
  const Plan* plan;
  const LayerPlace* place;
  unsigned char* record;
  Counters* state;
  PairRows cache;
  PairRows window;  // of the kv head, from the leaving chunk on
  Slot* slots;
  float* h;
  float* s;
  float* cache_mass;   // score `attention` only: of the head's slots,
  float* window_mass;  // and of its ring rows from the leaving chunk on
  const float* map_k;
  uint32_t owner;  // head that decides
  uint32_t cached, pairs, lambda;
  uint64_t first_position;
  EventWork work;

  LOLA_DEVICE bool overflows() const { return pairs > lambda || state->absorbed > 0; }
  LOLA_DEVICE bool ranks() const { return overflows() && lambda > 0; }
};

LOLA_DEVICE EventWork WorkOf(const EventParams& p, uint32_t event, uint32_t head, uint32_t owner) {
  const uint32_t features = p.shape.feature_dim, d = p.shape.head_dim;
  const size_t each = p.sizes.Bytes(features, d);
  const size_t first = size_t(event) * p.shape.query_heads;
  EventWork w{};
  float* own = reinterpret_cast<float*>(p.work + (first + head) * each);
  w.features = own;
  own += size_t(p.sizes.drops_max) * features;
  w.trial_h = own;
  own += p.sizes.trial != 0 ? size_t(features) * d : 0;
  w.trial_s = own;
  own += p.sizes.trial != 0 ? 2 * features : 0;
  w.errors = own;
  w.norms = w.errors + p.sizes.pairs_max;
  w.key_norms = w.norms + p.sizes.pairs_max;
  const size_t behind = size_t(w.key_norms + p.sizes.pairs_max - w.features);
  w.near = reinterpret_cast<uint32_t*>(p.work + (first + owner) * each) + behind;
  w.dropped = w.near + p.sizes.pairs_max;
  w.moves = w.dropped + p.sizes.drops_max;
  w.counts = w.moves + 2 * p.sizes.drops_max;
  return w;
}

LOLA_DEVICE EventHead HeadOf(const EventParams& p, uint32_t event_index, uint32_t head) {
  const Event event = p.events[event_index];
  const SegmentEntry segment = p.segments[event.segment];
  const uint32_t d = p.shape.head_dim, features = p.shape.feature_dim;
  EventHead e{};
  e.plan = segment.plan;
  e.place = &e.plan->layers[event.layer];
  e.record = segment.record;
  e.state = reinterpret_cast<Counters*>(e.record + e.place->counters) + head;
  e.cache = CacheRows(e.record, *e.plan, *e.place, head, d);
  const uint32_t kv_head = head / (p.shape.query_heads / p.shape.kv_heads);
  e.window = RowsAt(e.record, *e.plan, d,
                    kv_head * size_t(e.plan->ring_rows) + RingRow(*e.plan, event.first_position),
                    e.place->window_k, e.place->window_v, e.place->window_k_exponents,
                    e.place->window_v_exponents);
  e.owner = head / e.plan->cache_heads * e.plan->cache_heads;
  e.slots = reinterpret_cast<Slot*>(e.record + e.place->cache_meta) +
            head / e.plan->cache_heads * size_t(e.place->cache_slots);
  e.h = reinterpret_cast<float*>(e.record + e.place->h) + head * size_t(features) * d;
  e.s = reinterpret_cast<float*>(e.record + e.place->s) + head * size_t(2) * features;
  e.cache_mass = reinterpret_cast<float*>(e.record + e.place->cache_mass) +
                 head * size_t(e.place->cache_slots);
  e.window_mass = reinterpret_cast<float*>(e.record + e.place->window_mass) +
                  head * size_t(e.plan->ring_rows) + RingRow(*e.plan, event.first_position);
  e.map_k = p.map_k + (size_t(event.layer) * p.shape.query_heads + head) * d * (features / 2);
  e.cached = e.state->cached;
  e.lambda = e.place->cache_pairs;
  e.pairs = e.cached + e.plan->chunk;
  e.first_position = event.first_position;
  e.work = WorkOf(p, event_index, head, e.owner);
  return e;
}

// The same once SelectKernel has run: `cached` has changed, so the number of cached pairs before
// the event is worked out again.
LOLA_DEVICE EventHead HeadBefore(const EventParams& p, uint32_t event_index, uint32_t head) {
  EventHead e = HeadOf(p, event_index, head);
  e.pairs = e.cached + e.work.counts[0];
  e.cached = e.pairs - e.plan->chunk;
  return e;
}

LOLA_DEVICE float PairValue(const EventHead& e, uint32_t pair, uint32_t dim) {
  return pair < e.cached ? e.cache.Value(pair, dim) : e.window.Value(pair - e.cached, dim);
}

// A pair's key as the cache holds or will hold it: leaving keys lose their rotation inside the
// chunk and are rounded, so that a pair has one set of features for its whole life. By a warp.
LOLA_DEVICE void LoadPairKey(const EventHead& e, uint32_t pair, float (&key)[kRowParts]) {
  const uint32_t d = e.cache.head_dim, half = d / 2;
  const bool cached = pair < e.cached;
  const bool turned = !cached && e.plan->constant_positions;
  const uint32_t row = cached ? pair : pair - e.cached;
  LOLA_UNROLL
  for (unsigned i = 0; i < kRowParts; ++i) {
    const uint32_t dim = ThreadX() % kWarpThreads + kWarpThreads * i;
    key[i] = dim >= d ? 0.0f : cached ? e.cache.Key(row, dim) : e.window.Key(row, dim);
    if (!turned || dim >= d) continue;
    const float other = e.window.Key(row, dim < half ? dim + half : dim - half);
    const size_t angle = size_t(row) * half + (dim < half ? dim : dim - half);
    const float sine = e.plan->distance_sin[angle], cosine = e.plan->distance_cos[angle];
    key[i] = fmaf(dim < half ? other : -other, sine, key[i] * cosine);
  }
  if (turned) RoundRow(e.plan->cache_type, key);
}
LOLA_DEVICE void LoadPairValue(const EventHead& e, uint32_t pair, float (&value)[kRowParts]) {
  LOLA_UNROLL
  for (unsigned i = 0; i < kRowParts; ++i) {
    const uint32_t dim = ThreadX() % kWarpThreads + kWarpThreads * i;
    value[i] = dim < e.cache.head_dim ? PairValue(e, pair, dim) : 0.0f;
  }
}
LOLA_DEVICE float WarpSquaredNorm(const float (&row)[kRowParts]) {
  float sum = 0;
  LOLA_UNROLL
  for (unsigned i = 0; i < kRowParts; ++i) sum = fmaf(row[i], row[i], sum);
  return WarpSum(sum);
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_EVENT_CUH_
