// int8 products with the processor's byte dot instruction (AVX-512 VNNI), which Highway 1.0 does
// not reach. Every function carries its instruction set as an attribute; nothing runs unless the
// processor has it.
//
// Packed rows: per block of R rows and group of 64 inputs R steps (float), R offsets (int32), then
// [16, R, 4] quantised inputs.
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/gemm_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/core/cpu.h"

#define LOLA_INT8_DOT __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define LOLA_UNROLL_TEXT(text) _Pragma(#text)
#define LOLA_UNROLL(times) LOLA_UNROLL_TEXT(GCC unroll times)

namespace lola::kernels {
namespace {

constexpr size_t kRowBlockMax = 8;         // 12 rows run at half the speed: their sums spill
constexpr size_t kQuads = kInt8Group / 4;  // dot instructions deep, per group
constexpr size_t kGroupBytes = kInt8Group * kPanelOutputs;  // of a panel
constexpr size_t kElementBytes = kInt8Group + sizeof(float) + sizeof(int32_t);
constexpr size_t kGroupsPerSlice = kStepsPerSlice * kPanelOutputs * 4 / kGroupBytes;

// sum + float(whole) * step, product and sum rounded separately.
LOLA_INT8_DOT inline __m512 AddScaled(__m512 sum, __m512i whole, float step) {
  // The plain conversion makes GCC 12 warn about its own header.
  const __m512 value = _mm512_maskz_cvtepi32_ps(0xffff, whole);
  return _mm512_add_ps(sum, _mm512_mul_ps(value, _mm512_set1_ps(step)));
}

// Continues the sums of R rows over `groups` groups.
template <size_t R>
LOLA_INT8_DOT __attribute__((noinline)) void Tile(const std::byte* a, size_t groups,
                                                  const std::byte* w, bool first, float* sums) {
  for (size_t g = 0; g < groups; ++g, a += R * kElementBytes, w += kGroupBytes) {
    const auto* steps = reinterpret_cast<const float*>(a);
    const auto* offsets = reinterpret_cast<const int*>(a) + R;
    const int* values = offsets + R;
    __m512i acc[R][2];
    LOLA_UNROLL(8)
    for (size_t r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm512_set1_epi32(offsets[r]);
    for (size_t i = 0; i < kQuads; ++i) {
      const __m512i w0 = _mm512_loadu_si512(w + i * kPanelOutputs * 4);
      const __m512i w1 = _mm512_loadu_si512(w + i * kPanelOutputs * 4 + 64);
      LOLA_UNROLL(8)
      for (size_t r = 0; r < R; ++r) {
        const __m512i value = _mm512_set1_epi32(values[i * R + r]);
        acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], w0, value);
        acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], w1, value);
      }
    }
    const bool fresh = first && g == 0;
    LOLA_UNROLL(8)
    for (size_t r = 0; r < R; ++r) {
      LOLA_UNROLL(2)
      for (size_t c = 0; c < 2; ++c) {
        float* sum = sums + r * kPanelOutputs + c * 16;
        const __m512 before = fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(sum);
        _mm512_storeu_ps(sum, AddScaled(before, acc[r][c], steps[r]));
      }
    }
  }
}

LOLA_INT8_DOT void ScaleRow(const std::byte* panel, size_t groups, float* sums) {
  const auto* scales = reinterpret_cast<const float*>(panel + groups * kGroupBytes);
  for (size_t c = 0; c < kPanelOutputs; c += 16) {
    _mm512_storeu_ps(sums + c,
                     _mm512_mul_ps(_mm512_loadu_ps(sums + c), _mm512_loadu_ps(scales + c)));
  }
}

void TileOf(size_t block, const std::byte* a, size_t groups, const std::byte* w, bool first,
            float* sums) {
  switch (block) {
    case 8:
      return Tile<8>(a, groups, w, first, sums);
    case 4:
      return Tile<4>(a, groups, w, first, sums);
    case 2:
      return Tile<2>(a, groups, w, first, sums);
    default:
      return Tile<1>(a, groups, w, first, sums);
  }
}

void PanelSums(const void* packed, size_t rows, size_t groups, const std::byte* panel,
               float* sums) {
  const auto* a = static_cast<const std::byte*>(packed);
  for (size_t group = 0; group < groups; group += kGroupsPerSlice) {
    const size_t count = std::min(kGroupsPerSlice, groups - group);
    for (size_t row = 0; row < rows;) {
      const size_t block = RowBlock(rows - row, kRowBlockMax);
      TileOf(block, a + (row * groups + group * block) * kElementBytes, count,
             panel + group * kGroupBytes, group == 0, sums + row * kPanelOutputs);
      row += block;
    }
  }
  for (size_t row = 0; row < rows; ++row) ScaleRow(panel, groups, sums + row * kPanelOutputs);
}

