// How the attention of a tile is cut into blocks: sections of pairs and of features, the columns
// that share a section, and which block does what. Sections depend on the settings alone.
#ifndef LOLA_KERNELS_CUDA_SECTIONS_CUH_
#define LOLA_KERNELS_CUDA_SECTIONS_CUH_

#include "kernels/cuda/cache_rows.cuh"
#include "kernels/cuda/calls.h"
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/portable.h"
#include "kernels/cuda/tables.h"

namespace lola::cuda {

// Which rows and heads the columns of a block are.
struct Columns {
  uint32_t tile_row;  // of the step
  uint32_t head;      // first of the group
  uint32_t group;     // heads that are columns
  uint32_t first;     // column of the tile that is this block's first
  uint32_t count;     // at most 8 NT

  LOLA_DEVICE uint32_t Row(uint32_t column) const { return (first + column) / group; }
  LOLA_DEVICE uint32_t Head(uint32_t column) const { return head + (first + column) % group; }
  // Index into [rows, Hq].
  LOLA_DEVICE size_t At(uint32_t column, uint32_t query_heads) const {
    return size_t(tile_row + Row(column)) * query_heads + Head(column);
  }
};

// Raw pairs a section covers.
struct PairSection {
  PairRows rows;
  uint32_t row;      // first ring row or slot, a multiple of 16
  uint32_t pairs;    // that may be live, for any row
  uint32_t variant;  // of the query
  bool causal;
  uint64_t position;  // of the first pair, when causal
};

// Neighbouring sections that are folded before they are merged with others (attend.cuh).
struct Span {
  uint32_t first, count;
};
constexpr uint32_t ChunkSections(const Plan& plan) {
  return ((plan.softmax != 0 ? plan.window : plan.chunk) + kSectionPairs - 1) / kSectionPairs;
}
// The n-th span of up to `most` window sections; a span lies in one chunk.
LOLA_DEVICE Span WindowSpan(const Plan& plan, uint32_t n, uint32_t most) {
  const uint32_t each = ChunkSections(plan), spans = (each + most - 1) / most;
  const uint32_t inside = n % spans * most;
  return {n / spans * each + inside, each - inside < most ? each - inside : most};
}
LOLA_DEVICE Span LinearSpan(const Shape& shape, uint32_t n, uint32_t most) {
  const uint32_t left = shape.feature_dim / kSectionFeatures - n * most;
  return {n * most, left < most ? left : most};
}

LOLA_DEVICE PairSection CacheSection(const AttendParams& p, const SegmentEntry& segment,
                                     uint32_t section, uint32_t head) {
  const Plan& plan = *segment.plan;
  const LayerPlace& place = plan.layers[p.layer];
  const uint32_t cached =
      reinterpret_cast<const Counters*>(segment.record + place.counters)[head].cached;
  PairSection s{};
  s.rows = CacheRows(segment.record, plan, place, head, p.shape.head_dim);
  s.row = section * kSectionPairs;
  s.pairs = cached > s.row ? cached - s.row : 0;
  s.variant = plan.constant_positions ? plan.window / plan.chunk + 1 : 0;
  return s;
}

LOLA_DEVICE PairSection WindowSection(const AttendParams& p, const SegmentEntry& segment,
                                      uint32_t section, uint32_t head, const Tile& tile) {
  const Plan& plan = *segment.plan;
  const uint32_t chunk = plan.softmax ? plan.window : plan.chunk;
  const uint32_t per_chunk = ChunkSections(plan);
  const uint64_t current = tile.position / chunk;
  const uint64_t back = plan.softmax ? 0 : plan.window / plan.chunk;
  const uint64_t oldest = current > back ? current - back : 0;
  const uint64_t at = oldest + section / per_chunk;
  const uint32_t inside = section % per_chunk * kSectionPairs;
  PairSection s{};
  if (at > current) return s;
  s.rows = WindowRows(segment.record, plan, plan.layers[p.layer],
                      head / (p.shape.query_heads / p.shape.kv_heads), p.shape.head_dim);
  s.row = RingRow(plan, at * chunk) + inside;
  s.pairs = chunk - inside;
  s.variant = plan.constant_positions ? uint32_t(current - at) : 0;
  s.causal = at == current;
  s.position = at * chunk + inside;
  return s;
}

// How many of a section's pairs row `row` of the tile sees.
LOLA_DEVICE uint32_t LivePairs(const PairSection& s, const Tile& tile, uint32_t row) {
  const uint32_t most = s.pairs < kSectionPairs ? s.pairs : kSectionPairs;
  if (!s.causal) return most;
  const uint64_t position = tile.position + row;
  if (position < s.position) return 0;
  const uint64_t seen = position - s.position + 1;
  return seen < most ? uint32_t(seen) : most;
}

// A block of a tile: a section and a head. What a group reads together has as many blocks as its
// columns need, and the rest one for every head.
struct Unit {
  uint32_t section, head;
};
// Blocks that the columns of one group need at most.
constexpr uint32_t ChunksOf(uint32_t group, uint32_t tiles) {
  return tiles == 1 ? (group + kColumns - 1) / kColumns : group;
}
constexpr uint32_t UnitsOf(const AttendParams& p, uint32_t tiles) {
  const uint32_t heads = p.shape.query_heads, group = heads / p.shape.kv_heads;
  const uint32_t together = p.shape.kv_heads * ChunksOf(group, tiles);
  return p.sections.cache * (p.grouped != 0 ? together : heads) + p.sections.window * together +
         p.sections.linear * heads;
}
LOLA_DEVICE Unit UnitAt(const AttendParams& p, uint32_t unit, uint32_t tiles) {
  const uint32_t heads = p.shape.query_heads, group = heads / p.shape.kv_heads;
  const uint32_t chunks = ChunksOf(group, tiles), together = p.shape.kv_heads * chunks;
  const uint32_t of_cache = p.grouped != 0 ? together : heads;
  uint32_t first = 0;
  if (unit >= p.sections.cache * of_cache) {
    unit -= p.sections.cache * of_cache;
    first = p.sections.cache;
    if (unit >= p.sections.window * together) {
      unit -= p.sections.window * together;
      return {first + p.sections.window + unit / heads, unit % heads};
    }
  } else if (p.grouped == 0) {
    return {unit / heads, unit % heads};
  }
  const uint32_t n = unit % together;
  return {first + unit / together, n / chunks * group + n % chunks};
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_SECTIONS_CUH_
