// Products with the processor's bfloat16 dot instruction, which Highway 1.0 does not reach. Every
// function carries its instruction set as an attribute; nothing runs unless the processor has it.
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/gemm_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/core/cpu.h"

#define LOLA_BF16_DOT __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define LOLA_UNROLL_TEXT(text) _Pragma(#text)
#define LOLA_UNROLL(times) LOLA_UNROLL_TEXT(GCC unroll times)

namespace lola::kernels {
namespace {

constexpr size_t kRowBlockMax = 12;

LOLA_BF16_DOT inline __m512 Dot(__m512 sum, int a, __m512i w) {
  return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)w);
}

template <size_t R>
LOLA_BF16_DOT __attribute__((noinline)) void Tile(const int* a, size_t steps, const int* w,
                                                  bool first, float* sums) {
  __m512 acc[R][2];
  LOLA_UNROLL(12)
  for (size_t r = 0; r < R; ++r) {
    acc[r][0] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + r * kPanelOutputs);
    acc[r][1] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + r * kPanelOutputs + 16);
  }
  for (size_t i = 0; i < steps; ++i) {
    const __m512i w0 = _mm512_loadu_si512(w + i * kPanelOutputs);
    const __m512i w1 = _mm512_loadu_si512(w + i * kPanelOutputs + 16);
    LOLA_UNROLL(12)
    for (size_t r = 0; r < R; ++r) {
      acc[r][0] = Dot(acc[r][0], a[i * R + r], w0);
      acc[r][1] = Dot(acc[r][1], a[i * R + r], w1);
    }
  }
  LOLA_UNROLL(12)
  for (size_t r = 0; r < R; ++r) {
    _mm512_storeu_ps(sums + r * kPanelOutputs, acc[r][0]);
    _mm512_storeu_ps(sums + r * kPanelOutputs + 16, acc[r][1]);
  }
}

void PanelSums(const void* packed, size_t rows, size_t steps, const std::byte* panel, float* sums) {
  const int* a = static_cast<const int*>(packed);
  const int* w = reinterpret_cast<const int*>(panel);
  for (size_t step = 0; step < steps; step += kStepsPerSlice) {
    const size_t count = std::min(kStepsPerSlice, steps - step);
    for (size_t row = 0; row < rows;) {
      const size_t block = RowBlock(rows - row, kRowBlockMax);
      const int* block_a = a + row * steps + step * block;
      const int* block_w = w + step * kPanelOutputs;
      float* block_sums = sums + row * kPanelOutputs;
      const bool first = step == 0;
      switch (block) {
        case 12:
          Tile<12>(block_a, count, block_w, first, block_sums);
          break;
        case 8:
          Tile<8>(block_a, count, block_w, first, block_sums);
          break;
        case 4:
          Tile<4>(block_a, count, block_w, first, block_sums);
          break;
        case 2:
          Tile<2>(block_a, count, block_w, first, block_sums);
          break;
        default:
          Tile<1>(block_a, count, block_w, first, block_sums);
      }
      row += block;
    }
  }
}

template <size_t P>
LOLA_BF16_DOT __attribute__((noinline)) void SingleSums(const int* a, size_t steps, const int* w,
                                                        size_t panel_words, float* sums) {
  constexpr size_t kAheadWords = 256;
  __m512 acc[P][2];
  LOLA_UNROLL(4)
  for (size_t i = 0; i < P; ++i) acc[i][0] = acc[i][1] = _mm512_setzero_ps();
  for (size_t step = 0; step < steps; ++step) {
    LOLA_UNROLL(4)
    for (size_t i = 0; i < P; ++i) {
      const int* row = w + i * panel_words + step * kPanelOutputs;
      _mm_prefetch(reinterpret_cast<const char*>(row + kAheadWords), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(row + kAheadWords + 16), _MM_HINT_T0);
      acc[i][0] = Dot(acc[i][0], a[step], _mm512_loadu_si512(row));
      acc[i][1] = Dot(acc[i][1], a[step], _mm512_loadu_si512(row + 16));
    }
  }
  for (size_t i = 0; i < P; ++i) {
    _mm512_storeu_ps(sums + i * kPanelOutputs, acc[i][0]);
    _mm512_storeu_ps(sums + i * kPanelOutputs + 16, acc[i][1]);
  }
}

void SinglePanels(const void* packed, size_t steps, const std::byte* panel, size_t panel_bytes,
                  size_t panels, float* sums) {
  const int* a = static_cast<const int*>(packed);
  const int* w = reinterpret_cast<const int*>(panel);
  if (panels == 4) return SingleSums<4>(a, steps, w, panel_bytes / 4, sums);
  for (size_t i = 0; i < panels; ++i) {
    SingleSums<1>(a, steps, w + i * panel_bytes / 4, 0, sums + i * kPanelOutputs);
  }
}

// Rounds n values to bfloat16 pairs, the last one padded with zero.
LOLA_BF16_DOT void RoundRow(const float* x, size_t n, uint16_t* out) {
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(x + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), (__m256i)rounded);
  }
  for (; i < n; ++i) out[i] = ToBFloat16(x[i]).bits;
  if (n % 2 == 1) out[n] = 0;
}

void PackRows(const float* input, size_t stride, size_t rows, size_t in, void* packed) {
  constexpr size_t kPart = 512;  // values rounded before they are spread over the block
  const size_t steps = (in + 1) / 2;
  auto* out = static_cast<uint32_t*>(packed);
  for (size_t row = 0; row < rows;) {
    const size_t block = RowBlock(rows - row, kRowBlockMax);
    for (size_t r = 0; r < block; ++r) {
      const float* x = input + (row + r) * stride;
      for (size_t i = 0; i < in; i += kPart) {
        const size_t count = std::min(kPart, in - i);
        alignas(64) uint16_t rounded[kPart];
        RoundRow(x + i, count, rounded);
        for (size_t s = 0; s < (count + 1) / 2; ++s) {
          std::memcpy(out + (i / 2 + s) * block + r, rounded + 2 * s, sizeof(uint32_t));
        }
      }
    }
    out += block * steps;
    row += block;
  }
}

}  // namespace

const GemmKernels* BFloat16DotKernels() {
  static constexpr GemmKernels kKernels = {4, 1, PackRows, PanelSums, SinglePanels};
  static const bool available = HasBf16Dot();
  return available ? &kKernels : nullptr;
}

}  // namespace lola::kernels

#else  // not x86-64

namespace lola::kernels {
const GemmKernels* BFloat16DotKernels() { return nullptr; }
}  // namespace lola::kernels

#endif
