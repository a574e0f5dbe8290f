// Attention over what a stream remembers, in sections: up to 64 pairs of the sparse cache or of one
// window chunk, or 32 features of the recurrent state. A section gives a partial result (largest
// logit, weight, weighted values).
//
// Up to kSpanSections neighbouring sections (of the cache, of one chunk, of the state) are a span.
// The sections of a span are folded one after the other, by one rule (Fold), and then the spans of
// a row merged in one order (combine.cuh). Tiles of many rows are given a block a span, which folds
// as it goes; tiles of one row a block a section, so that one stream fills the chip, and
// combine.cuh folds. The arithmetic is the same.
//
// A block serves up to 8 NT columns. A column is a row of the tile; where the query heads of a
// group read the same pairs (windows, shared caches) it is a row and a head, so that the group
// reads them once. Both products run on the matrix units (section_sums.cuh).
//
// Determinism: how sections are cut depends on the settings alone, the four warps split a sum by
// the shape alone, and a column's arithmetic does not depend on the other columns or on its place
// among them. So a row's bits are the same in a prefill of many rows and in a decode step, whatever
// else is in the batch. (One exception, in streams that are refused anyway: a value that is not a
// finite number spoils all rows of its tile, not only those that see it.)
#ifndef LOLA_KERNELS_CUDA_ATTEND_CUH_
#define LOLA_KERNELS_CUDA_ATTEND_CUH_

#include "kernels/cuda/section_sums.cuh"

namespace lola::cuda {

// What the sections of a span have given so far. A section adds scale[1] times its sums to scale[0]
// times the old ones.
struct Fold {
  float top = -INFINITY, weight = 0;

