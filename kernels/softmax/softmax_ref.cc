#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/softmax/softmax.h"

namespace lola::kernels {

double SoftmaxRef(const float* logits, size_t n, float scale, float* probabilities) {
  const double top = *std::max_element(logits, logits + n);
  std::vector<double> weights(n);
  double sum = 0;
  for (size_t i = 0; i < n; ++i) {
    weights[i] = std::exp(scale * (logits[i] - top));
    sum += weights[i];
  }
  for (size_t i = 0; i < n; ++i) probabilities[i] = static_cast<float>(weights[i] / sum);
  return std::log(sum) + scale * top;
}

}  // namespace lola::kernels
