#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/recall_score/recall_score_simd.cc"
#include "hwy/foreach_target.h"

#include "kernels/core/check.h"
#include "kernels/core/simd-inl.h"
#include "kernels/recall_score/recall_score.h"

HWY_BEFORE_NAMESPACE();
namespace lola::kernels {
namespace HWY_NAMESPACE {

template <size_t R, size_t NV>
HWY_INLINE void ScoreColumns(const RecallScoreParams& p, size_t row, size_t column,
                             const float (&inverse)[R], const float (&own)[R], VF (&error)[R]) {
  const DF df;
  const size_t d = p.head_dim;
  VF acc[R][NV];
  TileZero(acc);
  if (!p.empty_state) {
    const float* b[NV];
    for (size_t c = 0; c < NV; ++c) b[c] = p.h + column + c * kLanes;
    TileAccumulate<R, NV>(p.feature_dim, p.features + row * p.feature_dim, p.feature_dim, 1, b, d,
                          acc);
  }
  LOLA_UNROLL(8)
  for (size_t r = 0; r < R; ++r) {
    const VF scale = hn::Set(df, inverse[r]);
    const VF self = hn::Set(df, own[r]);
    LOLA_UNROLL(2)
    for (size_t c = 0; c < NV; ++c) {
      const VF v = LoadF(p.values + (row + r) * d + column + c * kLanes);
      if (p.leave_self_out) acc[r][c] = hn::NegMulAdd(self, v, acc[r][c]);
      const VF difference = hn::Sub(hn::Mul(acc[r][c], scale), v);
      error[r] = hn::MulAdd(difference, difference, error[r]);
    }
  }
}

template <size_t R>
HWY_NOINLINE void ScoreRows(const RecallScoreParams& p, size_t row) {
  float inverse[R];
  float own[R];
  VF error[R];
  for (size_t r = 0; r < R; ++r) {
    const float* phi = p.features + (row + r) * p.feature_dim;
    own[r] = p.leave_self_out ? Dot16(phi, phi, p.feature_dim) : 0.0f;
    const float mass = Dot16(phi, p.s, p.feature_dim) - own[r];
    inverse[r] = 1.0f / (mass + p.epsilon);
    error[r] = hn::Zero(DF());
  }
  size_t column = 0;
  for (; column + 2 * kLanes <= p.head_dim; column += 2 * kLanes) {
    ScoreColumns<R, 2>(p, row, column, inverse, own, error);
  }
  for (; column < p.head_dim; column += kLanes) {
    ScoreColumns<R, 1>(p, row, column, inverse, own, error);
  }
  for (size_t r = 0; r < R; ++r) p.scores[row + r] = ReduceSum(error[r]);
}

void RecallScoreSimd(const RecallScoreParams& p) {
  size_t row = 0;
  if constexpr (kManyRegisters) {
    for (; row + 8 <= p.rows; row += 8) ScoreRows<8>(p, row);
  }
  for (; row + 4 <= p.rows; row += 4) ScoreRows<4>(p, row);
  for (; row < p.rows; ++row) ScoreRows<1>(p, row);
}

}  // namespace HWY_NAMESPACE
}  // namespace lola::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lola::kernels {

HWY_EXPORT(RecallScoreSimd);

void RecallScore(const RecallScoreParams& params) {
  LOLA_CHECK(params.head_dim % 16 == 0 && params.feature_dim % 16 == 0)
      << "head_dim " << params.head_dim << " feature_dim " << params.feature_dim;
  // An empty state recalls nothing: the error is the value itself, whatever epsilon is.
  if (params.empty_state) {
    RecallScoreParams zero = params;
    zero.epsilon = 1.0f;
    zero.leave_self_out = false;
    HWY_DYNAMIC_DISPATCH(RecallScoreSimd)(zero);
    return;
  }
  HWY_DYNAMIC_DISPATCH(RecallScoreSimd)(params);
}

}  // namespace lola::kernels
#endif  // HWY_ONCE
