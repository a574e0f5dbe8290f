#include "kernels/absorb/absorb.h"

namespace lola::kernels {

void AbsorbRef(const AbsorbParams& p) {
  for (size_t f = 0; f < p.feature_dim; ++f) {
    double mass = static_cast<double>(p.s[f]) + p.s_correction[f];
    for (size_t r = 0; r < p.rows; ++r) mass += p.features[r * p.feature_dim + f];
    p.s[f] = static_cast<float>(mass);
    p.s_correction[f] = static_cast<float>(mass - p.s[f]);
    for (size_t i = 0; i < p.head_dim; ++i) {
      double sum = 0;
      for (size_t r = 0; r < p.rows; ++r) {
        sum +=
            static_cast<double>(p.features[r * p.feature_dim + f]) * p.values[r * p.head_dim + i];
      }
      float& element = p.h[f * p.head_dim + i];
      element = static_cast<float>(element + sum);
    }
  }
}

}  // namespace lola::kernels
