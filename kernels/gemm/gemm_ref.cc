#include "kernels/gemm/gemm.h"

namespace lola::kernels {

void GemmRef(const GemmParams& p) {
  const PackedMatrix& weights = *p.weights;
  const bool rounded = weights.dtype() == Dtype::kBFloat16;
  for (size_t r = 0; r < p.rows; ++r) {
    for (size_t o = 0; o < weights.out(); ++o) {
      double sum = 0;
      for (size_t i = 0; i < weights.in(); ++i) {
        const float x = p.input[r * p.input_stride + i];
        sum += static_cast<double>(rounded ? ToFloat(ToBFloat16(x)) : x) * weights.At(o, i);
      }
      float& output = p.output[r * p.output_stride + o];
      output = static_cast<float>(p.accumulate ? output + sum : sum);
    }
  }
}

}  // namespace lola::kernels