  // REQUIRES: section_top is finite.
  LOLA_DEVICE void Add(float section_top, float section_weight, float (&scale)[2]) {
    const float before = top;
    top = fmaxf(before, section_top);
    scale[0] = expf(before - top);  // the first time exp(-infinity), 0
    scale[1] = expf(section_top - top);
    weight = fmaf(scale[1], section_weight, Product(scale[0], weight));
  }
  LOLA_DEVICE static float Sum(const float (&scale)[2], float before, float section) {
    return fmaf(scale[1], section, Product(scale[0], before));
  }
};

// Fills the panel of queries.
template <unsigned D, unsigned NT>
LOLA_DEVICE void PutQueries(const AttendParams& p, const PairSection& s, const Columns& columns) {
  const Panel queries = AttendMemory<D, NT>::Queries();
  for (unsigned n = ThreadX(); n < NT * kColumns * (D / 2); n += kAttendThreads) {
    const unsigned column = n / (D / 2), word = n % (D / 2), dim = PanelPosition(word);
    const bool used = column < columns.count;
    const float* q = p.queries +
                     (used ? columns.At(column, p.shape.query_heads) : 0) * size_t(p.variants) * D +
                     s.variant * D + dim;
    PutWord(queries, column, word, used ? q[0] : 0.0f, used ? q[4] : 0.0f);
  }
}

// Writes a span's sums, largest logits and weights. `numbers`: the columns' [a, b, top, weight].
template <unsigned D, unsigned NT>
LOLA_DEVICE void WritePartials(const AttendParams& p, const Columns& columns,
                               const HeldSums<D, NT>& held, const float* numbers, float* partials,
                               size_t stride) {
  constexpr unsigned kAll = NT * kColumns;
  if (ThreadX() < columns.count) {
    float* partial = partials + columns.At(ThreadX(), p.shape.query_heads) * stride;
    partial[0] = numbers[2 * kAll + ThreadX()];
    partial[1] = numbers[3 * kAll + ThreadX()];
  }
  if (!held.Holds()) return;
  LOLA_UNROLL
  for (unsigned n = 0; n < HeldSums<D, NT>::kTiles; ++n) {
    LOLA_UNROLL
    for (unsigned c = 0; c < 2; ++c) {
      const unsigned column = held.Column(n, c);
      if (column >= columns.count) continue;
      float* out = partials + columns.At(column, p.shape.query_heads) * stride + 2;
      LOLA_UNROLL
      for (unsigned tile = 0; tile < HeldSums<D, NT>::kWide / 2; ++tile) {
        StorePair(out + held.Dimension(tile), held.sums[tile][n][c], held.sums[tile][n][2 + c]);
      }
    }
  }
}

// Logits, then weights of one section into the panel of weights; folds largest logits and weights.
// numbers[0], [1] of a column: what its sums are multiplied with; -1 when it sees no pair.
template <typename T, unsigned D, unsigned NT>
LOLA_DEVICE void PutWeights(const AttendParams& p, const Tile& tile, const PairSection& s,
                            const Columns& columns, unsigned live_tiles, float* numbers) {
  using Memory = AttendMemory<D, NT>;
  float* halves = Memory::Halves();
  SectionLogits<T, D, NT>(s, Memory::Queries(), live_tiles, p.scale, halves);
  for (unsigned column = Warp(); column < columns.count; column += kAttendWarps) {
    const uint32_t live = LivePairs(s, tile, columns.Row(column));
    float top, weight, scale[2] = {-1.0f, 0.0f};
    SectionWeights(s, live, halves + column * kHalfStride, top, weight);
    if (ThreadX() % kWarpThreads != 0) continue;
    float* own = numbers + column;
    if (live > 0) {
      Fold fold{own[2 * Memory::kAll], own[3 * Memory::kAll]};
      fold.Add(top, weight, scale);
      own[2 * Memory::kAll] = fold.top;
      own[3 * Memory::kAll] = fold.weight;
    }
    own[0] = scale[0];
    own[Memory::kAll] = scale[1];
  }
  SyncThreads();
  const Panel weights = Memory::Weights();
  for (unsigned n = ThreadX(); n < Memory::kAll * (kSectionPairs / 2); n += kAttendThreads) {
    const unsigned column = n / (kSectionPairs / 2), word = n % (kSectionPairs / 2);
    const float* w = halves + column * kHalfStride + PanelPosition(word);
    const bool used = column < columns.count;
    PutWord(weights, column, word, used ? w[0] : 0.0f, used ? w[4] : 0.0f);
  }
  SyncThreads();
}

// held = Fold::Sum of what was before and one section's sums.
template <unsigned D, unsigned NT>
LOLA_DEVICE void FoldSums(const HeldSums<D, NT>& section, const float* numbers,
                          HeldSums<D, NT>& held) {
  LOLA_UNROLL
  for (unsigned n = 0; n < HeldSums<D, NT>::kTiles; ++n) {
    LOLA_UNROLL
    for (unsigned c = 0; c < 2; ++c) {
      const unsigned column = held.Column(n, c);
      const float scale[2] = {numbers[column], numbers[NT * kColumns + column]};
      if (scale[0] < 0) continue;
      LOLA_UNROLL
      for (unsigned tile = 0; tile < HeldSums<D, NT>::kWide / 2; ++tile) {
        LOLA_UNROLL
        for (unsigned i = c; i < 4; i += 2) {
          float& sum = held.sums[tile][n][i];
          sum = Fold::Sum(scale, sum, section.sums[tile][n][i]);
        }
      }
    }
  }
}

// Columns without a row fold nothing.
template <unsigned NT>
LOLA_DEVICE void StartNumbers(float* numbers, float top) {
  constexpr unsigned kAll = NT * kColumns;
  for (unsigned n = ThreadX(); n < kAll; n += kAttendThreads) {
    numbers[n] = -1.0f;
    numbers[2 * kAll + n] = top;
    numbers[3 * kAll + n] = 0.0f;
  }
}

// Sections of pairs of one span; `at(i)` is the i-th of them.
template <typename T, unsigned D, unsigned NT, typename At>
LOLA_DEVICE void AttendPairs(const AttendParams& p, const Tile& tile, const At& at, uint32_t count,
                             const Columns& columns, float* partials, size_t stride) {
  using Memory = AttendMemory<D, NT>;
  const unsigned live_tiles = (columns.count + kColumns - 1) / kColumns;
  float* numbers = Memory::Numbers();
  StartNumbers<NT>(numbers, -INFINITY);
  HeldSums<D, NT> held;
  if constexpr (NT == 1) {  // one section: what it gives is the span
    const PairSection s = at(0);
    PutQueries<D, NT>(p, s, columns);
    SyncThreads();
    PutWeights<T, D, NT>(p, tile, s, columns, live_tiles, numbers);
    WeightedRows<T, D, NT, kSectionPairs / kStepK>(
        reinterpret_cast<const T*>(s.rows.values) + size_t(s.row) * D, s.pairs, Memory::Weights(),
        live_tiles, Memory::Halves(), held);
    return WritePartials(p, columns, held, numbers, partials, stride);
  }
  held = {};
  PutQueries<D, NT>(p, at(0), columns);
  for (uint32_t i = 0; i < count; ++i) {
    const PairSection s = at(i);
    if (LivePairs(s, tile, columns.Row(columns.count - 1)) == 0) break;  // later ones have none too
    SyncThreads();  // the panel is full, the halves are free
    PutWeights<T, D, NT>(p, tile, s, columns, live_tiles, numbers);
    HeldSums<D, NT> section;
    WeightedRows<T, D, NT, kSectionPairs / kStepK>(
        reinterpret_cast<const T*>(s.rows.values) + size_t(s.row) * D, s.pairs, Memory::Weights(),
        live_tiles, Memory::Halves(), section);
    if (held.Holds()) FoldSums(section, numbers, held);
  }
  WritePartials(p, columns, held, numbers, partials, stride);
}

// Features of 32 into the panel; adds phi . s to the columns' masses.
template <unsigned D, unsigned NT>
LOLA_DEVICE void PutFeatureColumns(const AttendParams& p, const Columns& columns, uint32_t first,
                                   const float* s, float* masses) {
  constexpr unsigned kWords = kSectionFeatures / 2;
  const uint32_t features = p.shape.feature_dim;
  const Panel panel = AttendMemory<D, NT>::Features();
  for (unsigned n = ThreadX(); n < NT * kColumns * kWords; n += kAttendThreads) {
    const unsigned column = n / kWords, word = n % kWords;
    const bool used = column < columns.count;
    const float* phi = p.features +
                       (used ? columns.At(column, p.shape.query_heads) : 0) * features + first +
                       PanelPosition(word);
    PutWord(panel, column, word, used ? phi[0] : 0.0f, used ? phi[4] : 0.0f);
  }
  const unsigned lane = ThreadX() % kWarpThreads;
  for (unsigned column = Warp(); column < columns.count; column += kAttendWarps) {
    const size_t at = columns.At(column, p.shape.query_heads);
    const float mass = WarpSum(p.features[at * features + first + lane] * s[first + lane]);
    if (lane == 0) masses[column] += mass;
  }
}

// The linear part: sums of phi H and phi . s over the span's features.
template <unsigned D, unsigned NT>
LOLA_DEVICE void AttendState(const AttendParams& p, const SegmentEntry& segment, uint32_t first,
                             uint32_t count, const Columns& columns, float* partials,
                             size_t stride) {
  using Memory = AttendMemory<D, NT>;
  const LayerPlace& place = segment.plan->layers[p.layer];
  const uint32_t features = p.shape.feature_dim;
  const float* s = reinterpret_cast<const float*>(segment.record + place.s) +
                   columns.head * size_t(2) * features;
  const float* h = reinterpret_cast<const float*>(segment.record + place.h) +
                   columns.head * size_t(features) * D;
  float* numbers = Memory::Numbers();
  StartNumbers<NT>(numbers, 0.0f);
  HeldSums<D, NT> held;
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t feature = (first + i) * kSectionFeatures;
    SyncThreads();  // numbers are there, panel and halves are free
    PutFeatureColumns<D, NT>(p, columns, feature, s, numbers + 3 * Memory::kAll);
    SyncThreads();
    HeldSums<D, NT> section;
    WeightedRows<float, D, NT, kSectionFeatures / kStepK>(
        h + size_t(feature) * D, kSectionFeatures, Memory::Features(),
        (columns.count + kColumns - 1) / kColumns, Memory::Halves(), section);
    held.AddTo(section, i == 0);
    if constexpr (NT == 1) break;  // one section
  }
  WritePartials(p, columns, held, numbers, partials, stride);
}

