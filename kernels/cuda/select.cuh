// The second half of a chunk event: which pairs stay, where they go, what H and s take in.
#ifndef LOLA_KERNELS_CUDA_SELECT_CUH_
#define LOLA_KERNELS_CUDA_SELECT_CUH_

#include "kernels/cuda/event.cuh"

namespace lola::cuda {

LOLA_DEVICE bool RanksBefore(float a, uint64_t a_position, float b, uint64_t b_position) {
  const bool a_nan = a != a, b_nan = b != b;
  if (a_nan != b_nan) return b_nan;
  if (!a_nan && a != b) return a > b;
  return a_position < b_position;
}

LOLA_DEVICE float RandomScore(uint64_t position) {
  uint64_t x = position + 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  return float(uint32_t(x >> 40)) * 0x1p-24f;
}

LOLA_DEVICE float ScoreOf(const EventHead& e, uint32_t pair, uint64_t position, uint32_t d) {
  const Plan& plan = *e.plan;
  const bool cached = pair < e.cached;
  if (!plan.rescore && cached && e.slots[pair].score != kUnranked) return e.slots[pair].score;
  float score = e.work.errors[pair];
  if (plan.score == ScoreForm::kValueNorm) {
    score = 0;
    for (uint32_t i = 0; i < d; ++i) {
      const float v = PairValue(e, pair, i, d);
      score += v * v;
    }
  } else if (plan.score == ScoreForm::kRandom) {
    score = RandomScore(position);
  } else if (plan.score == ScoreForm::kRecency) {
    score = float(int64_t(position));
  }
  return plan.redundancy_threshold > 0 ? score / float(e.work.near[pair]) : score;
}

// Shared memory of SelectKernel: positions, scores and marks of all pairs, then counts.
constexpr size_t SelectSharedBytes(uint32_t pairs_max) {
  return size_t(pairs_max) * (8 + 4 + 4) + 64;
}

// Counts, by all threads: sum over the block of `mine`. `total` is one shared integer.
LOLA_DEVICE uint32_t CountAll(bool mine, uint32_t* warp_counts) {
  const uint32_t bits = Ballot(mine);
  if (ThreadX() % kWarpThreads == 0) warp_counts[ThreadX() / kWarpThreads] = CountBits(bits);
  SyncThreads();
  uint32_t sum = 0;
  for (unsigned i = 0; i < BlockSize() / kWarpThreads; ++i) sum += warp_counts[i];
  SyncThreads();
  return sum;
}

// The first `lambda` pairs in order of rank stay. Marks: 1 = stays.
LOLA_DEVICE void MarkKept(const EventHead& e, const uint64_t* positions, const float* scores,
                          uint32_t* kept) {
  for (uint32_t i = ThreadX(); i < e.pairs; i += BlockSize()) {
    uint32_t rank = 0;
    for (uint32_t j = 0; j < e.pairs; ++j) {
      rank += RanksBefore(scores[j], positions[j], scores[i], positions[i]) ? 1 : 0;
    }
    kept[i] = rank < e.lambda ? 1 : 0;
  }
  SyncThreads();
}

// Lists the dropped pairs by position and the admitted ones with the slots they get: a kept pair
// stays where it is, new pairs take the lowest free slots in order of position.
LOLA_DEVICE void ListMoves(const EventHead& e, const uint64_t* positions, const uint32_t* kept) {
  for (uint32_t i = ThreadX(); i < e.pairs; i += BlockSize()) {
    if (kept[i] == 0) {
      uint32_t before = 0;
      for (uint32_t j = 0; j < e.pairs; ++j) {
        before += kept[j] == 0 && positions[j] < positions[i] ? 1 : 0;
      }
      e.work.dropped[before] = i;
    } else if (i >= e.cached) {
      uint32_t order = 0;  // among the admitted
      for (uint32_t j = e.cached; j < i; ++j) order += kept[j];
      uint32_t slot = 0, free = 0;
      for (; slot < e.lambda; ++slot) {
        if (slot < e.cached && kept[slot] != 0) continue;
        if (free++ == order) break;
      }
      e.work.admitted[2 * order] = i - e.cached;
      e.work.admitted[2 * order + 1] = slot;
    }
  }
  SyncThreads();
}

LOLA_DEVICE void WriteSlots(const EventHead& e, const uint64_t* positions, const float* scores,
                            const uint32_t* kept, uint32_t admitted) {
  for (uint32_t i = ThreadX(); i < e.cached; i += BlockSize()) {
    if (kept[i] != 0) e.slots[i] = {int64_t(positions[i]), scores[i], e.work.errors[i]};
  }
  for (uint32_t n = ThreadX(); n < admitted; n += BlockSize()) {
    const uint32_t pair = e.cached + e.work.admitted[2 * n], slot = e.work.admitted[2 * n + 1];
    e.slots[slot] = {int64_t(positions[pair]), scores[pair], e.work.errors[pair]};
  }
}

// Everything fits: all leaving pairs are admitted without a ranking.
LOLA_DEVICE void AdmitAll(const EventParams& p, const EventHead& e) {
  for (uint32_t row = ThreadX(); row < e.plan->chunk; row += BlockSize()) {
    e.work.admitted[2 * row] = row;
    e.work.admitted[2 * row + 1] = e.cached + row;
    e.slots[e.cached + row] = {int64_t(e.first_position + row), kUnranked, 0.0f};
  }
  SyncThreads();
  if (ThreadX() != 0) return;
  e.work.counts[0] = 0;
  e.work.counts[1] = e.plan->chunk;
  e.state->cached = e.pairs;
  ++e.state->events;
  AtomicAdd(&p.counters->events, 1);
  AtomicAdd(&p.counters->admissions, e.plan->chunk);
}

// Grid: events, query heads. The record's counters and slots are those after the event from here
// on.
LOLA_KERNEL SelectKernel(EventParams p) {
  const uint32_t d = p.shape.head_dim;
  const EventHead e = HeadOf(p, BlockX(), BlockY());
  if (!e.overflows()) return AdmitAll(p, e);
  uint64_t* positions = reinterpret_cast<uint64_t*>(SharedBytes());
  float* scores = reinterpret_cast<float*>(positions + p.pairs_max);
  uint32_t* kept = reinterpret_cast<uint32_t*>(scores + p.pairs_max);
  uint32_t* warp_counts = kept + p.pairs_max;
  bool broken = false;
  for (uint32_t i = ThreadX(); i < e.pairs; i += BlockSize()) {
    positions[i] = i < e.cached ? uint64_t(e.slots[i].position) : e.first_position + (i - e.cached);
    scores[i] = e.lambda > 0 ? ScoreOf(e, i, positions[i], d) : 0.0f;
    broken = broken || !(fabsf(scores[i]) <= 3.4e38f);
  }
  const uint32_t broken_threads = CountAll(broken, warp_counts);
  MarkKept(e, positions, scores, kept);
  ListMoves(e, positions, kept);
  uint32_t displaced = 0;
  for (uint32_t begin = 0; begin < e.cached; begin += BlockSize()) {
    const uint32_t i = begin + ThreadX();
    displaced += CountAll(i < e.cached && kept[i] == 0, warp_counts);
  }
  const uint32_t dropped = e.pairs - e.lambda;
  const uint32_t admitted = displaced + (e.lambda - e.cached);
  WriteSlots(e, positions, scores, kept, admitted);
  if (ThreadX() != 0) return;
  e.work.counts[0] = dropped;
  e.work.counts[1] = admitted;
  e.state->absorbed += dropped;
  e.state->cached = e.lambda;
  ++e.state->events;
  AtomicAdd(&p.counters->events, 1);
  AtomicAdd(&p.counters->absorptions, dropped);
  AtomicAdd(&p.counters->displacements, displaced);
  AtomicAdd(&p.counters->admissions, admitted);
  if (broken_threads > 0) {
    AtomicAdd(&p.counters->nonfinite_scores, broken_threads);
    p.broken[p.events[BlockX()].segment] = 1;
  }
}

// Where a dropped or admitted pair lies after SelectKernel: `cached` has changed, so the number of
// cached pairs before the event is worked out again.
LOLA_DEVICE EventHead HeadBefore(const EventParams& p, uint32_t event_index, uint32_t head) {
  EventHead e = HeadOf(p, event_index, head);
  const uint32_t dropped = e.work.counts[0];
  e.pairs = e.cached + dropped;
  e.cached = e.pairs - e.plan->chunk;
  return e;
}

// Features of the dropped pairs. Grid: events, query heads, tiles of kEventPairs dropped pairs.
LOLA_KERNEL DroppedFeaturesKernel(EventParams p) {
  const uint32_t d = p.shape.head_dim, features = p.shape.feature_dim, f = features / 2;
  const EventHead e = HeadBefore(p, BlockX(), BlockY());
  const uint32_t first = BlockZ() * kEventPairs, dropped = e.work.counts[0];
  if (first >= dropped) return;
  const uint32_t pairs = dropped - first < kEventPairs ? dropped - first : kEventPairs;
  float* keys = reinterpret_cast<float*>(SharedBytes());
  float* z = keys + kEventPairs * d;
  float* phi = z + kEventPairs * f;
  for (uint32_t n = ThreadX(); n < pairs * d; n += BlockSize()) {
    keys[n] = PairKey(e, e.work.dropped[first + n / d], n % d, d);
  }
  SyncThreads();
  KeyFeatures(keys, e.map_k, pairs, d, f, z, phi);
  float* out = e.work.features + size_t(first) * features;
  for (uint32_t n = ThreadX(); n < pairs * features; n += BlockSize()) out[n] = phi[n];
}

// H += sum phi v^T, s += sum phi over the dropped pairs, by position; the batch is summed from zero
// and added once. s carries a correction. Grid: events, query heads, sections of 32 features.
// Shared: features of one section for all dropped pairs.
LOLA_KERNEL AbsorbKernel(EventParams p) {
  const uint32_t d = p.shape.head_dim, features = p.shape.feature_dim;
  const EventHead e = HeadBefore(p, BlockX(), BlockY());
  const uint32_t first = BlockZ() * kSectionFeatures, dropped = e.work.counts[0];
  if (dropped == 0) return;
  float* phi = reinterpret_cast<float*>(SharedBytes());  // [dropped, 32]
  for (uint32_t n = ThreadX(); n < dropped * kSectionFeatures; n += BlockSize()) {
    const uint32_t row = n / kSectionFeatures;
    phi[n] = e.work.features[size_t(row) * features + first + n % kSectionFeatures];
  }
  SyncThreads();
  // A thread: one dimension, the features of its group.
  const uint32_t groups = BlockSize() > d ? BlockSize() / d : 1;
  const uint32_t each = kSectionFeatures / groups;
  const uint32_t dim = ThreadX() % d, begin = ThreadX() / d * each;
  if (begin < kSectionFeatures) {
    float sum[kSectionFeatures] = {};
    for (uint32_t row = 0; row < dropped; ++row) {
      const float v = PairValue(e, e.work.dropped[row], dim, d);
      LOLA_UNROLL
      for (uint32_t i = 0; i < kSectionFeatures; ++i) {
        if (i < each) sum[i] = fmaf(phi[row * kSectionFeatures + begin + i], v, sum[i]);
      }
    }
    LOLA_UNROLL
    for (uint32_t i = 0; i < kSectionFeatures; ++i) {
      if (i < each) e.h[size_t(first + begin + i) * d + dim] += sum[i];
    }
  }
  for (uint32_t i = ThreadX(); i < kSectionFeatures; i += BlockSize()) {
    double mass = double(e.s[first + i]) + double(e.s[features + first + i]);
    for (uint32_t row = 0; row < dropped; ++row) mass += double(phi[row * kSectionFeatures + i]);
    e.s[first + i] = float(mass);
    e.s[features + first + i] = float(mass - double(float(mass)));
  }
}

// Copies admitted pairs into their slots. Grid: events, query heads.
LOLA_KERNEL MoveKernel(EventParams p) {
  const uint32_t d = p.shape.head_dim;
  const EventHead e = HeadBefore(p, BlockX(), BlockY());
  const uint32_t admitted = e.work.counts[1];
  for (uint32_t n = ThreadX(); n < admitted * d; n += BlockSize()) {
    const uint32_t pair = e.cached + e.work.admitted[n / d * 2];
    const uint32_t slot = e.work.admitted[n / d * 2 + 1], dim = n % d;
    PutElement(e.cache_k, e.plan->cache_type, KeyOffset(slot, dim, d), PairKey(e, pair, dim, d));
    PutElement(e.cache_v, e.plan->cache_type, size_t(slot) * d + dim, PairValue(e, pair, dim, d));
  }
}

// Zeroes the ring rows of the chunk that left: dead rows are zero. Grid: events, kv heads.
LOLA_KERNEL ClearKernel(EventParams p) {
  const Event event = p.events[BlockX()];
  const SegmentEntry segment = p.segments[event.segment];
  const Plan& plan = *segment.plan;
  const LayerPlace& place = plan.layers[event.layer];
  const size_t row_bytes = p.shape.head_dim * (plan.cache_type == CacheType::kFloat32 ? 4 : 2);
  const size_t at =
      (BlockY() * size_t(plan.ring_rows) + RingRow(plan, event.first_position)) * row_bytes;
  uint32_t* keys = reinterpret_cast<uint32_t*>(segment.record + place.window_k + at);
  uint32_t* values = reinterpret_cast<uint32_t*>(segment.record + place.window_v + at);
  for (size_t n = ThreadX(); n < plan.chunk_rows * row_bytes / 4; n += BlockSize()) {
    keys[n] = 0;
    values[n] = 0;
  }
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_SELECT_CUH_
