// How many values lie close to each one, in a chunk event: |v_i - v_j| <= threshold |v_i|, from
// products of values on the matrix units. Near the threshold a pair may fall on the other side of
// it than on the CPU: where the distance differs from it by less than about 1e-5 of |v|^2.
#ifndef LOLA_KERNELS_CUDA_REDUNDANCY_CUH_
#define LOLA_KERNELS_CUDA_REDUNDANCY_CUH_

#include "kernels/cuda/event.cuh"

namespace lola::cuda {

// Tiles of sixteen own pairs of a warp. Others are read once for all of them; float32 rows take too
// many registers for two.
template <typename T>
constexpr unsigned OwnTiles() {
  return Operand<T>::kSplit ? 1 : 2;
}
inline constexpr unsigned kRowsOfBlock = 16 * kEventWarps;  // at least

// A value row as operand: lane t of a group holds dimensions 32 q + 8 t .. + 7. They are the
// positions of two steps, in the same order on both sides.
template <typename T, unsigned D>
struct ValueRow {
  static constexpr unsigned kParts = (D + 31) / 32;
  uint32_t hi[kParts][4], lo[kParts][4];
};

template <typename T, unsigned D>
LOLA_DEVICE void LoadValueRow(const EventHead& e, uint32_t pair, ValueRow<T, D>& row) {
  const bool cached = pair < e.cached;
  const T* from = reinterpret_cast<const T*>(cached ? e.cache.values : e.window.values) +
                  size_t(cached ? pair : pair - e.cached) * D;
  LOLA_UNROLL
  for (unsigned q = 0; q < ValueRow<T, D>::kParts; ++q) {
    const unsigned dim = 32 * q + 8 * LaneOfGroup();
    LOLA_UNROLL
    for (unsigned i = 0; i < 4; ++i) row.hi[q][i] = row.lo[q][i] = 0;
    if (pair < e.pairs && dim < D) LoadPairs<8>(from + dim, row.hi[q], row.lo[q]);
  }
}

LOLA_DEVICE float ValueScaleOf(const EventHead& e, uint32_t pair) {
  if (pair >= e.pairs) return 0.0f;
  return pair < e.cached ? e.cache.ValueScale(pair) : e.window.ValueScale(pair - e.cached);
}

// How many of the eight values from `begin` on lie close to the sixteen of one tile.
template <typename T, unsigned D>
struct NearTile {
  ValueRow<T, D> rows[2];  // own[0], own[1]
  uint32_t own[2];
  float norm[2], scale[2], reach[2];
  uint32_t count[2];

  LOLA_DEVICE void Load(const EventHead& e, uint32_t first) {
    const float share = e.plan->redundancy_threshold * e.plan->redundancy_threshold;
    LOLA_UNROLL
    for (unsigned i = 0; i < 2; ++i) {
      own[i] = first + LaneGroup() + 8 * i;
      LoadValueRow<T, D>(e, own[i], rows[i]);
      norm[i] = own[i] < e.pairs ? e.work.norms[own[i]] : 0.0f;
      scale[i] = ValueScaleOf(e, own[i]);
      reach[i] = share * norm[i];
      count[i] = 0;
    }
  }

  LOLA_DEVICE void Products(const ValueRow<T, D>& other, float (&dots)[4]) const {
    const ValueRow<T, D>&a = rows[0], &b = rows[1];
    LOLA_UNROLL
    for (unsigned q = 0; q < ValueRow<T, D>::kParts; ++q) {
      LOLA_UNROLL
      for (unsigned half = 0; half < 4; half += 2) {
        const uint32_t hi[4] = {a.hi[q][half], b.hi[q][half], a.hi[q][half + 1], b.hi[q][half + 1]};
        const uint32_t with[2] = {other.hi[q][half], other.hi[q][half + 1]};
        if constexpr (Operand<T>::kSplit) {
          const uint32_t lo[4] = {a.lo[q][half], b.lo[q][half], a.lo[q][half + 1],
                                  b.lo[q][half + 1]};
          const uint32_t with_lo[2] = {other.lo[q][half], other.lo[q][half + 1]};
          MmaBf16(dots, lo, with);
          MmaBf16(dots, hi, with_lo);
        }
        MmaBf16(dots, hi, with);
      }
    }
  }

