#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/norm/rms_norm_simd.cc"
#include <algorithm>
#include <cmath>

#include "hwy/foreach_target.h"

#include "kernels/core/check.h"
#include "kernels/core/simd-inl.h"
#include "kernels/norm/rms_norm.h"

HWY_BEFORE_NAMESPACE();
namespace lola::kernels {
namespace HWY_NAMESPACE {

HWY_INLINE void NormRow(const float* x, const float* weight, float eps, size_t n, float* y) {
  const DF df;
  VF sum0 = hn::Zero(df);
  VF sum1 = hn::Zero(df);
  size_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const VF a = LoadF(x + i);
    const VF b = LoadF(x + i + kLanes);
    sum0 = hn::MulAdd(a, a, sum0);
    sum1 = hn::MulAdd(b, b, sum1);
  }
  float tail = 0;
  for (size_t j = i; j < n; ++j) tail += x[j] * x[j];
  const float mean = (ReduceSum(hn::Add(sum0, sum1)) + tail) / static_cast<float>(n);
  const float scale = 1.0f / std::sqrt(mean + eps);
  const VF vscale = hn::Set(df, scale);
  for (i = 0; i + kLanes <= n; i += kLanes) {
    hn::StoreU(hn::Mul(hn::Mul(LoadF(x + i), vscale), LoadF(weight + i)), df, y + i);
  }
  for (; i < n; ++i) y[i] = x[i] * scale * weight[i];
}

void RmsNormSimd(const float* input, const float* weight, float eps, size_t rows, size_t n,
                 float* output) {
  for (size_t r = 0; r < rows; ++r) NormRow(input + r * n, weight, eps, n, output + r * n);
}

}  // namespace HWY_NAMESPACE
}  // namespace lola::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lola::kernels {

HWY_EXPORT(RmsNormSimd);

void RmsNormRows(const float* input, const float* weight, float eps, size_t rows, size_t n,
                 float* output, ThreadPool& pool) {
  LOLA_CHECK(n > 0);
  const auto run = [&](size_t begin, size_t end) {
    HWY_DYNAMIC_DISPATCH(RmsNormSimd)
    (input + begin * n, weight, eps, end - begin, n, output + begin * n);
  };
  constexpr size_t kFloatsPerPiece = 1 << 16;
  const size_t piece = std::max<size_t>(1, kFloatsPerPiece / n);
  if (pool.threads() == 1 || rows <= piece) return run(0, rows);
  pool.ParallelFor((rows + piece - 1) / piece, [&](size_t index, int) {
    run(index * piece, std::min(rows, (index + 1) * piece));
  });
}

}  // namespace lola::kernels
#endif  // HWY_ONCE
