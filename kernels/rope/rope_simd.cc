#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rope/rope_simd.cc"
#include "hwy/foreach_target.h"

#include "kernels/core/check.h"
#include "kernels/core/simd-inl.h"
#include "kernels/rope/rope.h"

HWY_BEFORE_NAMESPACE();
namespace lola::kernels {
namespace HWY_NAMESPACE {

// Half a vector at least: head_dim is a multiple of 16, so half is a multiple of 8.
using DH = hn::CappedTag<float, 8>;

void RotateRowSimd(const float* x, const float* cos, const float* sin, size_t head_dim,
                   bool inverse, float* out) {
  const DH dh;
  const size_t half = head_dim / 2;
  const auto sign = hn::Set(dh, inverse ? -1.0f : 1.0f);
  for (size_t i = 0; i < half; i += hn::Lanes(dh)) {
    const auto c = hn::LoadU(dh, cos + i);
    const auto s = hn::Mul(hn::LoadU(dh, sin + i), sign);
    const auto a = hn::LoadU(dh, x + i);
    const auto b = hn::LoadU(dh, x + i + half);
    hn::StoreU(hn::NegMulAdd(b, s, hn::Mul(a, c)), dh, out + i);
    hn::StoreU(hn::MulAdd(a, s, hn::Mul(b, c)), dh, out + i + half);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lola::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lola::kernels {

HWY_EXPORT(RotateRowSimd);

void RotateRow(const float* x, const float* cos, const float* sin, size_t head_dim, bool inverse,
               float* out) {
  LOLA_CHECK(head_dim % 16 == 0) << "head_dim " << head_dim;
  HWY_DYNAMIC_DISPATCH(RotateRowSimd)(x, cos, sin, head_dim, inverse, out);
}

}  // namespace lola::kernels
#endif  // HWY_ONCE
