// The two products of a section of attention: logits and weighted rows, by the four warps of a
// block (attend.cuh).
#ifndef LOLA_KERNELS_CUDA_SECTION_SUMS_CUH_
#define LOLA_KERNELS_CUDA_SECTION_SUMS_CUH_

#include "kernels/cuda/cache_rows.cuh"
#include "kernels/cuda/calls.h"
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/portable.h"
#include "kernels/cuda/sections.cuh"
#include "kernels/cuda/tables.h"

namespace lola::cuda {

inline constexpr unsigned kAttendThreads = 128;
inline constexpr unsigned kAttendWarps = kAttendThreads / kWarpThreads;
inline constexpr unsigned kHalfElements = 64;  // elements of the long side that a warp works on
inline constexpr unsigned kHalfStride = kHalfElements + 1;

// Shared memory of a block: panels of operand b (queries or features; weights), two halves of
// partial sums, four numbers a column.
template <unsigned D, unsigned NT>
struct AttendMemory {
  static constexpr unsigned kAll = NT * kColumns;
  static constexpr unsigned kQueryWords =
      PanelWords(kAll, D > kSectionFeatures ? D : kSectionFeatures);
  static constexpr unsigned kWeightWords = PanelWords(kAll, kSectionPairs);

  LOLA_DEVICE static uint32_t* Words() { return reinterpret_cast<uint32_t*>(SharedBytes()); }
  LOLA_DEVICE static Panel Queries() { return {Words(), PanelStride(D), kAll}; }
  LOLA_DEVICE static Panel Features() { return {Words(), PanelStride(kSectionFeatures), kAll}; }
  LOLA_DEVICE static Panel Weights() {
    return {Words() + kQueryWords, PanelStride(kSectionPairs), kAll};
  }
  LOLA_DEVICE static float* Halves() {
    return reinterpret_cast<float*>(Words() + kQueryWords + kWeightWords);
  }
  LOLA_DEVICE static float* Numbers() { return Halves() + 2 * kAll * kHalfStride; }
  static constexpr size_t Bytes() {
    return (kQueryWords + kWeightWords + 2 * kAll * kHalfStride + 4 * kAll) * size_t{4};
  }
};

// A warp's sums to and from its half of shared memory, [columns][65].
template <unsigned TILES, unsigned NT>
LOLA_DEVICE void StoreSums(const float (&sums)[TILES][NT][4], float scale, float* half) {
  LOLA_UNROLL
  for (unsigned tile = 0; tile < TILES; ++tile) {
    LOLA_UNROLL
    for (unsigned n = 0; n < NT; ++n) {
      LOLA_UNROLL
      for (unsigned i = 0; i < 4; ++i) {
        half[SumColumn(n, i) * kHalfStride + SumElement<2 * TILES>(tile, i)] =
            sums[tile][n][i] * scale;
      }
    }
  }
}
template <unsigned TILES, unsigned NT>
LOLA_DEVICE void AddSums(const float* half, float (&sums)[TILES][NT][4]) {
  LOLA_UNROLL
  for (unsigned tile = 0; tile < TILES; ++tile) {
    LOLA_UNROLL
    for (unsigned n = 0; n < NT; ++n) {
      LOLA_UNROLL
      for (unsigned i = 0; i < 4; ++i) {
        sums[tile][n][i] += half[SumColumn(n, i) * kHalfStride + SumElement<2 * TILES>(tile, i)];
      }
    }
  }
}

// Adds the sums of the four warps that worked on the same elements: (0 + 1) + (2 + 3), in warp 0.
template <unsigned TILES, unsigned NT>
LOLA_DEVICE void MergeFour(float (&sums)[TILES][NT][4], float* halves) {
  constexpr unsigned kHalf = NT * kColumns * kHalfStride;
  float* half = halves + Warp() / 2 * kHalf;
  if (Warp() % 2 == 1) StoreSums(sums, 1.0f, half);
  SyncThreads();
  if (Warp() % 2 == 0) AddSums(half, sums);
  if (Warp() == 2) StoreSums(sums, 1.0f, half);
  SyncThreads();
  if (Warp() == 0) AddSums(halves + kHalf, sums);
}
// logits[column][pair] = scale q . k into the first half. The warps split the dimensions.
template <typename T, unsigned D, unsigned NT>
LOLA_DEVICE void SectionLogits(const PairSection& s, const Panel& queries, unsigned live_tiles,
                               float scale, float* halves) {
  constexpr unsigned kSteps = D >= 64 ? D / 64 : 1;
  const unsigned octet = LaneGroup();
  const T* keys = reinterpret_cast<const T*>(s.rows.keys) +
                  size_t(s.row + octet / 2 * kKeyBlock) * D + octet % 2 * 8;
  const unsigned live = octet * 8 < s.pairs ? kStepK : 0;  // whole blocks exist, dead rows are zero
  float sums[4][NT][4] = {};
  LOLA_UNROLL
  for (unsigned i = 0; i < kSteps; ++i) {
    const unsigned step = Warp() * kSteps + i;
    if (step * kStepK >= D) continue;
    Strip<8> strip;
    const unsigned dim = step * kStepK + LaneOfGroup();
    LoadStrip<T, 8>(keys + size_t(dim) * kKeyBlock, kKeyBlock, live, strip);
    MultiplyStrip<T, 8, NT>(strip, queries, 0, step, live_tiles, sums);
  }
  MergeFour(sums, halves);
  if (Warp() == 0) StoreSums(sums, scale, halves);
  SyncThreads();
}

// Turns a column's logits into weights, by a warp; gives the largest logit and the sum of the
// weights. What is left in `logits` is a weight times its row's scale.
LOLA_DEVICE void SectionWeights(const PairSection& s, uint32_t live, float* logits, float& top,
                                float& weight) {
  const unsigned lane = ThreadX() % kWarpThreads;
  float x[2], w[2];
  LOLA_UNROLL
  for (unsigned i = 0; i < 2; ++i) {
    const unsigned pair = lane + kWarpThreads * i;
    x[i] = pair < live ? logits[pair] * s.rows.KeyScale(s.row + pair) : -INFINITY;
  }
  top = WarpMax(fmaxf(x[0], x[1]));
  LOLA_UNROLL
  for (unsigned i = 0; i < 2; ++i) {
    const unsigned pair = lane + kWarpThreads * i;
    w[i] = pair < live ? expf(x[i] - top) : 0.0f;
    logits[pair] = pair < live ? w[i] * s.rows.ValueScale(s.row + pair) : 0.0f;
  }
  weight = WarpSum(w[0] + w[1]);
}

// Two warps add what they have summed and keep half of the columns each: the late one of the two
// the second half. Both sums have the same bits, whichever warp adds.
template <unsigned TILES, unsigned K>
LOLA_DEVICE void AddAndHalve(const float (&own)[TILES][2 * K][4], bool late, unsigned partner,
                             float* halves, float (&kept)[TILES][K][4]) {
  float given[TILES][K][4];
  LOLA_UNROLL
  for (unsigned at = 0; at < TILES * K * 4; ++at) {
    const unsigned tile = at / (K * 4), n = at / 4 % K, i = at % 4;
    kept[tile][n][i] = late ? own[tile][n + K][i] : own[tile][n][i];
    given[tile][n][i] = late ? own[tile][n][i] : own[tile][n + K][i];
  }
  constexpr unsigned kPart = K * kColumns * kHalfStride;
  StoreSums(given, 1.0f, halves + Warp() * kPart);
  SyncThreads();
  AddSums(halves + partner * kPart, kept);
}

// Sums of weighted rows of a section, as the warps hold them once they are merged. The warps that
// share 64 dimensions (four, or two of heads of 128) share the columns too if there are several
// tiles of them; else the first one has all.
template <unsigned D, unsigned NT>
struct HeldSums {
  static constexpr unsigned kWide = D >= 64 ? 8 : D / 8;
  static constexpr unsigned kSlabs = D / (8 * kWide);
  static constexpr unsigned kSharers = NT > 1 ? kAttendWarps / kSlabs : 1;
  static_assert(NT % kSharers == 0 && kSlabs <= 2);
  static constexpr unsigned kTiles = NT / kSharers;  // of columns
  float sums[kWide / 2][kTiles][4];

