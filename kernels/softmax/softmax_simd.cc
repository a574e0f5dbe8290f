#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/softmax/softmax_simd.cc"
#include <algorithm>
#include <cmath>

#include "hwy/foreach_target.h"

#include "kernels/core/check.h"
#include "kernels/core/simd-inl.h"
#include "kernels/softmax/softmax.h"

HWY_BEFORE_NAMESPACE();
namespace lola::kernels {
namespace HWY_NAMESPACE {

// out[i] = exp(scale * (x[i] - top)); returns their sum: vectors ascending in float64 lanes would
// cost twice, so blocks of 1024 are summed in float32 and the blocks in float64.
double ExpSumSimd(const float* x, size_t n, float scale, float top, float* out) {
  const DF df;
  const VF vscale = hn::Set(df, scale);
  const VF vtop = hn::Set(df, top);
  double total = 0;
  VF block = hn::Zero(df);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const VF e = Exp(hn::Mul(vscale, hn::Sub(LoadF(x + i), vtop)));
    hn::StoreU(e, df, out + i);
    block = hn::Add(block, e);
    if (i % 1024 == 1024 - kLanes) {
      total += ReduceSum(block);
      block = hn::Zero(df);
    }
  }
  total += ReduceSum(block);
  if (i < n) {
    HWY_ALIGN float tail[kLanes];
    std::fill(tail, tail + kLanes, -INFINITY);  // exp gives 0
    std::copy(x + i, x + n, tail);
    const VF e = Exp(hn::Mul(vscale, hn::Sub(LoadF(tail), vtop)));
    hn::StoreU(e, df, tail);
    total += ReduceSum(e);
    std::copy(tail, tail + (n - i), out + i);
  }
  return total;
}

void ScaleSimd(float* x, size_t n, float factor) {
  const DF df;
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    hn::StoreU(hn::Mul(LoadF(x + i), hn::Set(df, factor)), df, x + i);
  }
  for (; i < n; ++i) x[i] *= factor;
}

}  // namespace HWY_NAMESPACE
}  // namespace lola::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lola::kernels {

HWY_EXPORT(ExpSumSimd);
HWY_EXPORT(ScaleSimd);

size_t ArgMax(const float* values, size_t n) {
  LOLA_CHECK(n > 0);
  size_t best = 0;
  bool found = !std::isnan(values[0]);
  for (size_t i = 1; i < n; ++i) {
    if (values[i] > values[best] || (!found && !std::isnan(values[i]))) {
      best = i;
      found = true;
    }
  }
  return best;
}

double Softmax(const float* logits, size_t n, float scale, float* probabilities) {
  LOLA_CHECK(n > 0 && scale > 0) << "n " << n << " scale " << scale;
  const float top = logits[ArgMax(logits, n)];
  const double sum = HWY_DYNAMIC_DISPATCH(ExpSumSimd)(logits, n, scale, top, probabilities);
  HWY_DYNAMIC_DISPATCH(ScaleSimd)(probabilities, n, static_cast<float>(1.0 / sum));
  return std::log(sum) + static_cast<double>(scale) * top;
}

}  // namespace lola::kernels
#endif  // HWY_ONCE