// Grid: tiles times units, tiles first. Where a group shares pairs, the blocks of its heads take
// the group's columns 8 NT at a time. A span without live pairs writes only its mark: largest logit
// -infinity. NT of 1 means spans of one section (AttendParams::sections counts spans).
//
// REQUIRES: tiles of at most 8 NT rows.
template <unsigned D, unsigned NT>
LOLA_KERNEL LOLA_BOUNDS_BLOCKS(kAttendThreads, NT == 1 ? 5 : 3) AttendKernel(AttendParams p) {
  AwaitPrevious();
  constexpr uint32_t kSpan = NT == 1 ? 1 : kSpanSections;
  const Tile tile = p.tiles[BlockX() % p.tile_count];
  const SegmentEntry segment = p.segments[tile.segment];
  const Plan& plan = *segment.plan;
  const Unit unit = UnitAt(p, BlockX() / p.tile_count, NT);
  const uint32_t head = unit.head, at = unit.section;
  const uint32_t pairs = p.sections.cache + p.sections.window;
  const bool window = at >= p.sections.cache && at < pairs;
  const uint32_t group = window       ? p.shape.query_heads / p.shape.kv_heads
                         : at < pairs ? plan.cache_heads
                                      : 1;
  const size_t stride = size_t(pairs + p.sections.linear) * PartialFloats(D);
  float* partials = p.partials + at * PartialFloats(D);
  Columns columns{tile.first_row, head / group * group, group, head % group * NT * kColumns, 0};
  if (columns.first >= tile.rows * group) return;
  columns.count = tile.rows * group - columns.first;
  if (columns.count > NT * kColumns) columns.count = NT * kColumns;
  Span span{};
  if (at >= pairs) {
    const LayerPlace& place = plan.layers[p.layer];
    const bool used =
        !plan.softmax &&
        reinterpret_cast<const Counters*>(segment.record + place.counters)[head].absorbed > 0;
    span = LinearSpan(p.shape, at - pairs, kSpan);
    if (used) {
      return AttendState<D, NT>(p, segment, span.first, span.count, columns, partials, stride);
    }
    span.count = 0;
  } else if (window) {
    span = WindowSpan(plan, at - p.sections.cache, kSpan);
  } else if (!plan.softmax) {
    span = {at * kSpan, kSpan};
  }
  const auto section = [&](uint32_t i) {
    return window ? WindowSection(p, segment, span.first + i, head, tile)
                  : CacheSection(p, segment, span.first + i, head);
  };
  if (span.count == 0 || LivePairs(section(0), tile, columns.Row(columns.count - 1)) == 0) {
    if (ThreadX() < columns.count) {
      partials[columns.At(ThreadX(), p.shape.query_heads) * stride] = -INFINITY;
    }
    return;
  }
  switch (plan.cache_type) {
    case CacheType::kFloat32:
      return AttendPairs<float, D, NT>(p, tile, section, span.count, columns, partials, stride);
    case CacheType::kBFloat16:
      return AttendPairs<Bf16, D, NT>(p, tile, section, span.count, columns, partials, stride);
    case CacheType::kFloat8:
      return AttendPairs<Fp8, D, NT>(p, tile, section, span.count, columns, partials, stride);
  }
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_ATTEND_CUH_
