#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attend/attend.h"
#include "kernels/core/float8.h"

namespace lola::kernels {
namespace {

double Element(const void* data, const int8_t* exponents, Dtype dtype, size_t row, size_t index) {
  switch (dtype) {
    case Dtype::kFloat32:
      return static_cast<const float*>(data)[index];
    case Dtype::kBFloat16:
      return ToFloat(static_cast<const BFloat16*>(data)[index]);
    case Dtype::kFloat8:
      return double{ToFloat(static_cast<const Float8*>(data)[index])} * RowScale(exponents[row]);
    case Dtype::kInt8:
      break;  // weights only
  }
  return NAN;
}

struct SoftmaxPart {
  double top = -INFINITY;
  double sum = 0;
  std::vector<double> numerator;
  std::vector<double> weights;  // of all live pairs, in order
};

SoftmaxPart AttendPairs(const AttendParams& p, size_t row) {
  const size_t d = p.head_dim;
  std::vector<double> logits;
  SoftmaxPart part{.numerator = std::vector<double>(d, 0.0)};
  for (size_t s = 0; s < p.span_count; ++s) {
    const AttendSpan& span = p.spans[s];
    for (size_t j = 0; j < span.pairs + (span.causal ? row : 0); ++j) {
      double dot = 0;
      for (size_t i = 0; i < d; ++i) {
        dot += static_cast<double>(span.queries[row * d + i]) *
               Element(span.keys, span.key_exponents, p.dtype, j, KeyOffset(j, i, d));
      }
      logits.push_back(dot * p.scale);
      part.top = std::max(part.top, logits.back());
    }
  }
  if (p.mix == AttendMix::kShifted) part.top = std::max(part.top, 0.0);
  size_t next = 0;
  for (size_t s = 0; s < p.span_count; ++s) {
    const AttendSpan& span = p.spans[s];
    for (size_t j = 0; j < span.pairs + (span.causal ? row : 0); ++j) {
      const double weight = std::exp(logits[next++] - part.top);
      part.sum += weight;
      part.weights.push_back(weight);
      for (size_t i = 0; i < d; ++i) {
        part.numerator[i] +=
            weight * Element(span.values, span.value_exponents, p.dtype, j, j * d + i);
      }
    }
  }
  return part;
}

}  // namespace

size_t AttendRef(const AttendParams& p) {
  size_t broken = 0;
  for (size_t row = 0; row < p.rows; ++row) {
    const SoftmaxPart part = AttendPairs(p, row);
    const bool plain = p.mix == AttendMix::kPlain;
    const double shift = p.mix == AttendMix::kShifted ? std::exp(-part.top) : 1.0;
    const double ws = plain ? 1.0 : p.softmax_weight;
    const double wl = plain ? 0.0 : p.linear_weight * shift;
    double denominator = ws * part.sum;
    if (p.mix == AttendMix::kShifted) denominator += p.epsilon * shift;
    for (size_t f = 0; !plain && f < p.feature_dim; ++f) {
      denominator += wl * p.features[row * p.feature_dim + f] * p.s[f];
    }
    size_t next = 0;
    for (size_t s = 0; s < p.span_count; ++s) {
      const AttendSpan& span = p.spans[s];
      for (size_t j = 0; j < span.pairs + (span.causal ? row : 0); ++j, ++next) {
        if (span.mass == nullptr) continue;
        span.mass[j] = static_cast<float>(span.mass[j] + ws * part.weights[next] / denominator);
      }
    }
    bool finite = true;
    for (size_t i = 0; i < p.head_dim; ++i) {
      double numerator = ws * part.numerator[i];
      for (size_t f = 0; !plain && f < p.feature_dim; ++f) {
        numerator += wl * p.features[row * p.feature_dim + f] * p.h[f * p.head_dim + i];
      }
      const float y = static_cast<float>(numerator / denominator);
      p.out[row * p.out_stride + i] = y;
      finite = finite && std::isfinite(y);
    }
    broken += finite ? 0 : 1;
  }
  return broken;
}

}  // namespace lola::kernels
