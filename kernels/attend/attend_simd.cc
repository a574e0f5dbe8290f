#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attend/attend_simd.cc"
#include <cmath>
#include <type_traits>

#include "hwy/foreach_target.h"

#include "kernels/attend/attend.h"
#include "kernels/core/check.h"
#include "kernels/core/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lola::kernels {
namespace HWY_NAMESPACE {

// Query rows row .. row + R - 1 of one call. Weights of all spans lie side by side in the scratch:
// row r at weights + r * columns. A pair that a row does not see gets the weight 0, which adds
// nothing to a sum; so a row's result does not depend on which rows share its block.
template <size_t R, typename T>
struct RowBlock {
  const AttendParams& p;
  size_t row;
  size_t columns;
  float* weights;
  float top[R];
  float sum[R];
  float linear_sum[R];

  static size_t LivePairs(const AttendSpan& span, size_t row) {
    return span.pairs + (span.causal ? row : 0);
  }
  size_t SpanColumns(const AttendSpan& span) const {
    return RoundUpToKeyBlock(LivePairs(span, row + R - 1));
  }

  template <size_t NV>
  HWY_INLINE void LogitColumns(const AttendSpan& span, size_t column, float* out, VF (&best)[R]) {
    const DF df;
    const size_t d = p.head_dim;
    VF acc[R][NV];
    TileZero(acc);
    const T* b[NV];
    for (size_t c = 0; c < NV; ++c) {
      b[c] = static_cast<const T*>(span.keys) + KeyOffset(column + c * kLanes, 0, d);
    }
    TileAccumulate<R, NV>(d, span.queries + row * d, d, 1, b, kKeyBlock, acc);
    VF scale[NV];
    LOLA_UNROLL(2) for (size_t c = 0; c < NV; ++c) {
      scale[c] = hn::Set(df, p.scale);
      if constexpr (std::is_same_v<T, Float8>) {
        scale[c] = hn::Mul(scale[c], LoadScales(span.key_exponents + column + c * kLanes));
      }
    }
    const VF lane = hn::Iota(df, 0.0f);
    const VF hidden = hn::Set(df, -INFINITY);
    const bool masked = column + NV * kLanes > LivePairs(span, row);
    LOLA_UNROLL(8) for (size_t r = 0; r < R; ++r) {
      const float live = masked ? static_cast<float>(LivePairs(span, row + r)) : 0.0f;
      LOLA_UNROLL(2) for (size_t c = 0; c < NV; ++c) {
        VF logit = hn::Mul(acc[r][c], scale[c]);
        const size_t at = column + c * kLanes;
        if (masked) {
          const VF pair = hn::Add(lane, hn::Set(df, static_cast<float>(at)));
          logit = hn::IfThenElse(hn::Lt(pair, hn::Set(df, live)), logit, hidden);
        }
        best[r] = hn::Max(best[r], logit);
        hn::StoreU(logit, df, out + r * columns + at);
      }
    }
  }

  void Logits() {
    const DF df;
    VF best[R];
    LOLA_UNROLL(8) for (size_t r = 0; r < R; ++r) best[r] = hn::Set(df, -INFINITY);
    float* out = weights;
    for (size_t s = 0; s < p.span_count; ++s) {
      const AttendSpan& span = p.spans[s];
      const size_t n = SpanColumns(span);
      size_t column = 0;
      for (; column + 2 * kLanes <= n; column += 2 * kLanes)
        LogitColumns<2>(span, column, out, best);
      for (; column < n; column += kLanes) LogitColumns<1>(span, column, out, best);
      out += n;
    }
    LOLA_UNROLL(8) for (size_t r = 0; r < R; ++r) {
      top[r] = ReduceMax(best[r]);
      if (p.mix == AttendMix::kShifted && top[r] < 0.0f) top[r] = 0.0f;
    }
  }

  void Exponentials() {
    const DF df;
    for (size_t r = 0; r < R; ++r) {
      float* w = weights + r * columns;
      const VF shift = hn::Set(df, top[r]);
      VF total = hn::Zero(df);
      for (size_t j = 0; j < columns; j += kLanes) {
        const VF e = Exp(hn::Sub(LoadF(w + j), shift));
        hn::StoreU(e, df, w + j);
        total = hn::Add(total, e);
      }
      sum[r] = ReduceSum(total);
    }
  }

  template <size_t NV>
  HWY_INLINE void OutputColumns(size_t column, const float (&ws)[R], const float (&wl)[R],
                                const float (&inverse)[R], VF (&check)[R]) {
    const DF df;
    const size_t d = p.head_dim;
    VF acc[R][NV];
    TileZero(acc);
    const float* w = weights;
    for (size_t s = 0; s < p.span_count; ++s) {
      const AttendSpan& span = p.spans[s];
      const T* b[NV];
      for (size_t c = 0; c < NV; ++c) {
        b[c] = static_cast<const T*>(span.values) + column + c * kLanes;
      }
      const size_t n = SpanColumns(span);
      TileAccumulate<R, NV>(n, w, columns, 1, b, d, acc);
      w += n;
    }
    if (p.mix != AttendMix::kPlain) {
      LOLA_UNROLL(8) for (size_t r = 0; r < R; ++r) {
        LOLA_UNROLL(2) for (size_t c = 0; c < NV; ++c) {
          acc[r][c] = hn::Mul(acc[r][c], hn::Set(df, ws[r]));
        }
      }
      VF linear[R][NV];
      TileZero(linear);
      const float* b[NV];
      for (size_t c = 0; c < NV; ++c) b[c] = p.h + column + c * kLanes;
      TileAccumulate<R, NV>(p.feature_dim, p.features + row * p.feature_dim, p.feature_dim, 1, b, d,
                            linear);
      LOLA_UNROLL(8) for (size_t r = 0; r < R; ++r) {
        LOLA_UNROLL(2) for (size_t c = 0; c < NV; ++c) {
          acc[r][c] = hn::MulAdd(linear[r][c], hn::Set(df, wl[r]), acc[r][c]);
        }
      }
    }
    const VF zero = hn::Zero(df);
    LOLA_UNROLL(8) for (size_t r = 0; r < R; ++r) {
      LOLA_UNROLL(2) for (size_t c = 0; c < NV; ++c) {
        // Adding +0 turns -0 into +0: the sign of a zero may depend on how many zeros were added.
        const VF y = hn::Add(hn::Mul(acc[r][c], hn::Set(df, inverse[r])), zero);
        check[r] = hn::MulAdd(y, zero, check[r]);
        hn::StoreU(y, df, p.out + (row + r) * p.out_stride + column + c * kLanes);
      }
    }
  }

