// Attention weight that pairs receive, for the score `attention`: every query of a head adds each
// pair's share of its output's denominator to the pair's sum, rows in order.
//
// The logits are worked out once more, by the code and so with the bits of attend.cuh, after
// combine.cuh has the denominators. One block goes through all tiles of a stream's wave, so that a
// sum has one order however the rows were cut.
#ifndef LOLA_KERNELS_CUDA_MASS_CUH_
#define LOLA_KERNELS_CUDA_MASS_CUH_

#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/event.cuh"

namespace lola::cuda {

template <typename T, unsigned D, unsigned NT>
LOLA_DEVICE void AddMasses(const AttendParams& p, const Tile& tile, const PairSection& s,
                           const Columns& columns, float* mass) {
  float* halves = AttendMemory<D, NT>::Halves();
  PutQueries<D, NT>(p, s, columns);
  SyncThreads();
  SectionLogits<T, D, NT>(s, AttendMemory<D, NT>::Queries(),
                          (columns.count + kColumns - 1) / kColumns, p.scale, halves);
  const uint32_t pair = ThreadX();
  const bool adds = pair < kSectionPairs && pair < s.pairs;  // the head's sums end there
  float sum = adds ? mass[pair] : 0.0f;
  for (uint32_t column = 0; column < columns.count && adds; ++column) {
    if (pair >= LivePairs(s, tile, columns.Row(column))) continue;
    const float* share = p.shares + columns.At(column, p.shape.query_heads) * 2;
    const float logit = halves[column * kHalfStride + pair] * s.rows.KeyScale(s.row + pair);
    sum = fmaf(expf(logit - share[0]), share[1], sum);
  }
  SyncThreads();
  if (adds) mass[pair] = sum;
}

// Grid: tiles (the first of a stream works), query heads, sections of pairs (cache, window);
// AttendParams::sections counts sections here, not spans.
template <unsigned D, unsigned NT>
LOLA_KERNEL LOLA_BOUNDS(kAttendThreads) MassKernel(AttendParams p) {
  AwaitPrevious();
  const uint32_t head = BlockY(), section = BlockZ(), segment_index = p.tiles[BlockX()].segment;
  const SegmentEntry segment = p.segments[segment_index];
  const Plan& plan = *segment.plan;
  if (plan.softmax || plan.score != ScoreForm::kAttention) return;
  if (BlockX() > 0 && p.tiles[BlockX() - 1].segment == segment_index) return;
  const LayerPlace& place = plan.layers[p.layer];
  for (uint32_t at = BlockX(); at < p.tile_count; ++at) {
    const Tile tile = p.tiles[at];
    if (tile.segment != segment_index) break;
    const bool window = section >= p.sections.cache;
    const PairSection s = window ? WindowSection(p, segment, section - p.sections.cache, head, tile)
                                 : CacheSection(p, segment, section, head);
    if (LivePairs(s, tile, tile.rows - 1) == 0) continue;
    const Columns columns{tile.first_row, head, 1, 0, tile.rows};
    float* mass =
        reinterpret_cast<float*>(segment.record + (window ? place.window_mass : place.cache_mass)) +
        head * size_t(window ? plan.ring_rows : place.cache_slots) + s.row;
    switch (plan.cache_type) {
      case CacheType::kFloat32:
        AddMasses<float, D, NT>(p, tile, s, columns, mass);
        break;
      case CacheType::kBFloat16:
        AddMasses<Bf16, D, NT>(p, tile, s, columns, mass);
        break;
      case CacheType::kFloat8:
        AddMasses<Fp8, D, NT>(p, tile, s, columns, mass);
        break;
    }
    SyncThreads();
  }
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_MASS_CUH_
