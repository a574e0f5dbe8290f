// Operands of the matrix units straight from memory.
//
// All products here have the long side in memory (pairs, features: operand a, sixteen rows a tile)
// and up to eight columns a tile that share it (rows of the step, pairs that are scored: operand b,
// in shared memory). The order inside a sum over k is free as long as a and b agree, and so is
// which row of a tile stands for which element; both are chosen so that a lane's loads are wide and
// a warp's loads fill whole lines:
//   k: lane 4g + t has the positions 16 step + t + 4 i, i = 0..3, of every step;
//   rows: the lane loads W consecutive elements g W .. g W + W - 1 at each of its positions; they
//   become rows g and g + 8 of W / 2 tiles: element 2n is row g of tile n, 2n + 1 is row g + 8.
//
// bfloat16 and float8 are exact as operands. float32 is split (mma.h).
#ifndef LOLA_KERNELS_CUDA_FRAGMENTS_CUH_
#define LOLA_KERNELS_CUDA_FRAGMENTS_CUH_

#include "kernels/cuda/float8.cuh"
#include "kernels/cuda/mma.h"
#include "kernels/cuda/portable.h"

namespace lola::cuda {

inline constexpr unsigned kStepK = 16;   // positions of one step
inline constexpr unsigned kColumns = 8;  // of one tile

LOLA_DEVICE unsigned LaneGroup() { return ThreadX() % kWarpThreads / 4; }
LOLA_DEVICE unsigned LaneOfGroup() { return ThreadX() % 4; }
LOLA_DEVICE unsigned Warp() { return ThreadX() / kWarpThreads; }

template <typename T>
struct Operand {
  static constexpr bool kSplit = false;  // exact in bfloat16
};
template <>
struct Operand<float> {
  static constexpr bool kSplit = true;
};

// BYTES consecutive bytes as words; aligned to BYTES or to 16.
template <unsigned BYTES>
LOLA_DEVICE void LoadWords(const void* from, uint32_t (&words)[(BYTES + 3) / 4]) {
  const unsigned char* at = static_cast<const unsigned char*>(from);
  if constexpr (BYTES % 16 == 0) {
    LOLA_UNROLL
    for (unsigned i = 0; i < BYTES / 16; ++i) {
      const Vec16 v = Load16(at + 16 * i);
      LOLA_UNROLL
      for (unsigned j = 0; j < 4; ++j) words[4 * i + j] = v.word[j];
    }
  } else if constexpr (BYTES == 8) {
    Load8Bytes(at, words[0], words[1]);
  } else if constexpr (BYTES == 4) {
    words[0] = *reinterpret_cast<const uint32_t*>(at);
  } else {
    static_assert(BYTES == 2);
    words[0] = *reinterpret_cast<const uint16_t*>(at);
  }
}

// W consecutive elements as bfloat16 pairs. float: `lo` gets the rest.
template <unsigned W>
LOLA_DEVICE void LoadPairs(const Bf16* from, uint32_t (&hi)[W / 2], uint32_t (&)[W / 2]) {
  LoadWords<2 * W>(from, hi);
}
template <unsigned W>
LOLA_DEVICE void LoadPairs(const Fp8* from, uint32_t (&hi)[W / 2], uint32_t (&)[W / 2]) {
  uint32_t words[(W + 3) / 4];
  LoadWords<W>(from, words);
  LOLA_UNROLL
  for (unsigned i = 0; i < W / 2; ++i) hi[i] = ToBf16Pair(words[i / 2] >> (i % 2 * 16));
}
template <unsigned W>
LOLA_DEVICE void LoadPairs(const float* from, uint32_t (&hi)[W / 2], uint32_t (&lo)[W / 2]) {
  uint32_t words[W];
  LoadWords<4 * W>(from, words);
  LOLA_UNROLL
  for (unsigned i = 0; i < W / 2; ++i) {
    SplitPair(BitsToFloat(words[2 * i]), BitsToFloat(words[2 * i + 1]), hi[i], lo[i]);
  }
}

// One step of W / 2 tiles of operand a.
template <unsigned W>
struct Strip {
  uint32_t hi[W / 2][4];
  uint32_t lo[W / 2][4];  // float32 only
};

// Words of four positions, two elements each, to words of two positions.
LOLA_DEVICE void Interleave(uint32_t p0, uint32_t p1, uint32_t p2, uint32_t p3, uint32_t (&a)[4]) {
  a[0] = (p0 & 0xffffu) | p1 << 16;
  a[1] = p0 >> 16 | (p1 & 0xffff0000u);
  a[2] = (p2 & 0xffffu) | p3 << 16;
  a[3] = p2 >> 16 | (p3 & 0xffff0000u);
}

// `first` is the lane's W elements at the step's position t, those of position n lie n * stride
// behind; positions from `live` on read as zero and are not touched.
template <typename T, unsigned W>
LOLA_DEVICE void LoadStrip(const T* first, size_t stride, unsigned live, Strip<W>& strip) {
  uint32_t hi[4][W / 2], lo[4][W / 2];
  LOLA_UNROLL
  for (unsigned i = 0; i < 4; ++i) {
    LOLA_UNROLL
    for (unsigned n = 0; n < W / 2; ++n) hi[i][n] = lo[i][n] = 0;
    if (4 * i + LaneOfGroup() < live) LoadPairs<W>(first + 4 * i * stride, hi[i], lo[i]);
  }
  LOLA_UNROLL
  for (unsigned n = 0; n < W / 2; ++n) {
    Interleave(hi[0][n], hi[1][n], hi[2][n], hi[3][n], strip.hi[n]);
    if constexpr (Operand<T>::kSplit) {
      Interleave(lo[0][n], lo[1][n], lo[2][n], lo[3][n], strip.lo[n]);
    }
  }
}

// Operand b in shared memory: columns of k split floats, as lanes take them. 16-byte aligned.
struct Panel {
  uint32_t* words;
  uint32_t stride;   // words from column to column
  uint32_t columns;  // a multiple of 8; the low halves follow the high ones of all columns

