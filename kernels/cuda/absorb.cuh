// The end of a chunk event: H and s take in what was dropped, pairs move to their slots, the ring
// is cleared. Sums into H stay plain float32: what is added is kept for the stream's whole life,
// and it is an eighth of the event's work.
#ifndef LOLA_KERNELS_CUDA_ABSORB_CUH_
#define LOLA_KERNELS_CUDA_ABSORB_CUH_

#include "kernels/cuda/event.cuh"

namespace lola::cuda {

inline constexpr unsigned kAbsorbRows = 128;  // whose features are in shared memory at once
constexpr size_t AbsorbSharedBytes() { return size_t(kAbsorbRows) * kSectionFeatures * 4; }

// Rows to add: of the dropped pairs, or of all pairs when `list` is null.
struct AbsorbRows {
  const uint32_t* list;
  uint32_t count;
};

// h[feature][dim] += sum phi v and s += sum phi for one section of 32 features, rows in order; the
// batch is summed from zero and added once. s carries a correction.
LOLA_DEVICE void AbsorbSection(const EventParams& p, const EventHead& e, const AbsorbRows& rows,
                               uint32_t first, float* h, float* s) {
  const uint32_t d = p.shape.head_dim, features = p.shape.feature_dim;
  float* phi = reinterpret_cast<float*>(SharedBytes());  // [kAbsorbRows, 32]
  // A thread: one dimension, the features of its group.
  const uint32_t groups = BlockSize() > d ? BlockSize() / d : 1;
  const uint32_t each = groups < kSectionFeatures ? kSectionFeatures / groups : 1;
  const uint32_t dim = ThreadX() % d, begin = ThreadX() / d * each;
  float sum[kSectionFeatures] = {};
  const bool adds = ThreadX() < kSectionFeatures;
  double mass = 0;
  if (adds) mass = double(s[first + ThreadX()]) + double(s[features + first + ThreadX()]);
  for (uint32_t at = 0; at < rows.count; at += kAbsorbRows) {
    const uint32_t n = rows.count - at < kAbsorbRows ? rows.count - at : kAbsorbRows;
    SyncThreads();
    for (uint32_t i = ThreadX(); i < n * kSectionFeatures; i += BlockSize()) {
      phi[i] = e.work.features[size_t(at + i / kSectionFeatures) * features + first +
                               i % kSectionFeatures];
    }
    SyncThreads();
    for (uint32_t row = 0; row < n; ++row) {
      if (adds) mass += double(phi[row * kSectionFeatures + ThreadX()]);
      if (begin >= kSectionFeatures) continue;
      const float v = PairValue(e, rows.list != nullptr ? rows.list[at + row] : at + row, dim);
      LOLA_UNROLL
      for (uint32_t i = 0; i < kSectionFeatures; ++i) {
        if (i < each) sum[i] = fmaf(phi[row * kSectionFeatures + begin + i], v, sum[i]);
      }
    }
  }
  LOLA_UNROLL
  for (uint32_t i = 0; i < kSectionFeatures; ++i) {
    if (i < each && begin < kSectionFeatures) h[size_t(first + begin + i) * d + dim] += sum[i];
  }
  if (adds) {
    s[first + ThreadX()] = float(mass);
    s[features + first + ThreadX()] = float(mass - double(float(mass)));
  }
}

// The state with all pairs added, for scores that ask for it. Grid: events, query heads, sections
// of 32 features.
LOLA_KERNEL TrialKernel(EventParams p) {
  AwaitPrevious();
  const uint32_t d = p.shape.head_dim, features = p.shape.feature_dim;
  const EventHead e = HeadOf(p, BlockX(), BlockY());
  const uint32_t first = BlockZ() * kSectionFeatures;
  if (!e.ranks() || !AgainstTrialState(e.plan->score)) return;
  for (uint32_t n = ThreadX(); n < kSectionFeatures * d; n += BlockSize()) {
    e.work.trial_h[first * d + n] = e.h[first * d + n];
  }
  for (uint32_t n = ThreadX(); n < kSectionFeatures; n += BlockSize()) {
    e.work.trial_s[first + n] = e.s[first + n];
    e.work.trial_s[features + first + n] = e.s[features + first + n];
  }
  SyncThreads();
  AbsorbSection(p, e, {nullptr, e.pairs}, first, e.work.trial_h, e.work.trial_s);
}

// Grid: events, query heads, sections of 32 features.
LOLA_KERNEL AbsorbKernel(EventParams p) {
  AwaitPrevious();
  const EventHead e = HeadBefore(p, BlockX(), BlockY());
  const uint32_t dropped = e.work.counts[0];
  if (dropped == 0) return;
  AbsorbSection(p, e, {e.work.dropped, dropped}, BlockZ() * kSectionFeatures, e.h, e.s);
}

// Every head's sums move with the pairs; those of the chunk that left are zero again.
LOLA_DEVICE void MoveMasses(const EventHead& e) {
  for (uint32_t n = ThreadX(); n < e.work.counts[1]; n += BlockSize()) {
    const uint32_t pair = e.work.moves[2 * n];
    e.cache_mass[e.work.moves[2 * n + 1]] =
        pair < e.cached ? e.cache_mass[pair] : e.window_mass[pair - e.cached];
  }
  SyncThreads();
  for (uint32_t slot = e.state->cached + ThreadX(); slot < e.cached; slot += BlockSize()) {
    e.cache_mass[slot] = 0;
  }
  for (uint32_t row = ThreadX(); row < e.plan->chunk; row += BlockSize()) e.window_mass[row] = 0;
}

// Copies pairs into their slots, a warp a pair, and clears slots that hold none any more: a slot
// that is read is at or above the new size, or holds a leaving pair, and so is never written
// before. Grid: events, query heads (owners work).
LOLA_KERNEL MoveKernel(EventParams p) {
  AwaitPrevious();
  const EventHead e = HeadBefore(p, BlockX(), BlockY());
  if (e.plan->score == ScoreForm::kAttention) MoveMasses(e);
  if (e.owner != BlockY()) return;
  const uint32_t moves = e.work.counts[1], warps = BlockSize() / kWarpThreads;
  for (uint32_t n = ThreadX() / kWarpThreads; n < moves; n += warps) {
    float key[kRowParts], value[kRowParts];
    LoadPairKey(e, e.work.moves[2 * n], key);
    LoadPairValue(e, e.work.moves[2 * n], value);
    e.cache.Store(e.work.moves[2 * n + 1], key, value);
  }
  SyncThreads();
  for (uint32_t slot = e.state->cached + ThreadX() / kWarpThreads; slot < e.cached; slot += warps) {
    e.cache.ClearRow(slot);
  }
}

// Zeroes the ring rows of the chunk that left: dead rows are zero. Grid: events, kv heads.
LOLA_KERNEL ClearKernel(EventParams p) {
  AwaitPrevious();
  const uint32_t group = p.shape.query_heads / p.shape.kv_heads;
  const EventHead e = HeadBefore(p, BlockX(), BlockY() * group);
  const uint32_t rows = e.plan->chunk_rows;
  const size_t words =
      size_t(rows) * p.shape.head_dim * CacheBytes(e.plan->cache_type) / sizeof(uint32_t);
  uint32_t* keys = reinterpret_cast<uint32_t*>(e.window.keys);
  uint32_t* values = reinterpret_cast<uint32_t*>(e.window.values);
  for (size_t n = ThreadX(); n < words; n += BlockSize()) {
    keys[n] = 0;
    values[n] = 0;
  }
  if (e.plan->cache_type != CacheType::kFloat8) return;
  for (uint32_t n = ThreadX(); n < rows; n += BlockSize()) {
    e.window.key_exponents[n] = e.window.value_exponents[n] = 0;
  }
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_ABSORB_CUH_