  LOLA_DEVICE static bool Holds() { return NT > 1 || Warp() < kSlabs; }
  LOLA_DEVICE static unsigned Column(unsigned n, unsigned i) {
    const unsigned first = NT == 1       ? 0
                           : kSlabs == 2 ? Warp() / 2 * kTiles
                                         : (Warp() % 2 * 2 + Warp() / 2) * kTiles;
    return SumColumn(first + n, i);
  }
  // Of sums[tile][n][i], first of two neighbours i and i + 2.
  LOLA_DEVICE static unsigned Dimension(unsigned tile) {
    return Warp() % kSlabs * kHalfElements + SumElement<kWide>(tile, 0);
  }

  // this = section, or this += section.
  LOLA_DEVICE void AddTo(const HeldSums& section, bool first) {
    LOLA_UNROLL
    for (unsigned at = 0; at < kWide / 2 * kTiles * 4; ++at) {
      float& sum = sums[at / (kTiles * 4)][at / 4 % kTiles][at % 4];
      const float more = section.sums[at / (kTiles * 4)][at / 4 % kTiles][at % 4];
      sum = first ? more : sum + more;
    }
  }

  // Takes over what the warps have summed, each over its share of the positions: 0 + 2 and 1 + 3
  // where there are two slabs, else (0 + 1) + (2 + 3).
  LOLA_DEVICE void Merge(float (&own)[kWide / 2][NT][4], float* halves) {
    if constexpr (kSharers == 2) {
      AddAndHalve(own, Warp() >= 2, Warp() ^ 2, halves, sums);
    } else if constexpr (kSharers == 4) {
      float pair[kWide / 2][NT / 2][4];
      AddAndHalve(own, Warp() % 2 == 1, Warp() ^ 1, halves, pair);
      SyncThreads();
      AddAndHalve(pair, Warp() >= 2, Warp() ^ 2, halves, sums);
    } else {
      if constexpr (kSlabs == 2) {
        float* half = halves + Warp() % 2 * kColumns * kHalfStride;
        if (Warp() >= 2) StoreSums(own, 1.0f, half);
        SyncThreads();
        if (Warp() < 2) AddSums(half, own);
      } else {
        MergeFour(own, halves);
      }
      LOLA_UNROLL
      for (unsigned at = 0; at < kWide / 2 * 4; ++at)
        sums[at / 4][0][at % 4] = own[at / 4][0][at % 4];
    }
  }
};

// held = sum over the panel's positions of rows[position][dim] times the column. `live`: positions
// that exist.
template <typename T, unsigned D, unsigned NT, unsigned STEPS>
LOLA_DEVICE void WeightedRows(const T* rows, unsigned live, const Panel& panel, unsigned live_tiles,
                              float* halves, HeldSums<D, NT>& held) {
  constexpr unsigned kWide = HeldSums<D, NT>::kWide, kSlabs = HeldSums<D, NT>::kSlabs;
  constexpr unsigned kGroups = kAttendWarps / kSlabs;
  const unsigned slab = Warp() % kSlabs, group = Warp() / kSlabs;
  float sums[kWide / 2][NT][4] = {};
  LOLA_UNROLL
  for (unsigned i = 0; i < (STEPS + kGroups - 1) / kGroups; ++i) {
    const unsigned step = group + i * kGroups;
    if (step >= STEPS) continue;
    const unsigned begin = step * kStepK;
    Strip<kWide> strip;
    LoadStrip<T, kWide>(
        rows + size_t(begin + LaneOfGroup()) * D + slab * kHalfElements + LaneGroup() * kWide, D,
        live > begin ? live - begin : 0, strip);
    MultiplyStrip<T, kWide, NT>(strip, panel, 0, step, live_tiles, sums);
  }
  held.Merge(sums, halves);
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_SECTION_SUMS_CUH_
