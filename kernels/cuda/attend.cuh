// Attention over what a stream remembers, in sections: up to 64 pairs of the sparse cache or of one
// window chunk, or 32 features of the recurrent state. A section gives a partial result (largest
// logit, weight, weighted values); the sections of a row are merged in one order (combine.cuh).
//
// A block serves one section for up to 8 NT columns. A column is a row of the tile; where the query
// heads of a group read the same pairs (windows, shared caches) it is a row and a head, so that the
// group reads them once. Both products run on the matrix units (fragments.cuh).
//
// Determinism: how sections are cut depends on the settings alone, the four warps split a sum by
// the shape alone, and a column's arithmetic does not depend on the other columns or on its place
// among them. So a row's bits are the same in a prefill of many rows and in a decode step, whatever
// else is in the batch. (One exception, in streams that are refused anyway: a value that is not a
// finite number spoils all rows of its tile, not only those that see it.)
#ifndef LOLA_KERNELS_CUDA_ATTEND_CUH_
#define LOLA_KERNELS_CUDA_ATTEND_CUH_

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

// The panel of operand b (queries, then weights; or features), and two halves of partial sums.
constexpr size_t AttendSharedBytes(unsigned tiles, unsigned head_dim) {
  const unsigned columns = tiles * kColumns;
  return (PanelWords(columns, head_dim > kSectionPairs ? head_dim : kSectionPairs) +
          2 * columns * kHalfStride) *
         4;
}

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
// The same for two: 0 + 2 and 1 + 3, in warps 0 and 1.
template <unsigned TILES, unsigned NT>
LOLA_DEVICE void MergeTwo(float (&sums)[TILES][NT][4], float* halves) {
  float* half = halves + Warp() % 2 * NT * kColumns * kHalfStride;
  if (Warp() >= 2) StoreSums(sums, 1.0f, half);
  SyncThreads();
  if (Warp() < 2) AddSums(half, sums);
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

// out[column][dim] = sum over the panel's positions of rows[position][dim] times the column.
// `live`: positions that exist.
template <typename T, unsigned D, unsigned NT, unsigned STEPS>
LOLA_DEVICE void WeightedRows(const T* rows, unsigned live, const Panel& panel, unsigned live_tiles,
                              float* halves, const AttendParams& p, const Columns& columns,
                              float* partials, size_t stride) {
  constexpr unsigned kWide = D >= 64 ? 8 : D / 8;
  constexpr unsigned kSlabs = D / (8 * kWide), kGroups = kAttendWarps / kSlabs;
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
  if constexpr (kSlabs == 2) {
    MergeTwo(sums, halves);
  } else {
    MergeFour(sums, halves);
  }
  if (Warp() >= kSlabs) return;
  LOLA_UNROLL
  for (unsigned n = 0; n < NT; ++n) {
    LOLA_UNROLL
    for (unsigned c = 0; c < 2; ++c) {
      const unsigned column = SumColumn(n, c);
      if (column >= columns.count) continue;
      float* out = partials + columns.At(column, p.shape.query_heads) * stride + 2;
      LOLA_UNROLL
      for (unsigned tile = 0; tile < kWide / 2; ++tile) {
        StorePair(out + slab * kHalfElements + SumElement<kWide>(tile, 0), sums[tile][n][c],
                  sums[tile][n][2 + c]);
      }
    }
  }
}

template <unsigned D, unsigned NT>
LOLA_DEVICE Panel QueryPanel() {
  return {reinterpret_cast<uint32_t*>(SharedBytes()), PanelStride(D), NT * kColumns};
}

// Fills the panel of queries; returns the halves behind it.
template <unsigned D, unsigned NT>
LOLA_DEVICE float* PutQueries(const AttendParams& p, const PairSection& s, const Columns& columns) {
  constexpr unsigned kAll = NT * kColumns;
  const Panel queries = QueryPanel<D, NT>();
  for (unsigned n = ThreadX(); n < kAll * (D / 2); n += kAttendThreads) {
    const unsigned column = n / (D / 2), word = n % (D / 2), dim = PanelPosition(word);
    const bool used = column < columns.count;
    const float* q = p.queries +
                     (used ? columns.At(column, p.shape.query_heads) : 0) * size_t(p.variants) * D +
                     s.variant * D + dim;
    PutWord(queries, column, word, used ? q[0] : 0.0f, used ? q[4] : 0.0f);
  }
  return reinterpret_cast<float*>(queries.words +
                                  PanelWords(kAll, D > kSectionPairs ? D : kSectionPairs));
}

template <typename T, unsigned D, unsigned NT>
LOLA_DEVICE void AttendPairs(const AttendParams& p, const Tile& tile, const PairSection& s,
                             const Columns& columns, float* partials, size_t stride) {
  constexpr unsigned kAll = NT * kColumns;
  float* halves = PutQueries<D, NT>(p, s, columns);
  const unsigned live_tiles = (columns.count + kColumns - 1) / kColumns;
  SyncThreads();
  SectionLogits<T, D, NT>(s, QueryPanel<D, NT>(), live_tiles, p.scale, halves);
  for (unsigned column = Warp(); column < columns.count; column += kAttendWarps) {
    float top, weight;
    SectionWeights(s, LivePairs(s, tile, columns.Row(column)), halves + column * kHalfStride, top,
                   weight);
    if (ThreadX() % kWarpThreads != 0) continue;
    float* partial = partials + columns.At(column, p.shape.query_heads) * stride;
    partial[0] = top;
    partial[1] = weight;
  }
  SyncThreads();
  const Panel weights{reinterpret_cast<uint32_t*>(SharedBytes()), PanelStride(kSectionPairs), kAll};
  for (unsigned n = ThreadX(); n < kAll * (kSectionPairs / 2); n += kAttendThreads) {
    const unsigned column = n / (kSectionPairs / 2), word = n % (kSectionPairs / 2);
    const float* w = halves + column * kHalfStride + PanelPosition(word);
    const bool used = column < columns.count;
    PutWord(weights, column, word, used ? w[0] : 0.0f, used ? w[4] : 0.0f);
  }
  SyncThreads();
  WeightedRows<T, D, NT, kSectionPairs / kStepK>(
      reinterpret_cast<const T*>(s.rows.values) + size_t(s.row) * D, s.pairs, weights, live_tiles,
      halves, p, columns, partials, stride);
}

// The linear part: sums of phi H and phi . s over 32 features.
template <unsigned D, unsigned NT>
LOLA_DEVICE void AttendState(const AttendParams& p, const SegmentEntry& segment, uint32_t section,
                             const Columns& columns, float* partials, size_t stride) {
  constexpr unsigned kAll = NT * kColumns, kWords = kSectionFeatures / 2;
  const LayerPlace& place = segment.plan->layers[p.layer];
  const uint32_t features = p.shape.feature_dim, first = section * kSectionFeatures;
  uint32_t* shared = reinterpret_cast<uint32_t*>(SharedBytes());
  float* halves =
      reinterpret_cast<float*>(shared + PanelWords(kAll, D > kSectionPairs ? D : kSectionPairs));
  const Panel panel{shared, PanelStride(kSectionFeatures), kAll};
  for (unsigned n = ThreadX(); n < kAll * kWords; n += kAttendThreads) {
    const unsigned column = n / kWords, word = n % kWords;
    const bool used = column < columns.count;
    const float* phi = p.features +
                       (used ? columns.At(column, p.shape.query_heads) : 0) * features + first +
                       PanelPosition(word);
    PutWord(panel, column, word, used ? phi[0] : 0.0f, used ? phi[4] : 0.0f);
  }
  const float* s = reinterpret_cast<const float*>(segment.record + place.s) +
                   columns.head * size_t(2) * features + first;
  const unsigned lane = ThreadX() % kWarpThreads;
  for (unsigned column = Warp(); column < columns.count; column += kAttendWarps) {
    const size_t at = columns.At(column, p.shape.query_heads);
    const float mass = WarpSum(p.features[at * features + first + lane] * s[lane]);
    if (lane == 0) {
      partials[at * stride] = 0;
      partials[at * stride + 1] = mass;
    }
  }
  SyncThreads();
  const float* h = reinterpret_cast<const float*>(segment.record + place.h) +
                   (columns.head * size_t(features) + first) * D;
  WeightedRows<float, D, NT, kSectionFeatures / kStepK>(h, kSectionFeatures, panel,
                                                        (columns.count + kColumns - 1) / kColumns,
                                                        halves, p, columns, partials, stride);
}

// Grid: tiles, units. Where a group shares pairs, the blocks of its heads take the group's columns
// 8 NT at a time. A section without live pairs writes only its mark: largest logit -infinity.
//
// REQUIRES: tiles of at most 8 NT rows.
template <unsigned D, unsigned NT>
LOLA_KERNEL LOLA_BOUNDS(kAttendThreads) AttendKernel(AttendParams p) {
  const Tile tile = p.tiles[BlockX()];
  const SegmentEntry segment = p.segments[tile.segment];
  const Plan& plan = *segment.plan;
  const Unit unit = UnitAt(p, BlockY(), NT);
  const uint32_t head = unit.head, section = unit.section;
  const uint32_t pairs = p.sections.cache + p.sections.window;
  const bool window = section >= p.sections.cache && section < pairs;
  const uint32_t group = window            ? p.shape.query_heads / p.shape.kv_heads
                         : section < pairs ? plan.cache_heads
                                           : 1;
  const size_t stride = size_t(pairs + p.sections.linear) * PartialFloats(D);
  float* partials = p.partials + section * PartialFloats(D);
  Columns columns{tile.first_row, head / group * group, group, head % group * NT * kColumns, 0};
  if (columns.first >= tile.rows * group) return;
  columns.count = tile.rows * group - columns.first;
  if (columns.count > NT * kColumns) columns.count = NT * kColumns;
  PairSection s{};
  if (section >= pairs) {
    const LayerPlace& place = plan.layers[p.layer];
    const bool used =
        !plan.softmax &&
        reinterpret_cast<const Counters*>(segment.record + place.counters)[head].absorbed > 0;
    if (used) return AttendState<D, NT>(p, segment, section - pairs, columns, partials, stride);
  } else if (window) {
    s = WindowSection(p, segment, section - p.sections.cache, head, tile);
  } else if (!plan.softmax) {
    s = CacheSection(p, segment, section, head);
  }
  if (LivePairs(s, tile, columns.Row(columns.count - 1)) == 0) {
    if (ThreadX() < columns.count) {
      partials[columns.At(ThreadX(), p.shape.query_heads) * stride] = -INFINITY;
    }
    return;
  }
  switch (plan.cache_type) {
    case CacheType::kFloat32:
      return AttendPairs<float, D, NT>(p, tile, s, columns, partials, stride);
    case CacheType::kBFloat16:
      return AttendPairs<Bf16, D, NT>(p, tile, s, columns, partials, stride);
    case CacheType::kFloat8:
      return AttendPairs<Fp8, D, NT>(p, tile, s, columns, partials, stride);
  }
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_ATTEND_CUH_
