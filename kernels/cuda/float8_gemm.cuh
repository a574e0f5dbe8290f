// Products with float8 weights: a weight is an 8-bit float times its output's scale, a power of
// two, and meets bfloat16 inputs. Both are exact operands of the matrix units, so only sums round.
//
// The order of a sum depends on `in` alone: kFloat8Slices slices of whole groups of 64 inputs; a
// slice is one chain over steps of 16, and the slices are added in order. The kernel for few rows
// gives every slice to a warp, so that even a narrow matrix keeps the memory busy; the one for many
// rows goes through them. A row has the same bits in both.
//
// Step j of a group takes from lane t the inputs 16 t + 4 j .. + 3: a lane loads sixteen
// neighbouring weights at once and uses them in four steps.
#ifndef LOLA_KERNELS_CUDA_FLOAT8_GEMM_CUH_
#define LOLA_KERNELS_CUDA_FLOAT8_GEMM_CUH_

#include "kernels/cuda/calls.h"
#include "kernels/cuda/float8.cuh"
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/mma.h"
#include "kernels/cuda/portable.h"

namespace lola::cuda {

inline constexpr unsigned kFloat8Threads = 256;
inline constexpr unsigned kFloat8Slices = kFloat8Threads / kWarpThreads;
inline constexpr unsigned kGroupSteps = kGroupInputs / kStepK;
inline constexpr unsigned kFewOutputs = 32;  // of a block; two tiles of a warp
inline constexpr unsigned kFewTiles = kFewOutputs / 16;

// First group of a slice.
constexpr uint32_t SliceBegin(uint32_t slice, uint32_t groups) {
  return slice * groups / kFloat8Slices;
}

// A lane's sixteen weights of a group, zeros where there is no such output.
LOLA_DEVICE Vec16 LaneWeights(const Float8Params& p, size_t output, uint32_t group) {
  if (output >= p.out) return {{0, 0, 0, 0}};
  const size_t stride = size_t(WeightGroups(p.in)) * kGroupInputs;
  return Load16(p.weights + output * stride + size_t(group) * kGroupInputs + LaneOfGroup() * 16);
}

// A lane's sixteen inputs of a group as words, zeros where there are none.
LOLA_DEVICE void LaneInputs(const Float8Params& p, size_t row, uint32_t group,
                            uint32_t (&words)[8]) {
  const uint32_t first = group * kGroupInputs + LaneOfGroup() * 16;
  const Bf16* from = p.input + row * p.in + first;
  LOLA_UNROLL
  for (unsigned i = 0; i < 8; ++i) words[i] = 0;
  if (row >= p.rows || first >= p.in) return;
  if (p.in % 8 == 0 && first + 16 <= p.in) {
    LoadWords<32>(from, words);
    return;
  }
  LOLA_UNROLL
  for (unsigned i = 0; i < 16; ++i) {
    if (first + i < p.in) words[i / 2] |= uint32_t(from[i].bits) << (i % 2 * 16);
  }
}

LOLA_DEVICE void WriteProduct(const Float8Params& p, size_t row, size_t output, float sum) {
  if (row >= p.rows || output >= p.out) return;
  float& to = p.output[row * p.out + output];
  const float y = Product(sum, p.scales[output]);
  to = p.accumulate != 0 ? to + y : y;
}

constexpr size_t FewSharedBytes(unsigned tiles) {
  return size_t(kFloat8Slices) * kFewOutputs * kColumns * tiles * 4;
}

// Up to 8 NT rows a block. Grid: blocks of kFewOutputs outputs, of 8 NT rows.
template <unsigned NT>
LOLA_KERNEL LOLA_BOUNDS(kFloat8Threads) Float8FewKernel(Float8Params p) {
  AwaitPrevious();
  constexpr unsigned kAhead = NT == 1 ? 2 : 1;  // groups whose weights are under way together
  const uint32_t groups = WeightGroups(p.in), end = SliceBegin(Warp() + 1, groups);
  const size_t output = size_t(BlockX()) * kFewOutputs + LaneGroup();
  const size_t first_row = size_t(BlockY()) * NT * kColumns;
  float sums[kFewTiles][NT][4] = {};
  for (uint32_t begin = SliceBegin(Warp(), groups); begin < end; begin += kAhead) {
    Vec16 weights[kAhead][kFewTiles][2];
    LOLA_UNROLL
    for (unsigned i = 0; i < kAhead; ++i) {
      LOLA_UNROLL
      for (unsigned n = 0; n < 2 * kFewTiles; ++n) {
        // Behind the slice's end: what is loaded once more is not used.
        const uint32_t group = begin + i < end ? begin + i : begin;
        weights[i][n / 2][n % 2] = LaneWeights(p, output + 8 * n, group);
      }
    }
    LOLA_UNROLL
    for (unsigned i = 0; i < kAhead; ++i) {
      if (begin + i >= end) continue;
      LOLA_UNROLL
      for (unsigned n = 0; n < NT; ++n) {
        uint32_t x[8];
        LaneInputs(p, first_row + n * kColumns + LaneGroup(), begin + i, x);
        LOLA_UNROLL
        for (unsigned j = 0; j < kGroupSteps; ++j) {
          const uint32_t b[2] = {x[2 * j], x[2 * j + 1]};
          LOLA_UNROLL
          for (unsigned tile = 0; tile < kFewTiles; ++tile) {
            const uint32_t low = weights[i][tile][0].word[j], high = weights[i][tile][1].word[j];
            const uint32_t a[4] = {ToBf16Pair(low), ToBf16Pair(high), ToBf16Pair(low >> 16),
                                   ToBf16Pair(high >> 16)};
            MmaBf16(sums[tile][n], a, b);
          }
        }
      }
    }
  }
  float* shared = reinterpret_cast<float*>(SharedBytes());  // [slices, 8 NT, kFewOutputs]
  constexpr unsigned kAll = NT * kColumns * kFewOutputs;
  LOLA_UNROLL
  for (unsigned tile = 0; tile < kFewTiles; ++tile) {
    LOLA_UNROLL
    for (unsigned n = 0; n < NT; ++n) {
      LOLA_UNROLL
      for (unsigned i = 0; i < 4; ++i) {
        shared[Warp() * kAll + SumColumn(n, i) * kFewOutputs + tile * 16 + LaneGroup() +
               i / 2 * 8] = sums[tile][n][i];
      }
    }
  }
  SyncThreads();
  for (unsigned at = ThreadX(); at < kAll; at += kFloat8Threads) {
    float sum = 0;
    LOLA_UNROLL
    for (unsigned slice = 0; slice < kFloat8Slices; ++slice) sum += shared[slice * kAll + at];
    WriteProduct(p, first_row + at / kFewOutputs, size_t(BlockX()) * kFewOutputs + at % kFewOutputs,
                 sum);
  }
}

// Many rows: 128 outputs and 128 rows a block, 32 and 64 a warp. Operands lie in shared memory as
// bfloat16, every weight widened once for all rows: [row][step][lane t] words of four inputs. Rows
// are 160 bytes apart, so that the four rows of half a warp take different banks.
inline constexpr unsigned kManyOutputs = 128, kManyRows = 128;
inline constexpr unsigned kManyStride = 40;  // words
inline constexpr unsigned kManyItems = 2;    // pieces of sixteen that a thread stages of each side
static_assert(kManyOutputs == kManyRows && kManyRows * 4 == kManyItems * kFloat8Threads);
constexpr size_t ManySharedBytes() { return size_t(kManyOutputs + kManyRows) * kManyStride * 4; }

// A thread's pieces of one group of both sides, on their way to shared memory.
struct ManyStage {
  Vec16 weights[kManyItems];
  uint32_t inputs[kManyItems][8];
};

LOLA_DEVICE void LoadStage(const Float8Params& p, size_t output, size_t row, uint32_t group,
                           ManyStage& stage) {
  LOLA_UNROLL
  for (unsigned i = 0; i < kManyItems; ++i) {
    const unsigned at = (i * kFloat8Threads + ThreadX()) / 4;
    stage.weights[i] = LaneWeights(p, output + at, group);
    LaneInputs(p, row + at, group, stage.inputs[i]);
  }
}
LOLA_DEVICE void StoreStage(const ManyStage& stage, uint32_t* weights, uint32_t* inputs) {
  LOLA_UNROLL
  for (unsigned i = 0; i < kManyItems; ++i) {
    const unsigned at = (i * kFloat8Threads + ThreadX()) / 4 * kManyStride + LaneOfGroup() * 2;
    LOLA_UNROLL
    for (unsigned j = 0; j < kGroupSteps; ++j) {
      const uint32_t bytes = stage.weights[i].word[j];
      Store8Bytes(weights + at + j * 8, ToBf16Pair(bytes), ToBf16Pair(bytes >> 16));
      Store8Bytes(inputs + at + j * 8, stage.inputs[i][2 * j], stage.inputs[i][2 * j + 1]);
    }
  }
}

// sums += one group; `weights` and `inputs` are the warp's parts.
LOLA_DEVICE void MultiplyGroup(const uint32_t* weights, const uint32_t* inputs,
                               float (&sums)[2][8][4]) {
  const unsigned lane = LaneGroup() * kManyStride + LaneOfGroup() * 2;
  LOLA_UNROLL
  for (unsigned j = 0; j < kGroupSteps; ++j) {
    uint32_t a[2][4];
    LOLA_UNROLL
    for (unsigned n = 0; n < 4; ++n) {
      Load8Bytes(weights + lane + n * 8 * kManyStride + j * 8, a[n / 2][n % 2],
                 a[n / 2][2 + n % 2]);
    }
    LOLA_UNROLL
    for (unsigned n = 0; n < 8; ++n) {
      uint32_t b[2];
      Load8Bytes(inputs + lane + n * 8 * kManyStride + j * 8, b[0], b[1]);
      MmaBf16(sums[0][n], a[0], b);
      MmaBf16(sums[1][n], a[1], b);
    }
  }
}

// Grid: blocks of kManyRows rows, of kManyOutputs outputs.
LOLA_KERNEL LOLA_BOUNDS(kFloat8Threads) Float8ManyKernel(Float8Params p) {
  AwaitPrevious();
  uint32_t* weights = reinterpret_cast<uint32_t*>(SharedBytes());
  uint32_t* inputs = weights + kManyOutputs * kManyStride;
  const size_t row = size_t(BlockX()) * kManyRows, output = size_t(BlockY()) * kManyOutputs;
  const unsigned own_output = Warp() % 4 * 32, own_row = Warp() / 4 * 64;
  const uint32_t groups = WeightGroups(p.in);
  float total[2][8][4] = {};
  ManyStage stage;
  LoadStage(p, output, row, 0, stage);
  for (uint32_t slice = 0; slice < kFloat8Slices; ++slice) {
    const uint32_t end = SliceBegin(slice + 1, groups);
    float sums[2][8][4] = {};
    for (uint32_t group = SliceBegin(slice, groups); group < end; ++group) {
      SyncThreads();  // everybody is done with the group before
      StoreStage(stage, weights, inputs);
      SyncThreads();
      if (group + 1 < groups) LoadStage(p, output, row, group + 1, stage);
      MultiplyGroup(weights + own_output * kManyStride, inputs + own_row * kManyStride, sums);
    }
    LOLA_UNROLL
    for (unsigned n = 0; n < 64; ++n)
      total[n / 32][n / 4 % 8][n % 4] += sums[n / 32][n / 4 % 8][n % 4];
  }
  LOLA_UNROLL
  for (unsigned n = 0; n < 64; ++n) {
    const unsigned i = n % 4;
    WriteProduct(p, row + own_row + SumColumn(n / 4 % 8, i),
                 output + own_output + n / 32 * 16 + LaneGroup() + i / 2 * 8,
                 total[n / 32][n / 4 % 8][i]);
  }
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_FLOAT8_GEMM_CUH_
