#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/feature_map/feature_map.h"

namespace lola::kernels {

void FeatureMapRef(const FeatureMapParams& p) {
  std::vector<double> z(p.map_dim);
  for (size_t r = 0; r < p.rows; ++r) {
    for (size_t j = 0; j < p.map_dim; ++j) {
      z[j] = 0;
      for (size_t i = 0; i < p.head_dim; ++i) {
        z[j] += static_cast<double>(p.input[r * p.input_stride + i]) * p.map[i * p.map_dim + j];
      }
    }
    for (int half = 0; half < 2; ++half) {
      const double sign = half == 0 ? 1.0 : -1.0;
      double top = -INFINITY;
      for (double value : z) top = std::max(top, sign * value);
      double sum = 0;
      for (double value : z) sum += std::exp(sign * value - top);
      for (size_t j = 0; j < p.map_dim; ++j) {
        const double feature = std::exp(sign * z[j] - top) / sum;
        p.output[(r * 2 + half) * p.map_dim + j] =
            static_cast<float>(std::max(feature, static_cast<double>(kFeatureFloor)));
      }
    }
  }
}

}  // namespace lola::kernels