  // `norms`, `scales`: of the two others that the lane judges.
  LOLA_DEVICE void Count(const EventHead& e, const ValueRow<T, D>& other, uint32_t begin,
                         const float (&norms)[2], const float (&scales)[2]) {
    float dots[4] = {};
    Products(other, dots);
    LOLA_UNROLL
    for (unsigned i = 0; i < 4; ++i) {
      const uint32_t pair = begin + 2 * LaneOfGroup() + i % 2;
      if (pair >= e.pairs) continue;
      const float dot = dots[i] * scale[i / 2] * scales[i % 2];
      const float distance = norm[i / 2] + norms[i % 2] - 2 * dot;
      if (pair == own[i / 2] || distance <= reach[i / 2]) ++count[i / 2];
    }
  }

  LOLA_DEVICE void Write(const EventHead& e) {
    LOLA_UNROLL
    for (unsigned i = 0; i < 2; ++i) {
      count[i] += ShuffleXor(count[i], 1);
      count[i] += ShuffleXor(count[i], 2);
      if (LaneOfGroup() == 0 && own[i] < e.pairs) e.work.near[own[i]] = count[i];
    }
  }
};

template <typename T, unsigned D>
LOLA_DEVICE void CountNear(const EventHead& e, uint32_t first) {
  constexpr unsigned kTiles = OwnTiles<T>();
  NearTile<T, D> tiles[kTiles];
  LOLA_UNROLL
  for (unsigned n = 0; n < kTiles; ++n) tiles[n].Load(e, first + 16 * n);
  for (uint32_t begin = 0; begin < e.pairs; begin += kColumns) {
    ValueRow<T, D> other;
    LoadValueRow<T, D>(e, begin + LaneGroup(), other);
    float norms[2], scales[2];
    LOLA_UNROLL
    for (unsigned i = 0; i < 2; ++i) {
      const uint32_t pair = begin + 2 * LaneOfGroup() + i;
      norms[i] = pair < e.pairs ? e.work.norms[pair] : 0.0f;
      scales[i] = ValueScaleOf(e, pair);
    }
    LOLA_UNROLL
    for (unsigned n = 0; n < kTiles; ++n) tiles[n].Count(e, other, begin, norms, scales);
  }
  LOLA_UNROLL
  for (unsigned n = 0; n < kTiles; ++n) tiles[n].Write(e);
}

template <typename T, unsigned D>
LOLA_DEVICE void CountNearOfBlock(const EventHead& e) {
  const uint32_t first = (BlockZ() * kEventWarps + Warp()) * 16 * OwnTiles<T>();
  if (first < e.pairs) CountNear<T, D>(e, first);
}

// Needs the norms of ScoreKernel. Grid: events, query heads (owners work), tiles of kRowsOfBlock
// pairs.
template <unsigned D>
LOLA_KERNEL LOLA_BOUNDS(kEventThreads) RedundancyKernel(EventParams p) {
  AwaitPrevious();
  const EventHead e = HeadOf(p, BlockX(), BlockY());
  if (e.owner != BlockY() || !e.ranks() || e.plan->redundancy_threshold <= 0) return;
  switch (e.plan->cache_type) {
    case CacheType::kFloat32:
      return CountNearOfBlock<float, D>(e);
    case CacheType::kBFloat16:
      return CountNearOfBlock<Bf16, D>(e);
    case CacheType::kFloat8:
      return CountNearOfBlock<Fp8, D>(e);
  }
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_REDUNDANCY_CUH_
