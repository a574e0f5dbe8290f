#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemm/gemm_simd.cc"
#include <algorithm>
#include <cstring>

#include "hwy/foreach_target.h"

#include "kernels/core/simd-inl.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/gemm_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace lola::kernels {
namespace HWY_NAMESPACE {

inline constexpr size_t kRowBlockMax = kManyRegisters ? 12 : 4;

// Widened halves of a vector of bfloat16 pairs.
HWY_INLINE void LoadPairs(const float* p, VF& even, VF& odd) {
  const DF df;
  const hn::RebindToUnsigned<DF> du;
  const auto bits = hn::BitCast(du, LoadF(p));
  even = hn::BitCast(df, hn::ShiftLeft<16>(bits));
  odd = hn::BitCast(df, hn::And(bits, hn::Set(du, 0xffff0000u)));
}

// One step of one tile: acc[r][c] += a[r] * w[c], or both products of a pair, first the even one.
template <bool kPairs, size_t R>
HWY_INLINE void Step(const float* a, const float* w, VF (&acc)[R][2]) {
  const DF df;
  if constexpr (kPairs) {
    VF even[2], odd[2];
    LoadPairs(w, even[0], odd[0]);
    LoadPairs(w + kLanes, even[1], odd[1]);
    LOLA_UNROLL(12)
    for (size_t r = 0; r < R; ++r) {
      const VF first = hn::Set(df, a[2 * r]);
      const VF second = hn::Set(df, a[2 * r + 1]);
      acc[r][0] = hn::MulAdd(second, odd[0], hn::MulAdd(first, even[0], acc[r][0]));
      acc[r][1] = hn::MulAdd(second, odd[1], hn::MulAdd(first, even[1], acc[r][1]));
    }
  } else {
    const VF w0 = LoadF(w);
    const VF w1 = LoadF(w + kLanes);
    LOLA_UNROLL(12)
    for (size_t r = 0; r < R; ++r) {
      const VF value = hn::Set(df, a[r]);
      acc[r][0] = hn::MulAdd(value, w0, acc[r][0]);
      acc[r][1] = hn::MulAdd(value, w1, acc[r][1]);
    }
  }
}

// Continues the sums of R rows and two vectors of outputs over `steps` steps.
template <bool kPairs, size_t R>
HWY_NOINLINE void Tile(const float* a, size_t steps, const float* w, bool first, float* sums) {
  const DF df;
  constexpr size_t kElement = kPairs ? 2 : 1;
  VF acc[R][2];
  LOLA_UNROLL(12)
  for (size_t r = 0; r < R; ++r) {
    acc[r][0] = first ? hn::Zero(df) : LoadF(sums + r * kPanelOutputs);
    acc[r][1] = first ? hn::Zero(df) : LoadF(sums + r * kPanelOutputs + kLanes);
  }
  for (size_t i = 0; i < steps; ++i) {
    Step<kPairs, R>(a + i * R * kElement, w + i * kPanelOutputs, acc);
  }
  LOLA_UNROLL(12)
  for (size_t r = 0; r < R; ++r) {
    hn::StoreU(acc[r][0], df, sums + r * kPanelOutputs);
    hn::StoreU(acc[r][1], df, sums + r * kPanelOutputs + kLanes);
  }
}

template <bool kPairs>
HWY_INLINE void TileOf(size_t block, const float* a, size_t steps, const float* w, bool first,
                       float* sums) {
  for (size_t c = 0; c < kPanelOutputs; c += 2 * kLanes) {
    switch (block) {
      case 12:
        if constexpr (kManyRegisters) Tile<kPairs, 12>(a, steps, w + c, first, sums + c);
        break;
      case 8:
        if constexpr (kManyRegisters) Tile<kPairs, 8>(a, steps, w + c, first, sums + c);
        break;
      case 4:
        Tile<kPairs, 4>(a, steps, w + c, first, sums + c);
        break;
      case 2:
        Tile<kPairs, 2>(a, steps, w + c, first, sums + c);
        break;
      default:
        Tile<kPairs, 1>(a, steps, w + c, first, sums + c);
    }
  }
}

template <bool kPairs>
void PanelSums(const void* packed, size_t rows, size_t steps, const std::byte* panel, float* sums) {
  constexpr size_t kElement = kPairs ? 2 : 1;
  const float* a = static_cast<const float*>(packed);
  const float* w = reinterpret_cast<const float*>(panel);
  for (size_t step = 0; step < steps; step += kStepsPerSlice) {
    const size_t count = std::min(kStepsPerSlice, steps - step);
    for (size_t row = 0; row < rows;) {
      const size_t block = RowBlock(rows - row, kRowBlockMax);
      TileOf<kPairs>(block, a + (row * steps + step * block) * kElement, count,
                     w + step * kPanelOutputs, step == 0, sums + row * kPanelOutputs);
      row += block;
    }
  }
}

// P panels at once for one row; each panel is a stream of its own.
template <bool kPairs, size_t P>
HWY_NOINLINE void SingleSums(const float* a, size_t steps, const float* w, size_t panel_floats,
                             float* sums) {
  const DF df;
  constexpr size_t kElement = kPairs ? 2 : 1;
  constexpr size_t kAhead = 1024;  // bytes; the hardware fetches page by page only
  for (size_t c = 0; c < kPanelOutputs; c += 2 * kLanes) {
    VF acc[P][1][2];
    LOLA_UNROLL(4)
    for (size_t i = 0; i < P; ++i) TileZero(acc[i]);
    for (size_t step = 0; step < steps; ++step) {
      LOLA_UNROLL(4)
      for (size_t i = 0; i < P; ++i) {
        const float* row = w + i * panel_floats + step * kPanelOutputs + c;
        __builtin_prefetch(row + kAhead / 4);
        if constexpr (kLanes == 16) __builtin_prefetch(row + kAhead / 4 + 16);
        Step<kPairs, 1>(a + step * kElement, row, acc[i]);
      }
    }
    for (size_t i = 0; i < P; ++i) {
      hn::StoreU(acc[i][0][0], df, sums + i * kPanelOutputs + c);
      hn::StoreU(acc[i][0][1], df, sums + i * kPanelOutputs + c + kLanes);
    }
  }
}

template <bool kPairs>
void SinglePanels(const void* packed, size_t steps, const std::byte* panel, size_t panel_bytes,
                  size_t panels, float* sums) {
  const float* a = static_cast<const float*>(packed);
  const float* w = reinterpret_cast<const float*>(panel);
  if (panels == 4) return SingleSums<kPairs, 4>(a, steps, w, panel_bytes / 4, sums);
  for (size_t i = 0; i < panels; ++i) {
    SingleSums<kPairs, 1>(a, steps, w + i * panel_bytes / 4, 0, sums + i * kPanelOutputs);
  }
}

template <bool kPairs>
void PackRows(const float* input, size_t stride, size_t rows, size_t in, void* packed) {
  float* out = static_cast<float*>(packed);
  for (size_t row = 0; row < rows;) {
    const size_t block = RowBlock(rows - row, kRowBlockMax);
    for (size_t r = 0; r < block; ++r) {
      const float* x = input + (row + r) * stride;
      if constexpr (kPairs) {
        for (size_t i = 0; i < in; ++i) {
          out[(i / 2 * block + r) * 2 + i % 2] = ToFloat(ToBFloat16(x[i]));
        }
        if (in % 2 == 1) out[(in / 2 * block + r) * 2 + 1] = 0.0f;
      } else {
        for (size_t i = 0; i < in; ++i) out[i * block + r] = x[i];
      }
    }
    out += block * (kPairs ? (in + 1) / 2 * 2 : in);
    row += block;
  }
}

const GemmKernels* Float32KernelsSimd() {
  static constexpr GemmKernels kKernels = {4, 1, PackRows<false>, PanelSums<false>,
                                           SinglePanels<false>};
  return &kKernels;
}

const GemmKernels* BFloat16KernelsSimd() {
  static constexpr GemmKernels kKernels = {8, 1, PackRows<true>, PanelSums<true>,
                                           SinglePanels<true>};
  return &kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace lola::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lola::kernels {

HWY_EXPORT(Float32KernelsSimd);
HWY_EXPORT(BFloat16KernelsSimd);

const GemmKernels& Float32Kernels() { return *HWY_DYNAMIC_DISPATCH(Float32KernelsSimd)(); }
const GemmKernels& BFloat16Kernels() { return *HWY_DYNAMIC_DISPATCH(BFloat16KernelsSimd)(); }

}  // namespace lola::kernels
#endif  // HWY_ONCE
