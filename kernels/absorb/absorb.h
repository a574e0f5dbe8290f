// Adds pairs to the recurrent state: H += sum phi v^T, s += sum phi.
//
// The batch is summed from zero in the order of its rows and then added once, so that small
// increments do not drown one by one; s carries a correction term besides (two floats), which keeps
// it exact to about 1e-14 over any length. Any thread; rows in ascending position order.
// Tolerance of one batch against the double reference: 1e-6 relative.
#ifndef LOLA_KERNELS_ABSORB_ABSORB_H_
#define LOLA_KERNELS_ABSORB_ABSORB_H_

#include <cstddef>

namespace lola::kernels {

struct AbsorbParams {
  const float* features = nullptr;  // [rows, feature_dim]
  const float* values = nullptr;    // [rows, head_dim]
  size_t rows = 0;
  size_t feature_dim = 0;         // multiple of 16
  size_t head_dim = 0;            // multiple of 16
  float* h = nullptr;             // [feature_dim, head_dim], updated
  float* s = nullptr;             // [feature_dim], updated
  float* s_correction = nullptr;  // [feature_dim], updated; the true sum is s + s_correction
};

void Absorb(const AbsorbParams& params);
void AbsorbRef(const AbsorbParams& params);

}  // namespace lola::kernels

#endif  // LOLA_KERNELS_ABSORB_ABSORB_H_
