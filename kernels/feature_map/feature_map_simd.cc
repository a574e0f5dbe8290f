#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/feature_map/feature_map_simd.cc"
#include "hwy/foreach_target.h"

#include "kernels/core/check.h"
#include "kernels/core/simd-inl.h"
#include "kernels/feature_map/feature_map.h"

HWY_BEFORE_NAMESPACE();
namespace lola::kernels {
namespace HWY_NAMESPACE {

// out[0..n) = max(softmax(sign * z), floor); z lies in out or elsewhere, n a multiple of 16.
HWY_INLINE void SoftmaxRow(const float* z, float sign, size_t n, float* out) {
  const DF df;
  const VF vsign = hn::Set(df, sign);
  VF top = hn::Mul(vsign, LoadF(z));
  for (size_t j = kLanes; j < n; j += kLanes) top = hn::Max(top, hn::Mul(vsign, LoadF(z + j)));
  const VF shift = hn::Set(df, ReduceMax(top));
  VF sum = hn::Zero(df);
  for (size_t j = 0; j < n; j += kLanes) {
    const VF e = Exp(hn::Sub(hn::Mul(vsign, LoadF(z + j)), shift));
    hn::StoreU(e, df, out + j);
    sum = hn::Add(sum, e);
  }
  const VF inverse = hn::Set(df, 1.0f / ReduceSum(sum));
  const VF floor = hn::Set(df, kFeatureFloor);
  for (size_t j = 0; j < n; j += kLanes) {
    const VF feature = hn::Mul(LoadF(out + j), inverse);
    // Written so that NaN passes through: max would hide it.
    hn::StoreU(hn::IfThenElse(hn::Lt(feature, floor), floor, feature), df, out + j);
  }
}

template <size_t R, size_t NV>
HWY_INLINE void MapColumns(const FeatureMapParams& p, size_t row, size_t column) {
  VF acc[R][NV];
  TileZero(acc);
  const float* b[NV];
  for (size_t c = 0; c < NV; ++c) b[c] = p.map + column + c * kLanes;
  TileAccumulate<R, NV>(p.head_dim, p.input + row * p.input_stride, p.input_stride, 1, b, p.map_dim,
                        acc);
  for (size_t r = 0; r < R; ++r) {
    float* z = p.output + (row + r) * 2 * p.map_dim;
    for (size_t c = 0; c < NV; ++c) hn::StoreU(acc[r][c], DF(), z + column + c * kLanes);
  }
}

template <size_t R>
HWY_NOINLINE void MapRows(const FeatureMapParams& p, size_t row) {
  size_t column = 0;
  for (; column + 2 * kLanes <= p.map_dim; column += 2 * kLanes) MapColumns<R, 2>(p, row, column);
  for (; column < p.map_dim; column += kLanes) MapColumns<R, 1>(p, row, column);
  for (size_t r = row; r < row + R; ++r) {
    float* z = p.output + r * 2 * p.map_dim;
    SoftmaxRow(z, -1.0f, p.map_dim, z + p.map_dim);
    SoftmaxRow(z, 1.0f, p.map_dim, z);
  }
}

void FeatureMapSimd(const FeatureMapParams& p) {
  constexpr size_t kRows = kManyRegisters ? 8 : 4;
  size_t row = 0;
  for (; row + kRows <= p.rows; row += kRows) MapRows<kRows>(p, row);
  for (; row + 4 <= p.rows; row += 4) MapRows<4>(p, row);
  for (; row < p.rows; ++row) MapRows<1>(p, row);
}

}  // namespace HWY_NAMESPACE
}  // namespace lola::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lola::kernels {

HWY_EXPORT(FeatureMapSimd);

void FeatureMap(const FeatureMapParams& params) {
  LOLA_CHECK(params.map_dim % 16 == 0 && params.map_dim > 0) << "map_dim " << params.map_dim;
  HWY_DYNAMIC_DISPATCH(FeatureMapSimd)(params);
}

}  // namespace lola::kernels
#endif  // HWY_ONCE
