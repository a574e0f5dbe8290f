// Matrix units, as kernels see them: a warp multiplies small tiles whose elements lie spread over
// its lanes. nvcc makes one mma.sync of each call (sm_80 and later); the emulation exchanges the
// lanes' words and computes the same tile on the CPU.
//
// Tiles of d (16 x 8) += a (16 x k) b (k x 8), with lane = 4 g + t:
//   d[0], d[1] = (g, 2t), (g, 2t + 1)    d[2], d[3] = (g + 8, 2t), (g + 8, 2t + 1)
//   bfloat16, k = 16, two elements a word, the lower one first:
//     a[0], a[1] = (g, 2t..), (g + 8, 2t..)   a[2], a[3] = the same with 2t + 8
//     b[0], b[1] = (2t.., g), (2t + 8.., g)
//   int8, k = 32, four elements a word:
//     a[0], a[1] = (g, 4t..), (g + 8, 4t..)   a[2], a[3] = the same with 4t + 16
//     b[0], b[1] = (4t.., g), (4t + 16.., g)
//
// All 32 lanes take part: the instructions are volatile, so that none is moved into a branch that
// only some lanes take. An element of d depends on its row of a, its column of b and its old
// value alone, by one rule whatever its place in the tile: P2 on a device rests on that, and
// tests/gpu checks it on the hardware. Products of bfloat16 are exact; how the 16 are added is the
// hardware's (about float32), and the emulation adds them in float64 and rounds once. int8 is exact
// on both.
#ifndef LOLA_KERNELS_CUDA_MMA_H_
#define LOLA_KERNELS_CUDA_MMA_H_

#include "kernels/cuda/portable.h"

namespace lola::cuda {

#ifdef __CUDACC__

LOLA_DEVICE void MmaBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
LOLA_DEVICE void MmaInt8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Two floats rounded to nearest even; `low` in the lower half of the word.
LOLA_DEVICE uint32_t RoundPair(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

#else  // emulation

namespace emulation {

// Publishes a lane's words of a and b; `at(lane, word)` then reads anybody's until Release.
inline void PublishTile(const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  uint32_t* own = WarpWords(ThreadX() % kWarpThreads);
  for (int i = 0; i < 4; ++i) own[i] = a[i];
  for (int i = 0; i < 2; ++i) own[4 + i] = b[i];
  SyncWarp();
}

}  // namespace emulation

inline void MmaBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulation::PublishTile(a, b);
  const unsigned g = ThreadX() % kWarpThreads / 4, t = ThreadX() % 4;
  double sum[4] = {d[0], d[1], d[2], d[3]};
  for (unsigned k = 0; k < 16; k += 2) {
    const unsigned part = k % 8 / 2, late = k / 8;
    const uint32_t* rows = emulation::WarpWords(4 * g + part) + 2 * late;
    for (unsigned column = 0; column < 2; ++column) {
      const uint32_t y = emulation::WarpWords(4 * (2 * t + column) + part)[4 + late];
      const double low = BitsToFloat(y << 16), high = BitsToFloat(y & 0xffff0000u);
      for (unsigned half = 0; half < 2; ++half) {
        const uint32_t x = rows[half];
        sum[2 * half + column] += BitsToFloat(x << 16) * low + BitsToFloat(x & 0xffff0000u) * high;
      }
    }
  }
  for (int i = 0; i < 4; ++i) d[i] = static_cast<float>(sum[i]);
  emulation::SyncWarp();
}

inline void MmaInt8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulation::PublishTile(a, b);
  const unsigned g = ThreadX() % kWarpThreads / 4, t = ThreadX() % 4;
  for (unsigned k = 0; k < 32; ++k) {
    const unsigned part = k % 16 / 4, late = k / 16, shift = 8 * (k % 4);
    for (unsigned i = 0; i < 4; ++i) {
      const uint32_t x = emulation::WarpWords(4 * g + part)[2 * late + i / 2];
      const uint32_t y = emulation::WarpWords(4 * (2 * t + i % 2) + part)[4 + late];
      d[i] += int32_t(int8_t(x >> shift)) * int32_t(int8_t(y >> shift));
    }
  }
  emulation::SyncWarp();
}

inline uint32_t RoundPair(float low, float high) {
  Bf16 a, b;
  Put(a, low);
  Put(b, high);
  return uint32_t(a.bits) | uint32_t(b.bits) << 16;
}

#endif

// x = hi + lo + a rest below 2^-18 |x|: three products of such halves (hi lo, lo hi, hi hi) stand
// for one of float32 with a relative error of about 2^-17, two (hi, lo) when the other side is
// bfloat16 as stored.
LOLA_DEVICE void SplitPair(float x, float y, uint32_t& hi, uint32_t& lo) {
  hi = RoundPair(x, y);
  lo = RoundPair(x - BitsToFloat(hi << 16), y - BitsToFloat(hi & 0xffff0000u));
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_MMA_H_
