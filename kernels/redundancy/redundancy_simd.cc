#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/redundancy/redundancy_simd.cc"
#include <cmath>

#include "hwy/foreach_target.h"

#include "kernels/core/check.h"
#include "kernels/core/simd-inl.h"
#include "kernels/redundancy/redundancy.h"

HWY_BEFORE_NAMESPACE();
namespace lola::kernels {
namespace HWY_NAMESPACE {

// Values in blocks of sixteen rows, [rows / 16, head_dim, 16], so that lanes are rows; then the
// squared norms and the counts of the column side as floats (exact up to 2^24).
struct Tables {
  float* blocked;
  float* norms;
  float* column_counts;
};

// Distances of rows i .. i + R - 1 to the lanes of NV vectors of columns from j on. Only pairs with
// column > row are counted, for both of their rows: the distance is the same.
template <size_t R, size_t NV>
HWY_INLINE void CountTile(const RedundancyParams& p, const Tables& t, size_t i, size_t j,
                          VF (&row_counts)[R]) {
  const DF df;
  const size_t d = p.head_dim;
  VF acc[R][NV];
  TileZero(acc);
  const float* b[NV];
  for (size_t c = 0; c < NV; ++c) {
    const size_t column = j + c * kLanes;
    b[c] = t.blocked + column / 16 * 16 * d + column % 16;
  }
  TileAccumulate<R, NV>(d, p.values + i * d, d, 1, b, 16, acc);
  const VF limit = hn::Set(df, p.threshold * p.threshold);
  const VF one = hn::Set(df, 1.0f);
  const VF minus_two = hn::Set(df, -2.0f);
  const bool diagonal = j < i + R;
  LOLA_UNROLL(2)
  for (size_t c = 0; c < NV; ++c) {
    const size_t column = j + c * kLanes;
    const VF column_norm = LoadF(t.norms + column);
    const VF column_limit = hn::Mul(limit, column_norm);
    VF counts = LoadF(t.column_counts + column);
    LOLA_UNROLL(8)
    for (size_t r = 0; r < R; ++r) {
      const VF norm = hn::Set(df, t.norms[i + r]);
      VF distance = hn::MulAdd(minus_two, acc[r][c], hn::Add(norm, column_norm));
      if (diagonal) {
        const VF index = hn::Iota(df, static_cast<float>(column));
        const VF row = hn::Set(df, static_cast<float>(i + r));
        distance = hn::IfThenElse(hn::Gt(index, row), distance, hn::Set(df, INFINITY));
      }
      // A padding column has an infinite norm: never close to a row, its own count is not read.
      row_counts[r] =
          hn::Add(row_counts[r], hn::IfThenElseZero(hn::Le(distance, hn::Mul(limit, norm)), one));
      counts = hn::Add(counts, hn::IfThenElseZero(hn::Le(distance, column_limit), one));
    }
    hn::StoreU(counts, df, t.column_counts + column);
  }
}

template <size_t R>
HWY_NOINLINE void CountRows(const RedundancyParams& p, const Tables& t, size_t i) {
  VF row_counts[R];
  for (size_t r = 0; r < R; ++r) row_counts[r] = hn::Zero(DF());
  const size_t columns = (p.rows + 15) / 16 * 16;
  size_t j = i / kLanes * kLanes;
  for (; j + 2 * kLanes <= columns; j += 2 * kLanes) CountTile<R, 2>(p, t, i, j, row_counts);
  for (; j < columns; j += kLanes) CountTile<R, 1>(p, t, i, j, row_counts);
  for (size_t r = 0; r < R; ++r) {
    p.counts[i + r] = 1 + static_cast<uint32_t>(ReduceSum(row_counts[r]));
  }
}

void RedundancySimd(const RedundancyParams& p) {
  const size_t d = p.head_dim;
  const size_t columns = (p.rows + 15) / 16 * 16;
  const Tables t{p.scratch, p.scratch + columns * d, p.scratch + columns * (d + 1)};
  for (size_t j = 0; j < columns; ++j) {
    const bool live = j < p.rows;
    for (size_t k = 0; k < d; ++k) {
      t.blocked[j / 16 * 16 * d + k * 16 + j % 16] = live ? p.values[j * d + k] : 0.0f;
    }
    t.norms[j] = live ? Dot16(p.values + j * d, p.values + j * d, d) : INFINITY;
    t.column_counts[j] = 0;
  }
  size_t i = 0;
  if constexpr (kManyRegisters) {
    for (; i + 8 <= p.rows; i += 8) CountRows<8>(p, t, i);
  }
  for (; i + 4 <= p.rows; i += 4) CountRows<4>(p, t, i);
  for (; i < p.rows; ++i) CountRows<1>(p, t, i);
  for (size_t j = 0; j < p.rows; ++j) p.counts[j] += static_cast<uint32_t>(t.column_counts[j]);
}

}  // namespace HWY_NAMESPACE
}  // namespace lola::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lola::kernels {

HWY_EXPORT(RedundancySimd);

void Redundancy(const RedundancyParams& params) {
  LOLA_CHECK(params.head_dim % 16 == 0) << "head_dim " << params.head_dim;
  HWY_DYNAMIC_DISPATCH(RedundancySimd)(params);
}

}  // namespace lola::kernels
#endif  // HWY_ONCE
