// Merges the partial results of a row into its attention output: sections into spans, if they are
// not spans yet, and spans into one; see kernels/attend/attend.h for the formula.
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

// What the pairs of a row have given: spans in order, each the fold of its sections.
struct PairTotals {
  float weight = 0, sum = 0;
  Fold span;
  float span_sum = 0;

  LOLA_DEVICE void Close(float top) {
    if (span.top != -INFINITY) {
      const float scale = expf(span.top - top);
      weight = fmaf(scale, span.weight, weight);
      sum = fmaf(scale, span_sum, sum);
    }
    span = Fold{};
    span_sum = 0;
  }
  LOLA_DEVICE void Add(const float* part, float value) {
    if (part[0] == -INFINITY) return;
    float scale[2];
    span.Add(part[0], part[1], scale);
    span_sum = Fold::Sum(scale, span_sum, value);
  }
};

// Grid: rows, query heads. One thread per dimension (rounded up to a warp).
template <typename Out>
LOLA_KERNEL CombineKernel(CombineParams p, Out* out) {
  AwaitPrevious();
  const uint32_t d = p.shape.head_dim, head = BlockY(), row = p.first_row + BlockX();
  const SegmentEntry segment = p.segments[p.rows[row].segment];
  const Mix mix = MixOf(p, segment, head);
  const uint32_t cache = p.sections.cache, pairs = cache + p.sections.window;
  const uint32_t all = pairs + p.sections.linear, each = ChunkSections(*segment.plan);
  const uint32_t span = p.spans != 0 ? 1 : kSpanSections;  // parts of a span
  const float* parts =
      p.partials + (size_t(row) * p.shape.query_heads + head) * all * PartialFloats(d);
  float top = mix.shifted ? 0.0f : -INFINITY;
  for (uint32_t i = 0; i < pairs; ++i) top = fmaxf(top, parts[i * PartialFloats(d)]);
  const uint32_t dim = ThreadX(), place = 2 + (dim < d ? dim : 0);
  PairTotals totals;
  for (uint32_t i = 0; i < pairs; ++i) {
    const uint32_t inside = i < cache ? i : (i - cache) % each;
    if (p.spans != 0 || inside % span == 0) totals.Close(top);
    const float* part = parts + i * PartialFloats(d);
    totals.Add(part, part[place]);
  }
  totals.Close(top);
  float mass = 0, recalled = 0, span_mass = 0, span_recalled = 0;
  for (uint32_t i = pairs; i < all && !mix.plain; ++i) {
    const float* part = parts + i * PartialFloats(d);
    span_mass += part[1];
    span_recalled += part[place];
    if ((i - pairs + 1) % span != 0 && i + 1 < all) continue;
    mass += span_mass;
    recalled += span_recalled;
    span_mass = span_recalled = 0;
  }
  const float shift = mix.shifted ? expf(-top) : 1.0f;
  const float linear = mix.linear * shift;
  const float below = mix.softmax * totals.weight + linear * mass + mix.epsilon * shift;
  const float y = (mix.softmax * totals.sum + linear * recalled) / below;
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