  LOLA_DEVICE uint32_t* Low() const { return words + columns * stride; }
};
// Eight words more than needed: columns then start in different banks.
constexpr unsigned PanelStride(unsigned k) { return k / 2 + 8; }
constexpr size_t PanelWords(unsigned columns, unsigned k) {
  return size_t(2) * columns * PanelStride(k);
}
// The positions whose elements share word `word` of a column: this one and the fourth after it.
LOLA_DEVICE unsigned PanelPosition(unsigned word) {
  return word / 8 * kStepK + word % 2 * 8 + word % 8 / 2;
}
LOLA_DEVICE void PutWord(const Panel& panel, unsigned column, unsigned word, float first,
                         float second) {
  const unsigned at = column * panel.stride + word;
  SplitPair(first, second, panel.words[at], panel.Low()[at]);
}
// One element at position k.
LOLA_DEVICE void PutElement(const Panel& panel, unsigned column, unsigned k, float value) {
  const unsigned word = k / kStepK * 8 + k % 4 * 2 + k % kStepK / 8;
  const unsigned at = 2 * (column * panel.stride + word) + k / 4 % 2;
  uint32_t hi, lo;
  SplitPair(value, 0.0f, hi, lo);
  reinterpret_cast<uint16_t*>(panel.words)[at] = uint16_t(hi);
  reinterpret_cast<uint16_t*>(panel.Low())[at] = uint16_t(lo);
}

// sums[tile][n] += strip * columns 8n .. 8n + 7 of the panel from `column` on, for n < live_tiles.
// `exact`: all low halves are zero, and their products are left out, which changes no bit.
template <typename T, unsigned W, unsigned NT>
LOLA_DEVICE void MultiplyStrip(const Strip<W>& strip, const Panel& panel, unsigned column,
                               unsigned step, unsigned live_tiles, float (&sums)[W / 2][NT][4],
                               bool exact = false) {
  const size_t at = (step * 4 + LaneOfGroup()) * 2;
  LOLA_UNROLL
  for (unsigned n = 0; n < NT; ++n) {
    if (n >= live_tiles) continue;
    const size_t from = (column + n * kColumns + LaneGroup()) * panel.stride + at;
    uint32_t hi[2], lo[2];
    Load8Bytes(panel.words + from, hi[0], hi[1]);
    if (!exact) Load8Bytes(panel.Low() + from, lo[0], lo[1]);
    LOLA_UNROLL
    for (unsigned tile = 0; tile < W / 2; ++tile) {
      if constexpr (Operand<T>::kSplit) MmaBf16(sums[tile][n], strip.lo[tile], hi);
      if (!exact) MmaBf16(sums[tile][n], strip.hi[tile], lo);
      MmaBf16(sums[tile][n], strip.hi[tile], hi);
    }
  }
}

// Where sums[tile][n][i] belongs: element of the long side (of a strip's 8 W), column.
template <unsigned W>
LOLA_DEVICE unsigned SumElement(unsigned tile, unsigned i) {
  return LaneGroup() * W + 2 * tile + i / 2;
}
LOLA_DEVICE unsigned SumColumn(unsigned n, unsigned i) {
  return n * kColumns + LaneOfGroup() * 2 + i % 2;
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_FRAGMENTS_CUH_
