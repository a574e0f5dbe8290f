// Rotated queries and their features. The product with the map runs on the matrix units: up to 8 NT
// rows of the step share one read of a head's map. A row's numbers do not depend on the others.
#ifndef LOLA_KERNELS_CUDA_QUERIES_CUH_
#define LOLA_KERNELS_CUDA_QUERIES_CUH_

#include "kernels/cuda/calls.h"
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/portable.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/tables.h"

namespace lola::cuda {

inline constexpr unsigned kQueryWarps = kRowThreads / kWarpThreads;
inline constexpr unsigned kManyQueryTiles = 4;  // tiles of columns where rows are many

// Shared memory: the queries that memory sees as operand b, then what the map makes of them.
template <unsigned NT>
struct QueryMemory {
  static constexpr unsigned kRows = NT * kColumns;

  LOLA_DEVICE static Panel Queries(uint32_t d) {
    return {reinterpret_cast<uint32_t*>(SharedBytes()), PanelStride(d), kRows};
  }
  LOLA_DEVICE static float* Mapped(uint32_t d, uint32_t f, unsigned column) {
    return reinterpret_cast<float*>(SharedBytes()) + PanelWords(kRows, d) + column * (f + 1);
  }
  static constexpr size_t Bytes(uint32_t d, uint32_t f) {
    return (PanelWords(kRows, d) + size_t(kRows) * (f + 1)) * 4;
  }
};

// Rotates a row's query for every chunk distance it needs and as memory sees it, by a warp.
// Absolute positions: one variant. Constant: variant m for the chunk m back, the last for memory.
LOLA_DEVICE void RotateQuery(const QueryParams& p, uint32_t index, uint32_t head,
                             const Panel& panel, unsigned column) {
  const uint32_t d = p.shape.head_dim;
  const Row row = p.rows[index];
  const Plan& plan = *p.segments[row.segment].plan;
  const size_t stride = size_t(p.shape.query_heads + 2 * p.shape.kv_heads) * d;
  const float* q = p.qkv + index * stride + head * d;
  float* out = p.queries + (size_t(index) * p.shape.query_heads + head) * p.variants * d;
  const uint32_t distances = plan.constant_positions ? plan.window / plan.chunk + 1 : 0;
  const uint32_t place = plan.constant_positions ? uint32_t(row.position % plan.chunk) : 0;
  const size_t absolute = size_t(index) * (d / 2);
  const float* cos = plan.constant_positions ? plan.memory_cos : p.absolute_cos + absolute;
  const float* sin = plan.constant_positions ? plan.memory_sin : p.absolute_sin + absolute;
  for (uint32_t i = ThreadX() % kWarpThreads; i < d; i += kWarpThreads) {
    for (uint32_t m = 0; m < distances; ++m) {
      const size_t angle = size_t(place + m * plan.chunk) * (d / 2);
      out[m * d + i] = Rotated(q, plan.distance_cos + angle, plan.distance_sin + angle, i, d);
    }
    const float seen = out[distances * d + i] = Rotated(q, cos, sin, i, d);
    PutElement(panel, column, i, seen);
  }
}

// z[column][j] = sum over i of query[i] map[i][j], for j of the warp's strips of sixteen.
template <unsigned NT>
LOLA_DEVICE void MapQueries(const float* map, uint32_t d, uint32_t f) {
  constexpr unsigned kWide = 2, kStrip = 8 * kWide;
  const Panel panel = QueryMemory<NT>::Queries(d);
  for (unsigned first = Warp() * kStrip; first < f; first += kQueryWarps * kStrip) {
    float sums[1][NT][4] = {};
    const unsigned own = first + LaneGroup() * kWide;
    const float* at = map + size_t(LaneOfGroup()) * f + own;
    for (unsigned step = 0; step < d / kStepK; ++step, at += size_t(kStepK) * f) {
      Strip<kWide> strip;
      LoadStrip<float, kWide>(at, f, own < f ? kStepK : 0, strip);
      MultiplyStrip<float, kWide, NT>(strip, panel, 0, step, NT, sums);
    }
    LOLA_UNROLL
    for (unsigned n = 0; n < NT; ++n) {
      LOLA_UNROLL
      for (unsigned i = 0; i < 4; ++i) {
        const unsigned j = first + SumElement<kWide>(0, i);
        if (j < f) QueryMemory<NT>::Mapped(d, f, SumColumn(n, i))[j] = sums[0][n][i];
      }
    }
  }
}

// phi = max(concat(softmax(z), softmax(-z)), floor) for one row of z in shared memory, by a warp.
LOLA_DEVICE void FeaturesOfWarp(const float* z, uint32_t map_dim, float* phi) {
  const unsigned lane = ThreadX() % kWarpThreads;
  float top = -INFINITY, bottom = INFINITY;
  for (uint32_t j = lane; j < map_dim; j += kWarpThreads) {
    top = fmaxf(top, z[j]);
    bottom = fminf(bottom, z[j]);
  }
  top = WarpMax(top);
  bottom = -WarpMax(-bottom);
  float plus = 0, minus = 0;
  for (uint32_t j = lane; j < map_dim; j += kWarpThreads) {
    plus += expf(z[j] - top);
    minus += expf(bottom - z[j]);
  }
  plus = WarpSum(plus);
  minus = WarpSum(minus);
  for (uint32_t j = lane; j < map_dim; j += kWarpThreads) {
    phi[j] = fmaxf(expf(z[j] - top) / plus, 1e-12f);
    phi[map_dim + j] = fmaxf(expf(bottom - z[j]) / minus, 1e-12f);
  }
}

// Grid: tiles of 8 NT rows, query heads.
template <unsigned NT>
LOLA_KERNEL LOLA_BOUNDS(kRowThreads) QueryKernel(QueryParams p) {
  AwaitPrevious();
  using Memory = QueryMemory<NT>;
  const uint32_t d = p.shape.head_dim, f = p.shape.feature_dim / 2, head = BlockY();
  const uint32_t first = BlockX() * Memory::kRows;
  const uint32_t count = p.row_count - first < Memory::kRows ? p.row_count - first : Memory::kRows;
  const Panel panel = Memory::Queries(d);
  for (unsigned column = Warp(); column < Memory::kRows; column += kQueryWarps) {
    if (column < count) {
      RotateQuery(p, first + column, head, panel, column);
      continue;
    }
    for (uint32_t i = ThreadX() % kWarpThreads; i < d; i += kWarpThreads) {
      PutElement(panel, column, i, 0.0f);
    }
  }
  SyncThreads();
  MapQueries<NT>(p.map_q + size_t(head) * d * f, d, f);
  SyncThreads();
  for (unsigned column = Warp(); column < count; column += kQueryWarps) {
    if (p.segments[p.rows[first + column].segment].plan->softmax) continue;
    const size_t at = size_t(first + column) * p.shape.query_heads + head;
    FeaturesOfWarp(Memory::Mapped(d, f, column), f, p.features + at * 2 * f);
  }
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_QUERIES_CUH_
