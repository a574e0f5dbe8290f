#include <cmath>

#include "kernels/swiglu/swiglu.h"

namespace lola::kernels {

void SwigluRef(const SwigluParams& p) {
  for (size_t r = 0; r < p.rows; ++r) {
    for (size_t i = 0; i < p.n; ++i) {
      const double gate = p.gate[r * p.gate_stride + i];
      p.output[r * p.output_stride + i] =
          static_cast<float>(gate / (1.0 + std::exp(-gate)) * p.up[r * p.up_stride + i]);
    }
  }
}

}  // namespace lola::kernels