template <size_t P>
LOLA_INT8_DOT __attribute__((noinline)) void SingleSums(const std::byte* a, size_t groups,
                                                        const std::byte* w, size_t panel_bytes,
                                                        float* sums) {
  constexpr size_t kAhead = 1024;
  __m512 total[P][2];
  LOLA_UNROLL(4)
  for (size_t i = 0; i < P; ++i) total[i][0] = total[i][1] = _mm512_setzero_ps();
  for (size_t g = 0; g < groups; ++g, a += kElementBytes) {
    const float step = *reinterpret_cast<const float*>(a);
    const int* values = reinterpret_cast<const int*>(a) + 1;  // [0] is the offset
    __m512i acc[P][2];
    LOLA_UNROLL(4)
    for (size_t i = 0; i < P; ++i) acc[i][0] = acc[i][1] = _mm512_set1_epi32(values[0]);
    for (size_t quad = 0; quad < kQuads; ++quad) {
      const __m512i value = _mm512_set1_epi32(values[1 + quad]);
      LOLA_UNROLL(4)
      for (size_t i = 0; i < P; ++i) {
        const std::byte* row = w + i * panel_bytes + g * kGroupBytes + quad * kPanelOutputs * 4;
        _mm_prefetch(reinterpret_cast<const char*>(row + kAhead), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(row + kAhead + 64), _MM_HINT_T0);
        acc[i][0] = _mm512_dpbusd_epi32(acc[i][0], _mm512_loadu_si512(row), value);
        acc[i][1] = _mm512_dpbusd_epi32(acc[i][1], _mm512_loadu_si512(row + 64), value);
      }
    }
    LOLA_UNROLL(4)
    for (size_t i = 0; i < P; ++i) {
      total[i][0] = AddScaled(total[i][0], acc[i][0], step);
      total[i][1] = AddScaled(total[i][1], acc[i][1], step);
    }
  }
  for (size_t i = 0; i < P; ++i) {
    _mm512_storeu_ps(sums + i * kPanelOutputs, total[i][0]);
    _mm512_storeu_ps(sums + i * kPanelOutputs + 16, total[i][1]);
    ScaleRow(w + i * panel_bytes, groups, sums + i * kPanelOutputs);
  }
}

void SinglePanels(const void* packed, size_t groups, const std::byte* panel, size_t panel_bytes,
                  size_t panels, float* sums) {
  const auto* a = static_cast<const std::byte*>(packed);
  if (panels == 4) return SingleSums<4>(a, groups, panel, panel_bytes, sums);
  for (size_t i = 0; i < panels; ++i) {
    SingleSums<1>(a, groups, panel + i * panel_bytes, 0, sums + i * kPanelOutputs);
  }
}

void PackRows(const float* input, size_t stride, size_t rows, size_t in, void* packed) {
  auto* out = static_cast<std::byte*>(packed);
  for (size_t row = 0; row < rows;) {
    const size_t block = RowBlock(rows - row, kRowBlockMax);
    for (size_t i = 0; i < in; i += kInt8Group, out += block * kElementBytes) {
      std::byte* values = out + block * (sizeof(float) + sizeof(int32_t));
      for (size_t r = 0; r < block; ++r) {
        int8_t p[kInt8Group];
        const Int8GroupInfo info =
            QuantizeGroup(input + (row + r) * stride + i, std::min(kInt8Group, in - i), p);
        std::memcpy(out + r * sizeof(float), &info.step, sizeof(float));
        std::memcpy(out + (block + r) * sizeof(float), &info.offset, sizeof(int32_t));
        for (size_t quad = 0; quad < kQuads; ++quad) {
          std::memcpy(values + (quad * block + r) * 4, p + quad * 4, 4);
        }
      }
    }
    row += block;
  }
}

}  // namespace

const GemmKernels* Int8DotKernels() {
  static constexpr GemmKernels kKernels = {kElementBytes, 1, PackRows, PanelSums, SinglePanels};
  static const bool available = HasInt8Dot();
  return available ? &kKernels : nullptr;
}

}  // namespace lola::kernels

#else  // not x86-64

namespace lola::kernels {
const GemmKernels* Int8DotKernels() { return nullptr; }
}  // namespace lola::kernels

#endif
