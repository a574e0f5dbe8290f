#include <cmath>

#include "kernels/norm/rms_norm.h"

namespace lola::kernels {

void RmsNormRowsRef(const float* input, const float* weight, float eps, size_t rows, size_t n,
                    float* output) {
  for (size_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += static_cast<double>(input[r * n + i]) * input[r * n + i];
    const double scale = 1.0 / std::sqrt(sum / static_cast<double>(n) + eps);
    for (size_t i = 0; i < n; ++i) {
      output[r * n + i] = static_cast<float>(input[r * n + i] * scale * weight[i]);
    }
  }
}

}  // namespace lola::kernels