  // Row after row, so that the sums do not depend on which rows share a block.
  void AddMass(const float (&ws)[R], const float (&inverse)[R]) {
    const DF df;
    for (size_t r = 0; r < R; ++r) {
      const VF share = hn::Set(df, ws[r] * inverse[r]);
      const float* w = weights + r * columns;
      for (size_t s = 0; s < p.span_count; ++s) {
        const AttendSpan& span = p.spans[s];
        const size_t n = SpanColumns(span);
        for (size_t j = 0; span.mass != nullptr && j < n; j += kLanes) {
          hn::StoreU(hn::MulAdd(LoadF(w + j), share, LoadF(span.mass + j)), df, span.mass + j);
        }
        w += n;
      }
    }
  }

  // The values' powers of two go into the weights.
  void ScaleWeights() {
    const DF df;
    float* w = weights;
    for (size_t s = 0; s < p.span_count; ++s) {
      const size_t n = SpanColumns(p.spans[s]);
      for (size_t j = 0; j < n; j += kLanes) {
        const VF scale = LoadScales(p.spans[s].value_exponents + j);
        for (size_t r = 0; r < R; ++r) {
          float* at = w + r * columns + j;
          hn::StoreU(hn::Mul(LoadF(at), scale), df, at);
        }
      }
      w += n;
    }
  }

  size_t Outputs() {
    float ws[R], wl[R], inverse[R];
    for (size_t r = 0; r < R; ++r) {
      if (p.mix == AttendMix::kPlain) {
        ws[r] = 1.0f;
        wl[r] = 0.0f;
        inverse[r] = 1.0f / sum[r];
        continue;
      }
      const float* phi = p.features + (row + r) * p.feature_dim;
      const float mass = Dot16(phi, p.s, p.feature_dim);
      const float shift =
          p.mix == AttendMix::kShifted ? hn::GetLane(Exp(hn::Set(DF(), -top[r]))) : 1.0f;
      ws[r] = p.softmax_weight;
      wl[r] = p.linear_weight * shift;
      const float epsilon = p.mix == AttendMix::kShifted ? p.epsilon * shift : 0.0f;
      inverse[r] = 1.0f / ((ws[r] * sum[r] + wl[r] * mass) + epsilon);
    }
    AddMass(ws, inverse);
    if constexpr (std::is_same_v<T, Float8>) ScaleWeights();
    VF check[R];
    LOLA_UNROLL(8) for (size_t r = 0; r < R; ++r) check[r] = hn::Zero(DF());
    size_t column = 0;
    for (; column + 2 * kLanes <= p.head_dim; column += 2 * kLanes) {
      OutputColumns<2>(column, ws, wl, inverse, check);
    }
    for (; column < p.head_dim; column += kLanes) {
      OutputColumns<1>(column, ws, wl, inverse, check);
    }
    size_t broken = 0;
    for (size_t r = 0; r < R; ++r) broken += ReduceSum(check[r]) == 0.0f ? 0 : 1;
    return broken;
  }
};

template <size_t R, typename T>
HWY_NOINLINE size_t AttendBlock(const AttendParams& p, size_t row) {
  RowBlock<R, T> block{.p = p, .row = row, .columns = 0, .weights = p.scratch};
  for (size_t s = 0; s < p.span_count; ++s) block.columns += block.SpanColumns(p.spans[s]);
  block.Logits();
  block.Exponentials();
  return block.Outputs();
}

template <typename T>
size_t AttendRows(const AttendParams& p) {
  size_t broken = 0;
  size_t row = 0;
  if constexpr (kManyRegisters) {
    for (; row + 8 <= p.rows; row += 8) broken += AttendBlock<8, T>(p, row);
  }
  for (; row + 4 <= p.rows; row += 4) broken += AttendBlock<4, T>(p, row);
  for (; row < p.rows; ++row) broken += AttendBlock<1, T>(p, row);
  return broken;
}

size_t AttendSimd(const AttendParams& p) {
  switch (p.dtype) {
    case Dtype::kFloat32:
      return AttendRows<float>(p);
    case Dtype::kBFloat16:
      return AttendRows<BFloat16>(p);
    case Dtype::kFloat8:
      return AttendRows<Float8>(p);
    case Dtype::kInt8:
      break;  // weights only
  }
  return p.rows;
}

}  // namespace HWY_NAMESPACE
}  // namespace lola::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lola::kernels {

HWY_EXPORT(AttendSimd);

size_t Attend(const AttendParams& params) {
  LOLA_CHECK(params.head_dim % 16 == 0 && params.head_dim > 0) << "head_dim " << params.head_dim;
  LOLA_CHECK(params.feature_dim % 16 == 0) << "feature_dim " << params.feature_dim;
  return HWY_DYNAMIC_DISPATCH(AttendSimd)(params);
}

}  // namespace lola::kernels
#endif  // HWY_ONCE
