// Self-recall errors of the pairs of a chunk event, and features of keys. Both products, keys times
// map and features times H, run on the matrix units in three bfloat16 products for one of float32
// (mma.h): what they add to an error is below the float32 rounding of a sum over 128 features.
#ifndef LOLA_KERNELS_CUDA_SCORE_CUH_
#define LOLA_KERNELS_CUDA_SCORE_CUH_

#include "kernels/cuda/event.cuh"

namespace lola::cuda {

// A block takes 64 pairs where its panel fits into shared memory, else 32: every pair's numbers are
// the same in both. A warp has one tile of columns.
inline constexpr unsigned kPairsOfWarp = kColumns;
inline constexpr unsigned kManyPairs = 64, kFewPairs = 32;
constexpr unsigned EventBlockThreads(unsigned pairs) { return pairs / kPairsOfWarp * kWarpThreads; }

// Keys, then what the map makes of them, then features: one panel serves all three.
LOLA_DEVICE Panel KeyPanel(uint32_t pairs, uint32_t d, uint32_t features) {
  return {reinterpret_cast<uint32_t*>(SharedBytes()), PanelStride(d > features ? d : features),
          pairs};
}
constexpr size_t KeyPanelBytes(uint32_t pairs, uint32_t d, uint32_t features) {
  return PanelWords(pairs, d > features ? d : features) * 4;
}

// z[column][j] = sum over i of key[i] map[i][j] for the warp's eight columns, in place of their
// keys. Map rows of more than 64 are taken 64 at a time, last ones first: z overwrites keys only at
// the end, so all sums are kept.
//
// `exact`: keys are bfloat16 numbers, as those of caches of bfloat16 and float8 rows are.
LOLA_DEVICE void MapKeys(const Panel& panel, const float* map, uint32_t d, uint32_t f, bool exact) {
  constexpr unsigned kSlabs = 2;  // f is at most 128
  const unsigned column = Warp() * kPairsOfWarp;
  float sums[kSlabs][4][1][4] = {};
  LOLA_UNROLL
  for (unsigned slab = 0; slab < kSlabs; ++slab) {
    if (slab * 64 >= f) continue;
    const unsigned first = slab * 64 + LaneGroup() * 8;
    const float* at = map + size_t(LaneOfGroup()) * f + first;
    for (unsigned step = 0; step < d / kStepK; ++step, at += size_t(kStepK) * f) {
      Strip<8> strip;
      LoadStrip<float, 8>(at, f, first < f ? kStepK : 0, strip);
      MultiplyStrip<float, 8, 1>(strip, panel, column, step, 1, sums[slab], exact);
    }
  }
  SyncWarp();  // all lanes have read the keys that z takes the place of
  LOLA_UNROLL
  for (unsigned slab = 0; slab < kSlabs; ++slab) {
    LOLA_UNROLL
    for (unsigned tile = 0; tile < 4; ++tile) {
      LOLA_UNROLL
      for (unsigned i = 0; i < 4; ++i) {
        const unsigned j = slab * 64 + SumElement<8>(tile, i);
        float* z =
            reinterpret_cast<float*>(panel.words + (column + SumColumn(0, i)) * panel.stride);
        if (j < f) z[j] = sums[slab][tile][0][i];
      }
    }
  }
}

// Features of one column's z, by a warp: lane's j = lane + 32 i, both halves.
struct WarpFeatures {
  float plus[kRowParts], minus[kRowParts];
};
LOLA_DEVICE WarpFeatures FeaturesOfColumn(const Panel& panel, unsigned column, uint32_t f) {
  const float* z = reinterpret_cast<const float*>(panel.words + column * panel.stride);
  const unsigned lane = ThreadX() % kWarpThreads;
  float own[kRowParts], top = -INFINITY, bottom = INFINITY;
  LOLA_UNROLL
  for (unsigned i = 0; i < kRowParts; ++i) {
    const unsigned j = lane + kWarpThreads * i;
    own[i] = j < f ? z[j] : 0.0f;
    top = j < f ? fmaxf(top, own[i]) : top;
    bottom = j < f ? fminf(bottom, own[i]) : bottom;
  }
  SyncWarp();  // features may take z's place from here on
  top = WarpMax(top);
  bottom = -WarpMax(-bottom);
  WarpFeatures phi{};
  float plus = 0, minus = 0;
  LOLA_UNROLL
  for (unsigned i = 0; i < kRowParts; ++i) {
    if (lane + kWarpThreads * i >= f) continue;
    plus += phi.plus[i] = expf(own[i] - top);
    minus += phi.minus[i] = expf(bottom - own[i]);
  }
  plus = WarpSum(plus);
  minus = WarpSum(minus);
  LOLA_UNROLL
  for (unsigned i = 0; i < kRowParts; ++i) {
    phi.plus[i] = fmaxf(phi.plus[i] / plus, 1e-12f);
    phi.minus[i] = fmaxf(phi.minus[i] / minus, 1e-12f);
  }
  return phi;
}

// Keys of the warp's pairs into its columns; columns without a pair get zeros.
LOLA_DEVICE void PutKeys(const Panel& panel, const EventHead& e, uint32_t first, uint32_t count,
                         const uint32_t* list) {
  for (unsigned i = 0; i < kPairsOfWarp; ++i) {
    const unsigned column = Warp() * kPairsOfWarp + i;
    float key[kRowParts] = {};
    if (column < count) LoadPairKey(e, list != nullptr ? list[column] : first + column, key);
    LOLA_UNROLL
    for (unsigned n = 0; n < kRowParts; ++n) {
      const uint32_t dim = ThreadX() % kWarpThreads + kWarpThreads * n;
      if (dim < e.cache.head_dim) PutElement(panel, column, dim, key[n]);
    }
  }
}

// Features of pairs into working memory: of all pairs for a trial state, or of the dropped ones.
// Grid: events, query heads, tiles of PAIRS pairs.
template <unsigned PAIRS>
LOLA_KERNEL LOLA_BOUNDS(EventBlockThreads(PAIRS)) FeaturesKernel(EventParams p, uint32_t trial) {
  AwaitPrevious();
  const uint32_t d = p.shape.head_dim, features = p.shape.feature_dim, f = features / 2;
  const EventHead e =
      trial != 0 ? HeadOf(p, BlockX(), BlockY()) : HeadBefore(p, BlockX(), BlockY());
  if (trial != 0 && (!e.ranks() || !AgainstTrialState(e.plan->score))) return;
  const uint32_t all = trial != 0 ? e.pairs : e.work.counts[0], first = BlockZ() * PAIRS;
  if (first >= all) return;
  const uint32_t count = all - first < PAIRS ? all - first : PAIRS;
  const Panel panel = KeyPanel(PAIRS, d, features);
  PutKeys(panel, e, first, count, trial != 0 ? nullptr : e.work.dropped + first);
  SyncThreads();
  MapKeys(panel, e.map_k, d, f, e.plan->cache_type != CacheType::kFloat32);
  SyncThreads();
  for (unsigned i = 0; i < kPairsOfWarp; ++i) {
    const unsigned column = Warp() * kPairsOfWarp + i;
    if (column >= count) break;
    const WarpFeatures phi = FeaturesOfColumn(panel, column, f);
    float* out = e.work.features + size_t(first + column) * features;
    LOLA_UNROLL
    for (unsigned n = 0; n < kRowParts; ++n) {
      const unsigned j = ThreadX() % kWarpThreads + kWarpThreads * n;
      if (j >= f) continue;
      out[j] = phi.plus[n];
      out[f + j] = phi.minus[n];
    }
  }
}

LOLA_DEVICE unsigned ErrorBucket(float error) {
  // Bounds 2^-20, 2^-18 ... 2^18; memory/stream/statistics.h.
  unsigned bucket = 0;
  for (float bound = 0x1p-20f; bucket < 20 && !(error <= bound); ++bucket) bound *= 4;
  return bucket;
}

// The state that pairs are scored against.
struct ScoreState {
  const float* h;
  const float* s;
  bool empty, leave_out;
};
LOLA_DEVICE ScoreState ScoreStateOf(const EventHead& e) {
  if (AgainstTrialState(e.plan->score)) {
    return {e.work.trial_h, e.work.trial_s, false, LeavesSelfOut(e.plan->score)};
  }
  return {e.h, e.s, e.state->absorbed == 0, false};
}

// Numbers of a column that all dimensions need.
struct ColumnNumbers {
  float mass[kManyPairs];     // what the recalled value is divided by
  float own[kManyPairs];      // phi . phi, for scores that leave the pair itself out
  float part[2][kManyPairs];  // squared error, by slab of dimensions
};

// Features of the warp's columns into the panel, their masses, and norms of values and keys.
LOLA_DEVICE void PutFeatures(const Panel& panel, const EventHead& e, const ScoreState& state,
                             uint32_t first, uint32_t count, uint32_t f, ColumnNumbers& numbers) {
  for (unsigned i = 0; i < kPairsOfWarp; ++i) {
    const unsigned column = Warp() * kPairsOfWarp + i, lane = ThreadX() % kWarpThreads;
    const WarpFeatures phi = FeaturesOfColumn(panel, column, f);
    float mass = 0, own = 0;
    LOLA_UNROLL
    for (unsigned n = 0; n < kRowParts; ++n) {
      const unsigned j = lane + kWarpThreads * n;
      if (j >= f) continue;
      PutElement(panel, column, j, column < count ? phi.plus[n] : 0.0f);
      PutElement(panel, column, f + j, column < count ? phi.minus[n] : 0.0f);
      mass = fmaf(phi.plus[n], state.s[j], fmaf(phi.minus[n], state.s[f + j], mass));
      own = fmaf(phi.plus[n], phi.plus[n], fmaf(phi.minus[n], phi.minus[n], own));
    }
    mass = WarpSum(mass);
    own = state.leave_out ? WarpSum(own) : 0.0f;
    if (lane == 0) {
      numbers.mass[column] = mass - own + e.plan->score_epsilon;
      numbers.own[column] = own;
    }
    if (column >= count) continue;
    float row[kRowParts];
    LoadPairValue(e, first + column, row);
    const float norm = WarpSquaredNorm(row);
    LoadPairKey(e, first + column, row);
    const float key_norm = WarpSquaredNorm(row);
    if (lane == 0) {
      e.work.norms[first + column] = norm;
      e.work.key_norms[first + column] = key_norm;
    }
  }
}

// Recalled values of a warp's columns in its slab of dimensions, and the squared errors.
template <unsigned D>
LOLA_DEVICE void RecallErrors(const Panel& panel, const EventHead& e, const ScoreState& state,
                              uint32_t first, uint32_t count, uint32_t features,
                              ColumnNumbers& numbers) {
  constexpr unsigned kWide = D >= 64 ? 8 : D / 8, kSlabs = D / (8 * kWide);
  constexpr unsigned kTiles = kSlabs;  // warps of a slab share the four tiles of columns
  const unsigned slab = Warp() % kSlabs, column = Warp() / kSlabs * kTiles * kColumns;
  const unsigned dims = slab * 64 + LaneGroup() * kWide;
  float sums[kWide / 2][kTiles][4] = {};
  const float* h = state.h + size_t(LaneOfGroup()) * D + dims;
  for (unsigned step = 0; step < features / kStepK; ++step, h += size_t(kStepK) * D) {
    Strip<kWide> strip;
    LoadStrip<float, kWide>(h, D, kStepK, strip);
    MultiplyStrip<float, kWide, kTiles>(strip, panel, column, step, kTiles, sums);
  }
  LOLA_UNROLL
  for (unsigned n = 0; n < kTiles; ++n) {
    LOLA_UNROLL
    for (unsigned c = 0; c < 2; ++c) {
      const unsigned at = column + SumColumn(n, c);
      float sum = 0;
      LOLA_UNROLL
      for (unsigned i = 0; i < kWide && at < count; ++i) {
        const float value = PairValue(e, first + at, dims + i);
        const float recalled = sums[i / 2][n][i % 2 * 2 + c] - numbers.own[at] * value;
        const float guess = state.empty ? 0.0f : recalled / numbers.mass[at];
        sum = fmaf(guess - value, guess - value, sum);
      }
      sum += ShuffleXor(sum, 4);
      sum += ShuffleXor(sum, 8);
      sum += ShuffleXor(sum, 16);
      if (LaneGroup() == 0) numbers.part[slab][at] = sum;
    }
  }
}

// Self-recall errors of all pairs against the state before the event, or the trial state. Grid:
// events, query heads, tiles of PAIRS pairs.
template <unsigned D, unsigned PAIRS>
LOLA_KERNEL LOLA_BOUNDS(EventBlockThreads(PAIRS)) ScoreKernel(EventParams p) {
  AwaitPrevious();
  const uint32_t features = p.shape.feature_dim, f = features / 2;
  const EventHead e = HeadOf(p, BlockX(), BlockY());
  const uint32_t first = BlockZ() * PAIRS;
  if (!e.ranks() || first >= e.pairs) return;
  const uint32_t count = e.pairs - first < PAIRS ? e.pairs - first : PAIRS;
  const Panel panel = KeyPanel(PAIRS, D, features);
  ColumnNumbers& numbers =
      *reinterpret_cast<ColumnNumbers*>(SharedBytes() + KeyPanelBytes(PAIRS, D, features));
  const ScoreState state = ScoreStateOf(e);
  PutKeys(panel, e, first, count, nullptr);
  SyncThreads();
  MapKeys(panel, e.map_k, D, f, e.plan->cache_type != CacheType::kFloat32);
  SyncThreads();
  PutFeatures(panel, e, state, first, count, f, numbers);
  SyncThreads();
  RecallErrors<D>(panel, e, state, first, count, features, numbers);
  SyncThreads();
  const unsigned column = ThreadX();
  if (column >= count) return;
  const float error = numbers.part[0][column] + (D > 64 ? numbers.part[1][column] : 0.0f);
  e.work.errors[first + column] = error;
  AtomicAdd(&p.counters->recall_errors[ErrorBucket(error)], 1);
  if (error < 1e12f) {
    AtomicAdd(&p.counters->recall_error_sum, (unsigned long long)(error * 0x1p20f));
  }
}
constexpr size_t ScoreSharedBytes(uint32_t pairs, uint32_t d, uint32_t features) {
  return KeyPanelBytes(pairs, d, features) + sizeof(ColumnNumbers);
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_SCORE_CUH_
