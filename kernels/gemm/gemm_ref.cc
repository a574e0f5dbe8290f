#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/gemm/gemm.h"

namespace lola::kernels {
namespace {

// A row of inputs as products with weights of this type see it.
std::vector<float> RoundInput(const float* x, size_t in, Dtype dtype) {
  std::vector<float> rounded(x, x + in);
  if (dtype == Dtype::kBFloat16 || dtype == Dtype::kFloat8) {
    for (float& value : rounded) value = ToFloat(ToBFloat16(value));
  }
  for (size_t begin = 0; dtype == Dtype::kInt8 && begin < in; begin += kInt8Group) {
    const size_t end = std::min(in, begin + kInt8Group);
    float largest = 0.0f;
    for (size_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(x[i]));
    const float inverse = largest < 1e-30f ? 0.0f : 127.0f / largest;
    for (size_t i = begin; i < end; ++i) {
      rounded[i] = std::nearbyint(x[i] * inverse) * (largest / 127.0f);
    }
  }
  return rounded;
}

}  // namespace

void GemmRef(const GemmParams& p) {
  const PackedMatrix& weights = *p.weights;
  std::vector<float> w(weights.in());
  for (size_t r = 0; r < p.rows; ++r) {
    const std::vector<float> x =
        RoundInput(p.input + r * p.input_stride, weights.in(), weights.dtype());
    for (size_t o = 0; o < weights.out(); ++o) {
      weights.CopyRow(o, w.data());
      double sum = 0;
      for (size_t i = 0; i < weights.in(); ++i) sum += static_cast<double>(x[i]) * w[i];
      float& output = p.output[r * p.output_stride + o];
      output = static_cast<float>(p.accumulate ? output + sum : sum);
    }
  }
}

}  // namespace lola::kernels
