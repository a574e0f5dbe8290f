#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/swiglu/swiglu_simd.cc"
#include <algorithm>

#include "hwy/foreach_target.h"

#include "kernels/core/check.h"
#include "kernels/core/simd-inl.h"
#include "kernels/swiglu/swiglu.h"

HWY_BEFORE_NAMESPACE();
namespace lola::kernels {
namespace HWY_NAMESPACE {

// With e = exp(-|x|): silu(x) = x / (1 + e) for x >= 0 and x e / (1 + e) below: never overflows.
HWY_INLINE VF SiluTimes(VF x, VF up) {
  const DF df;
  const VF one = hn::Set(df, 1.0f);
  const VF e = Exp(hn::Neg(hn::Abs(x)));
  const VF top = hn::IfThenElse(hn::Lt(x, hn::Zero(df)), hn::Mul(x, e), x);
  return hn::Mul(hn::Div(top, hn::Add(one, e)), up);
}

HWY_INLINE void SwigluRow(const float* gate, const float* up, size_t n, float* out) {
  const DF df;
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    hn::StoreU(SiluTimes(LoadF(gate + i), LoadF(up + i)), df, out + i);
  }
  if (i == n) return;
  // The tail runs through the same vector code, padded with zeros.
  HWY_ALIGN float padded_gate[kLanes] = {};
  HWY_ALIGN float padded_up[kLanes] = {};
  std::copy(gate + i, gate + n, padded_gate);
  std::copy(up + i, up + n, padded_up);
  hn::StoreU(SiluTimes(LoadF(padded_gate), LoadF(padded_up)), df, padded_gate);
  std::copy(padded_gate, padded_gate + (n - i), out + i);
}

void SwigluSimd(const SwigluParams& p, size_t begin, size_t end) {
  for (size_t r = begin; r < end; ++r) {
    SwigluRow(p.gate + r * p.gate_stride, p.up + r * p.up_stride, p.n,
              p.output + r * p.output_stride);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lola::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lola::kernels {

HWY_EXPORT(SwigluSimd);

void Swiglu(const SwigluParams& p, ThreadPool& pool) {
  if (p.n == 0) return;
  constexpr size_t kElementsPerPiece = 1 << 15;
  const size_t piece = std::max<size_t>(1, kElementsPerPiece / p.n);
  if (pool.threads() == 1 || p.rows <= piece) {
    HWY_DYNAMIC_DISPATCH(SwigluSimd)(p, 0, p.rows);
    return;
  }
  pool.ParallelFor((p.rows + piece - 1) / piece, [&](size_t index, int) {
    HWY_DYNAMIC_DISPATCH(SwigluSimd)(p, index * piece, std::min(p.rows, (index + 1) * piece));
  });
}

}  // namespace lola::kernels
#endif  // HWY_ONCE
