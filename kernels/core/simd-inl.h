// Vector vocabulary of the kernels, compiled once per instruction set (Highway's foreach_target).
// Included by *_simd.cc files only, after hwy/foreach_target.h.
//
// Everything here keeps the determinism rule: an element's value never depends on its lane, and a
// reduction's order depends on its length alone.
#if defined(LOLA_KERNELS_CORE_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOLA_KERNELS_CORE_SIMD_INL_H_
#undef LOLA_KERNELS_CORE_SIMD_INL_H_
#else
#define LOLA_KERNELS_CORE_SIMD_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/core/bf16.h"
#include "kernels/core/float8.h"

HWY_BEFORE_NAMESPACE();
namespace lola::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Loops over register tiles must be unrolled whole, or the tile lives in memory.
#undef LOLA_UNROLL_TEXT
#undef LOLA_UNROLL
#define LOLA_UNROLL_TEXT(text) _Pragma(#text)
#define LOLA_UNROLL(times) LOLA_UNROLL_TEXT(GCC unroll times)

using DF = hn::CappedTag<float, 16>;
using VF = hn::Vec<DF>;
inline constexpr size_t kLanes = HWY_LANES(float) < 16 ? HWY_LANES(float) : 16;
// Wide vectors come with 32 registers.
inline constexpr bool kManyRegisters = kLanes == 16;

HWY_INLINE VF LoadF(const float* p) { return hn::LoadU(DF(), p); }

HWY_INLINE VF LoadF(const BFloat16* p) {
  const DF df;
  const hn::RebindToUnsigned<DF> du;
  const hn::Rebind<uint16_t, DF> du16;
  const auto bits = hn::LoadU(du16, reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(df, hn::ShiftLeft<16>(hn::PromoteTo(du, bits)));
}

// Without the row's power of two.
HWY_INLINE VF LoadF(const Float8* p) {
  const DF df;
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<uint8_t, DF> du8;
  const auto code = hn::PromoteTo(di, hn::LoadU(du8, reinterpret_cast<const uint8_t*>(p)));
  const auto magnitude = hn::And(code, hn::Set(di, 0x7f));
  const auto normal = hn::Add(hn::ShiftLeft<20>(magnitude), hn::Set(di, 120 << 23));
  const VF subnormal = hn::Mul(hn::ConvertTo(df, magnitude), hn::Set(df, 0x1p-9f));
  const auto size =
      hn::IfThenElse(hn::Lt(magnitude, hn::Set(di, 8)), hn::BitCast(di, subnormal), normal);
  return hn::BitCast(df, hn::Or(size, hn::ShiftLeft<24>(hn::Xor(code, magnitude))));
}

// Powers of two of kLanes rows.
HWY_INLINE VF LoadScales(const int8_t* exponents) {
  const DF df;
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<int8_t, DF> di8;
  const auto exponent = hn::PromoteTo(di, hn::LoadU(di8, exponents));
  return hn::BitCast(df, hn::ShiftLeft<23>(hn::Add(exponent, hn::Set(di, 127))));
}

// acc[r][c] += sum over i ascending of a[r, i] * b_c[i, lanes]: R rows times NV vectors of columns.
// a[r, i] lies at a + r * a_row + i * a_k; vector c of row i of b at b[c] + i * b_k.
template <size_t R, size_t NV, typename T>
HWY_INLINE void TileAccumulate(size_t k, const float* a, size_t a_row, size_t a_k,
                               const T* const (&b)[NV], size_t b_k, VF (&acc)[R][NV]) {
  const DF df;
  for (size_t i = 0; i < k; ++i) {
    VF columns[NV];
    LOLA_UNROLL(2) for (size_t c = 0; c < NV; ++c) columns[c] = LoadF(b[c] + i * b_k);
    LOLA_UNROLL(12) for (size_t r = 0; r < R; ++r) {
      const VF value = hn::Set(df, a[r * a_row + i * a_k]);
      LOLA_UNROLL(2)
      for (size_t c = 0; c < NV; ++c) acc[r][c] = hn::MulAdd(value, columns[c], acc[r][c]);
    }
  }
}

template <size_t R, size_t NV>
HWY_INLINE void TileZero(VF (&acc)[R][NV]) {
  LOLA_UNROLL(12) for (size_t r = 0; r < R; ++r) {
    LOLA_UNROLL(2) for (size_t c = 0; c < NV; ++c) acc[r][c] = hn::Zero(DF());
  }
}

// exp(x) with a relative error below 2e-7; 0 below -87.3, NaN stays NaN. REQUIRES: x < 88.
HWY_INLINE VF Exp(VF x) {
  const DF df;
  const hn::RebindToSigned<DF> di;
  const VF low = hn::Set(df, -87.3f);
  const auto underflow = hn::Lt(x, low);  // false for NaN, which then runs through the polynomial
  const VF safe = hn::IfThenElse(underflow, low, x);
  const VF n = hn::Round(hn::Mul(safe, hn::Set(df, 1.44269504088896341f)));
  // safe - n * ln 2 in two parts, so that the product with n is exact in the first.
  VF r = hn::NegMulAdd(n, hn::Set(df, 0.693359375f), safe);
  r = hn::NegMulAdd(n, hn::Set(df, -2.12194440e-4f), r);
  VF p = hn::Set(df, 1.9875691500e-4f);
  p = hn::MulAdd(p, r, hn::Set(df, 1.3981999507e-3f));
  p = hn::MulAdd(p, r, hn::Set(df, 8.3334519073e-3f));
  p = hn::MulAdd(p, r, hn::Set(df, 4.1665795894e-2f));
  p = hn::MulAdd(p, r, hn::Set(df, 1.6666665459e-1f));
  p = hn::MulAdd(p, r, hn::Set(df, 5.0000001201e-1f));
  p = hn::MulAdd(p, hn::Mul(r, r), hn::Add(r, hn::Set(df, 1.0f)));
  const auto exponent = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, n), hn::Set(di, 127)));
  return hn::IfThenZeroElse(underflow, hn::Mul(p, hn::BitCast(df, exponent)));
}

// Sum of all lanes in one fixed order.
HWY_INLINE float ReduceSum(VF v) { return hn::GetLane(hn::SumOfLanes(DF(), v)); }
HWY_INLINE float ReduceMax(VF v) { return hn::GetLane(hn::MaxOfLanes(DF(), v)); }

// sum over i of a[i] * b[i]. REQUIRES: n is a multiple of 16.
HWY_INLINE float Dot16(const float* a, const float* b, size_t n) {
  VF sum = hn::Zero(DF());
  for (size_t i = 0; i < n; i += kLanes) sum = hn::MulAdd(LoadF(a + i), LoadF(b + i), sum);
  return ReduceSum(sum);
}

}  // namespace HWY_NAMESPACE
}  // namespace lola::kernels
HWY_AFTER_NAMESPACE();

#endif  // LOLA_KERNELS_CORE_SIMD_INL_H_
