#include "kernels/rope/rope.h"

namespace lola::kernels {

void RotateRowRef(const float* x, const float* cos, const float* sin, size_t head_dim, bool inverse,
                  float* out) {
  const size_t half = head_dim / 2;
  for (size_t i = 0; i < half; ++i) {
    const double s = inverse ? -static_cast<double>(sin[i]) : sin[i];
    const double a = x[i];
    const double b = x[i + half];
    out[i] = static_cast<float>(a * cos[i] - b * s);
    out[i + half] = static_cast<float>(b * cos[i] + a * s);
  }
}

}  // namespace lola::kernels
