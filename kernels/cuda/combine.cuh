// Merges the sections of a row into its attention output; see kernels/attend/attend.h for the
// formula.
#ifndef LOLA_KERNELS_CUDA_COMBINE_CUH_
#define LOLA_KERNELS_CUDA_COMBINE_CUH_

#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/calls.h"
#include "kernels/cuda/portable.h"
#include "kernels/cuda/tables.h"

namespace lola::cuda {

// Weights of the two parts for one head of one stream.
struct Mix {
  float softmax, linear, epsilon;
  bool plain, shifted;
};

LOLA_DEVICE Mix MixOf(const CombineParams& p, const SegmentEntry& segment, uint32_t head) {
  const Plan& plan = *segment.plan;
  Mix mix{1.0f, 0.0f, 0.0f, true, false};
  if (plan.softmax) return mix;
  const LayerPlace& place = plan.layers[p.layer];
  const double absorbed =
      double(reinterpret_cast<const Counters*>(segment.record + place.counters)[head].absorbed);
  if (absorbed == 0) return mix;
  const double cap = plan.mass_cap;
  const float share = float(cap > 0 && absorbed > cap ? cap / absorbed : 1.0);
  const float gate = p.gate[head];
  mix.plain = false;
  mix.shifted = plan.mixing != MixForm::kLolcats;
  mix.epsilon = mix.shifted ? 1e-6f : 0.0f;
  mix.softmax = plan.mixing == MixForm::kNatural ? 1.0f : gate;
  mix.linear = plan.mixing == MixForm::kGatedNatural ? share * (1.0f - gate) : share;
  return mix;
}

// Grid: rows of the wave, query heads. One thread per dimension (rounded up to a warp).
template <typename Out>
LOLA_KERNEL CombineKernel(CombineParams p, const uint32_t* row_index, Out* out) {
  const uint32_t d = p.shape.head_dim, head = BlockY(), row = row_index[BlockX()];
  const SegmentEntry segment = p.segments[p.rows[row].segment];
  const Mix mix = MixOf(p, segment, head);
  const uint32_t pairs = p.sections.cache + p.sections.window;
  const uint32_t all = pairs + p.sections.linear;
  const float* parts =
      p.partials + (size_t(row) * p.shape.query_heads + head) * all * PartialFloats(d);
  float top = mix.shifted ? 0.0f : -INFINITY;
  for (uint32_t i = 0; i < pairs; ++i) top = fmaxf(top, parts[i * PartialFloats(d)]);
  const uint32_t dim = ThreadX();
  float pair_weight = 0, pair_sum = 0, mass = 0, recalled = 0;
  for (uint32_t i = 0; i < pairs; ++i) {
    const float* part = parts + i * PartialFloats(d);
    if (part[0] == -INFINITY) continue;
    const float scale = expf(part[0] - top);
    pair_weight = fmaf(scale, part[1], pair_weight);
    if (dim < d) pair_sum = fmaf(scale, part[2 + dim], pair_sum);
  }
  for (uint32_t i = pairs; i < all && !mix.plain; ++i) {
    const float* part = parts + i * PartialFloats(d);
    mass += part[1];
    if (dim < d) recalled += part[2 + dim];
  }
  const float shift = mix.shifted ? expf(-top) : 1.0f;
  const float linear = mix.linear * shift;
  const float below = mix.softmax * pair_weight + linear * mass + mix.epsilon * shift;
  const float y = (mix.softmax * pair_sum + linear * recalled) / below;
  if (dim == 0) {
    float* share = p.shares + (size_t(row) * p.shape.query_heads + head) * 2;
    share[0] = top;
    share[1] = mix.softmax / below;
  }
  const bool broken = dim < d && !(fabsf(y) <= 3.4e38f);
  if (dim < d) {
    Put(out[(size_t(row) * p.shape.query_heads + head) * d + dim], y);
  }
  if (Ballot(broken) != 0 && ThreadX() % kWarpThreads == 0) {
    AtomicAdd(&p.counters->nonfinite_rows, 1);
    p.broken[p.rows[row].segment] = 1;
  }
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_COMBINE_CUH_
