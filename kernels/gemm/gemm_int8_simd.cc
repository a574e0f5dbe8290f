// int8 products for processors without a byte dot instruction: weights and quantised inputs are
// widened to floats, whose sums stay below 2^24 and are exact. The same bits as gemm_int8_dot.cc.
//
// Packed rows: per block of R rows and group of 64 inputs R steps, R offsets, [64, R] inputs, all
// floats.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemm/gemm_int8_simd.cc"
#include <algorithm>
#include <cstring>

#include "hwy/foreach_target.h"

#include "kernels/core/simd-inl.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/gemm_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace lola::kernels {
namespace HWY_NAMESPACE {

inline constexpr size_t kInt8RowBlockMax = kManyRegisters ? 8 : 4;
inline constexpr size_t kInt8Element = kInt8Group + 2;  // floats of a row's group
inline constexpr size_t kInt8GroupBytes = kInt8Group * kPanelOutputs;

// Byte `index` of every 32-bit lane as a float.
HWY_INLINE VF ByteOf(hn::Vec<hn::RebindToSigned<DF>> words, int index) {
  const hn::RebindToSigned<DF> di;
  const hn::RebindToUnsigned<DF> du;
  const auto bits = hn::ShiftRightSame(hn::BitCast(du, words), 8 * index);
  return hn::ConvertTo(DF(), hn::BitCast(di, hn::And(bits, hn::Set(du, 0xffu))));
}

// Continues the sums of R rows and one vector of outputs over all groups.
template <size_t R>
HWY_NOINLINE void Int8Tile(const float* a, size_t groups, const std::byte* w, float* sums) {
  const DF df;
  const hn::RebindToSigned<DF> di;
  VF total[R];
  LOLA_UNROLL(8)
  for (size_t r = 0; r < R; ++r) total[r] = hn::Zero(df);
  for (size_t g = 0; g < groups; ++g, a += R * kInt8Element, w += kInt8GroupBytes) {
    VF acc[R];
    LOLA_UNROLL(8)
    for (size_t r = 0; r < R; ++r) acc[r] = hn::Set(df, a[R + r]);
    for (size_t i = 0; i < kInt8Group; i += 4) {
      const auto words = hn::LoadU(di, reinterpret_cast<const int32_t*>(w + i * kPanelOutputs));
      for (size_t j = 0; j < 4; ++j) {
        const VF weight = ByteOf(words, static_cast<int>(j));
        LOLA_UNROLL(8)
        for (size_t r = 0; r < R; ++r) {
          acc[r] = hn::MulAdd(hn::Set(df, a[(2 + i + j) * R + r]), weight, acc[r]);
        }
      }
    }
    LOLA_UNROLL(8)
    for (size_t r = 0; r < R; ++r) {
      total[r] = hn::Add(total[r], hn::Mul(acc[r], hn::Set(df, a[r])));
    }
  }
  LOLA_UNROLL(8)
  for (size_t r = 0; r < R; ++r) hn::StoreU(total[r], df, sums + r * kPanelOutputs);
}

HWY_INLINE void Int8TileOf(size_t block, const float* a, size_t groups, const std::byte* w,
                           float* sums) {
  switch (block) {
    case 8:
      if constexpr (kManyRegisters) Int8Tile<8>(a, groups, w, sums);
      break;
    case 4:
      Int8Tile<4>(a, groups, w, sums);
      break;
    case 2:
      Int8Tile<2>(a, groups, w, sums);
      break;
    default:
      Int8Tile<1>(a, groups, w, sums);
  }
}

void Int8PanelSums(const void* packed, size_t rows, size_t groups, const std::byte* panel,
                   float* sums) {
  const DF df;
  const float* a = static_cast<const float*>(packed);
  const auto* scales = reinterpret_cast<const float*>(panel + groups * kInt8GroupBytes);
  for (size_t c = 0; c < kPanelOutputs; c += kLanes) {
    for (size_t row = 0; row < rows;) {
      const size_t block = RowBlock(rows - row, kInt8RowBlockMax);
      Int8TileOf(block, a + row * groups * kInt8Element, groups, panel + c * 4,
                 sums + row * kPanelOutputs + c);
      row += block;
    }
    for (size_t row = 0; row < rows; ++row) {
      float* sum = sums + row * kPanelOutputs + c;
      hn::StoreU(hn::Mul(LoadF(sum), LoadF(scales + c)), df, sum);
    }
  }
}

void Int8SinglePanels(const void* packed, size_t groups, const std::byte* panel, size_t panel_bytes,
                      size_t panels, float* sums) {
  for (size_t i = 0; i < panels; ++i) {
    Int8PanelSums(packed, 1, groups, panel + i * panel_bytes, sums + i * kPanelOutputs);
  }
}

void Int8PackRows(const float* input, size_t stride, size_t rows, size_t in, void* packed) {
  float* out = static_cast<float*>(packed);
  for (size_t row = 0; row < rows;) {
    const size_t block = RowBlock(rows - row, kInt8RowBlockMax);
    for (size_t i = 0; i < in; i += kInt8Group, out += block * kInt8Element) {
      for (size_t r = 0; r < block; ++r) {
        int8_t p[kInt8Group];
        const Int8GroupInfo info =
            QuantizeGroup(input + (row + r) * stride + i, std::min(kInt8Group, in - i), p);
        out[r] = info.step;
        out[block + r] = static_cast<float>(info.offset);
        for (size_t j = 0; j < kInt8Group; ++j) out[(2 + j) * block + r] = p[j];
      }
    }
    row += block;
  }
}

const GemmKernels* Int8KernelsSimd() {
  static constexpr GemmKernels kKernels = {kInt8Element * sizeof(float), 1, Int8PackRows,
                                           Int8PanelSums, Int8SinglePanels};
  return &kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace lola::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lola::kernels {

HWY_EXPORT(Int8KernelsSimd);

const GemmKernels& Int8Kernels() { return *HWY_DYNAMIC_DISPATCH(Int8KernelsSimd)(); }

}  // namespace lola::kernels
#endif  // HWY_ONCE
