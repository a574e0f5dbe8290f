// Products with int8 weights: the quantised input, the groups of 64 and every rounding are those of
// kernels/gemm/gemm.h, so the results are the CPU's to the bit. Sums inside a group are whole
// numbers, exact in any order; the groups are added in order, one float chain per output.
#ifndef LOLA_KERNELS_CUDA_INT8_GEMM_CUH_
#define LOLA_KERNELS_CUDA_INT8_GEMM_CUH_

#include "kernels/cuda/calls.h"
#include "kernels/cuda/mma.h"
#include "kernels/cuda/portable.h"

namespace lola::cuda {

inline constexpr unsigned kInt8Threads = 128;
inline constexpr unsigned kInt8Outputs = 16 * kInt8Threads / kWarpThreads;  // of a block

LOLA_DEVICE uint32_t WarpMaxBits(uint32_t value) {
  LOLA_UNROLL
  for (unsigned mask = 16; mask > 0; mask /= 2) {
    const uint32_t other = ShuffleXor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

// One warp quantises one group of one row: step = m / 127, p = round(x (127 / m)), m = max |x|.
// Grid: rows, blocks of four groups. `input` is [rows, in]; groups behind its end hold zeros.
LOLA_KERNEL LOLA_BOUNDS(kInt8Threads) QuantizeKernel(Int8Params p) {
  AwaitPrevious();
  const uint32_t groups = WeightGroups(p.in), lane = ThreadX() % kWarpThreads;
  const uint32_t group = BlockY() * (kInt8Threads / kWarpThreads) + ThreadX() / kWarpThreads;
  if (group >= groups) return;
  const float* row = p.input + size_t(BlockX()) * p.in;
  float x[2];
  uint32_t largest = 0;
  LOLA_UNROLL
  for (unsigned i = 0; i < 2; ++i) {
    const uint32_t at = group * kGroupInputs + 2 * lane + i;
    x[i] = at < p.in ? row[at] : 0.0f;
    const uint32_t bits = FloatBits(x[i]) & 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  largest = WarpMaxBits(largest);  // as whole numbers: NaN is above infinity, nothing bad gets lost
  const float size = BitsToFloat(largest);
  const bool finite = largest < 0x7f800000u, zero = size < 1e-30f;
  const float inverse = finite && !zero ? 127.0f / size : 0.0f;
  uint16_t packed = 0;
  LOLA_UNROLL
  for (unsigned i = 0; i < 2 && inverse != 0.0f; ++i) {
    // Adding 1.5 * 2^23 rounds to nearest even and leaves the whole number in the low bits.
    const uint32_t whole = FloatBits(Product(x[i], inverse) + 12582912.0f) - 0x4b400000u;
    packed = uint16_t(packed | (whole & 0xffu) << (8 * i));
  }
  const size_t at = size_t(BlockX()) * groups + group;
  reinterpret_cast<uint16_t*>(p.quantized)[at * (kGroupInputs / 2) + lane] = packed;
  if (lane == 0) p.steps[at] = !finite ? size : zero ? 0.0f : size / 127.0f;
}

// A lane's sixteen bytes of a group, zeros where there is no such row.
LOLA_DEVICE Vec16 GroupBytes(const int8_t* data, size_t row, size_t rows, size_t stride,
                             uint32_t group) {
  if (row >= rows) return {{0, 0, 0, 0}};
  return Load16(data + row * stride + size_t(group) * kGroupInputs + ThreadX() % 4 * 16);
}

// Both operands give lane t of a group bytes 16 t .. 16 t + 15 as two steps of 32: the same order
// on both sides. Grid: blocks of kInt8Outputs outputs, of 8 NT rows.
template <unsigned NT>
LOLA_KERNEL LOLA_BOUNDS(kInt8Threads) Int8GemmKernel(Int8Params p) {
  AwaitPrevious();
  constexpr unsigned kAhead = NT == 1 ? 4 : 1;  // groups whose weights are under way together
  const uint32_t groups = WeightGroups(p.in), stride = groups * kGroupInputs;
  const unsigned g = ThreadX() % kWarpThreads / 4, t = ThreadX() % 4;
  const size_t output = BlockX() * kInt8Outputs + ThreadX() / kWarpThreads * 16 + g;
  const size_t first_row = BlockY() * NT * 8;
  float total[NT][4] = {};
  for (uint32_t begin = 0; begin < groups; begin += kAhead) {
    Vec16 low[kAhead], high[kAhead];
    LOLA_UNROLL
    for (unsigned i = 0; i < kAhead; ++i) {
      const size_t rows = begin + i < groups ? p.out : 0;
      low[i] = GroupBytes(p.weights, output, rows, stride, begin + i);
      high[i] = GroupBytes(p.weights, output + 8, rows, stride, begin + i);
    }
    LOLA_UNROLL
    for (unsigned i = 0; i < kAhead; ++i) {
      const uint32_t group = begin + i;
      if (group >= groups) continue;
      LOLA_UNROLL
      for (unsigned n = 0; n < NT; ++n) {
        const Vec16 x = GroupBytes(p.quantized, first_row + n * 8 + g, p.rows, stride, group);
        int32_t sum[4] = {};
        LOLA_UNROLL
        for (unsigned half = 0; half < 4; half += 2) {
          const uint32_t a[4] = {low[i].word[half], high[i].word[half], low[i].word[half + 1],
                                 high[i].word[half + 1]};
          const uint32_t b[2] = {x.word[half], x.word[half + 1]};
          MmaInt8(sum, a, b);
        }
        LOLA_UNROLL
        for (unsigned j = 0; j < 4; ++j) {
          const size_t row = first_row + n * 8 + 2 * t + j % 2;
          const float step = row < p.rows ? p.steps[row * groups + group] : 0.0f;
          total[n][j] += Product(float(sum[j]), step);
        }
      }
    }
  }
  LOLA_UNROLL
  for (unsigned n = 0; n < NT; ++n) {
    LOLA_UNROLL
    for (unsigned j = 0; j < 4; ++j) {
      const size_t row = first_row + n * 8 + 2 * t + j % 2, o = output + j / 2 * 8;
      if (row >= p.rows || o >= p.out) continue;
      float& to = p.output[row * p.out + o];
      const float y = Product(total[n][j], p.scales[o]);
      to = p.accumulate != 0 ? to + y : y;
    }
  }
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_INT8_GEMM_CUH_
