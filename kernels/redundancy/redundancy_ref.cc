#include <cmath>

#include "kernels/redundancy/redundancy.h"

namespace lola::kernels {

void RedundancyRef(const RedundancyParams& p) {
  for (size_t i = 0; i < p.rows; ++i) {
    const float* a = p.values + i * p.head_dim;
    double norm = 0;
    for (size_t k = 0; k < p.head_dim; ++k) norm += static_cast<double>(a[k]) * a[k];
    p.counts[i] = 0;
    for (size_t j = 0; j < p.rows; ++j) {
      const float* b = p.values + j * p.head_dim;
      double distance = 0;
      for (size_t k = 0; k < p.head_dim; ++k) {
        const double difference = static_cast<double>(a[k]) - b[k];
        distance += difference * difference;
      }
      const bool close = std::sqrt(distance) <= p.threshold * std::sqrt(norm);
      p.counts[i] += (i == j || close) ? 1 : 0;
    }
  }
}

}  // namespace lola::kernels
