// Kernels that treat every row of a step alike: embedding, norms, writing keys and values into
// windows, SwiGLU. Queries are in queries.cuh.
#ifndef LOLA_KERNELS_CUDA_ROWS_CUH_
#define LOLA_KERNELS_CUDA_ROWS_CUH_

#include "kernels/cuda/cache_rows.cuh"
#include "kernels/cuda/calls.h"
#include "kernels/cuda/portable.h"
#include "kernels/cuda/tables.h"

namespace lola::cuda {

inline constexpr unsigned kRowThreads = 128;

// x[row] = embedding[token]. Grid: rows.
template <typename W>
LOLA_KERNEL EmbedKernel(const Row* rows, const W* embedding, uint32_t hidden, float* x) {
  AwaitPrevious();
  const W* from = embedding + size_t(rows[BlockX()].token) * hidden;
  float* to = x + size_t(BlockX()) * hidden;
  for (uint32_t i = ThreadX(); i < hidden; i += BlockSize()) to[i] = ToFloat(from[i]);
}

// The same from an int8 table with a scale per row.
LOLA_KERNEL EmbedInt8Kernel(const Row* rows, const int8_t* table, const float* scales,
                            uint32_t hidden, float* x) {
  AwaitPrevious();
  const size_t token = size_t(rows[BlockX()].token);
  const int8_t* from = table + token * WeightGroups(hidden) * kGroupInputs;
  float* to = x + size_t(BlockX()) * hidden;
  for (uint32_t i = ThreadX(); i < hidden; i += BlockSize()) to[i] = float(from[i]) * scales[token];
}

// The same from a float8 table; scales are powers of two.
LOLA_KERNEL EmbedFloat8Kernel(const Row* rows, const Fp8* table, const float* scales,
                              uint32_t hidden, float* x) {
  AwaitPrevious();
  const size_t token = size_t(rows[BlockX()].token);
  const Fp8* from = table + token * WeightGroups(hidden) * kGroupInputs;
  float* to = x + size_t(BlockX()) * hidden;
  for (uint32_t i = ThreadX(); i < hidden; i += BlockSize())
    to[i] = ToFloat(from[i]) * scales[token];
}

// out[i] = RMSNorm(x[pick[i]]) * weight; pick null = every row. Grid: rows.
template <typename Out>
LOLA_KERNEL NormKernel(const float* x, const uint32_t* pick, const float* weight, float epsilon,
                       uint32_t hidden, Out* out) {
  AwaitPrevious();
  float* scratch = reinterpret_cast<float*>(SharedBytes());
  const float* from = x + size_t(pick == nullptr ? BlockX() : pick[BlockX()]) * hidden;
  float sum = 0;
  for (uint32_t i = ThreadX(); i < hidden; i += BlockSize()) sum = fmaf(from[i], from[i], sum);
  sum = BlockSum(sum, scratch);
  const float scale = 1.0f / sqrtf(sum / float(hidden) + epsilon);
  Out* to = out + size_t(BlockX()) * hidden;
  for (uint32_t i = ThreadX(); i < hidden; i += BlockSize())
    Put(to[i], from[i] * scale * weight[i]);
}

// out = silu(gate) * up; gate_up is [rows, 2 ffn]. Grid: rows.
template <typename Out>
LOLA_KERNEL SwigluKernel(const float* gate_up, uint32_t ffn, Out* out) {
  AwaitPrevious();
  const float* gate = gate_up + size_t(BlockX()) * 2 * ffn;
  Out* to = out + size_t(BlockX()) * ffn;
  for (uint32_t i = ThreadX(); i < ffn; i += BlockSize()) {
    const float g = gate[i];
    Put(to[i], g / (1.0f + expf(-g)) * gate[ffn + i]);
  }
}

// Element `dim` of x rotated; x is one head's row.
LOLA_DEVICE float Rotated(const float* x, const float* cos, const float* sin, uint32_t dim,
                          uint32_t head_dim) {
  const uint32_t half = head_dim / 2;
  if (dim < half) return fmaf(-x[dim + half], sin[dim], x[dim] * cos[dim]);
  return fmaf(x[dim - half], sin[dim - half], x[dim] * cos[dim - half]);
}

// Writes the keys and values of a tile's rows into its stream's window, a warp a row. Constant
// positions: the key is rotated by its place in the chunk. Grid: tiles, kv heads.
LOLA_KERNEL PushKernel(PushParams p) {
  AwaitPrevious();
  const uint32_t d = p.shape.head_dim;
  const Tile tile = p.tiles[BlockX()];
  const SegmentEntry segment = p.segments[tile.segment];
  const Plan& plan = *segment.plan;
  const PairRows window = WindowRows(segment.record, plan, plan.layers[p.layer], BlockY(), d);
  const size_t stride = size_t(p.shape.query_heads + 2 * p.shape.kv_heads) * d;
  const float* cosines = plan.constant_positions ? plan.distance_cos : p.absolute_cos;
  const float* sines = plan.constant_positions ? plan.distance_sin : p.absolute_sin;
  const unsigned warps = BlockSize() / kWarpThreads;
  for (uint32_t row = ThreadX() / kWarpThreads; row < tile.rows; row += warps) {
    const uint64_t position = tile.position + row;
    const float* k = p.qkv + (tile.first_row + row) * stride + (p.shape.query_heads + BlockY()) * d;
    const size_t angle = plan.constant_positions ? size_t(position % plan.chunk) * (d / 2)
                                                 : size_t(tile.first_row + row) * (d / 2);
    float key[kRowParts], value[kRowParts];
    LOLA_UNROLL
    for (unsigned i = 0; i < kRowParts; ++i) {
      const uint32_t dim = ThreadX() % kWarpThreads + kWarpThreads * i;
      key[i] = dim < d ? Rotated(k, cosines + angle, sines + angle, dim, d) : 0.0f;
      value[i] = dim < d ? k[size_t(p.shape.kv_heads) * d + dim] : 0.0f;
    }
    window.Store(RingRow(plan, position), key, value);
  }
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_ROWS_CUH_
