#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/absorb/absorb_simd.cc"
#include "hwy/foreach_target.h"

#include "kernels/absorb/absorb.h"
#include "kernels/core/check.h"
#include "kernels/core/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lola::kernels {
namespace HWY_NAMESPACE {

template <size_t R, size_t NV>
HWY_INLINE void AbsorbTile(const AbsorbParams& p, size_t feature, size_t column) {
  const DF df;
  VF acc[R][NV];
  TileZero(acc);
  const float* b[NV];
  for (size_t c = 0; c < NV; ++c) b[c] = p.values + column + c * kLanes;
  TileAccumulate<R, NV>(p.rows, p.features + feature, 1, p.feature_dim, b, p.head_dim, acc);
  LOLA_UNROLL(8)
  for (size_t r = 0; r < R; ++r) {
    LOLA_UNROLL(2)
    for (size_t c = 0; c < NV; ++c) {
      float* h = p.h + (feature + r) * p.head_dim + column + c * kLanes;
      hn::StoreU(hn::Add(LoadF(h), acc[r][c]), df, h);
    }
  }
}

template <size_t R>
HWY_NOINLINE void AbsorbFeatures(const AbsorbParams& p, size_t feature) {
  size_t column = 0;
  for (; column + 2 * kLanes <= p.head_dim; column += 2 * kLanes) {
    AbsorbTile<R, 2>(p, feature, column);
  }
  for (; column < p.head_dim; column += kLanes) AbsorbTile<R, 1>(p, feature, column);
}

void AbsorbMass(const AbsorbParams& p) {
  const DF df;
  for (size_t f = 0; f < p.feature_dim; f += kLanes) {
    VF batch = hn::Zero(df);
    for (size_t r = 0; r < p.rows; ++r)
      batch = hn::Add(batch, LoadF(p.features + r * p.feature_dim + f));
    const VF s = LoadF(p.s + f);
    const VF addend = hn::Add(batch, LoadF(p.s_correction + f));
    // Two-sum: total + lost == s + addend exactly.
    const VF total = hn::Add(s, addend);
    const VF addend_kept = hn::Sub(total, s);
    const VF s_kept = hn::Sub(total, addend_kept);
    const VF lost = hn::Add(hn::Sub(s, s_kept), hn::Sub(addend, addend_kept));
    hn::StoreU(total, df, p.s + f);
    hn::StoreU(lost, df, p.s_correction + f);
  }
}

void AbsorbSimd(const AbsorbParams& p) {
  constexpr size_t kRows = kManyRegisters ? 8 : 4;  // feature_dim is a multiple of 16
  for (size_t f = 0; f < p.feature_dim; f += kRows) AbsorbFeatures<kRows>(p, f);
  AbsorbMass(p);
}

}  // namespace HWY_NAMESPACE
}  // namespace lola::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lola::kernels {

HWY_EXPORT(AbsorbSimd);

void Absorb(const AbsorbParams& params) {
  LOLA_CHECK(params.head_dim % 16 == 0 && params.feature_dim % 16 == 0)
      << "head_dim " << params.head_dim << " feature_dim " << params.feature_dim;
  if (params.rows == 0) return;
  HWY_DYNAMIC_DISPATCH(AbsorbSimd)(params);
}

}  // namespace lola::kernels
#endif  // HWY_ONCE
