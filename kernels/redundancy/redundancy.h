// How many of the given values lie close to each one: counts[i] = #{ j : |v_i - v_j| <= t |v_i| },
// i itself included.
//
// Squared distances are computed as |v_i|^2 + |v_j|^2 - 2 v_i . v_j in float32, so the threshold
// must stay well above the rounding of that difference: t >= 0.01. Any thread.
#ifndef LOLA_KERNELS_REDUNDANCY_REDUNDANCY_H_
#define LOLA_KERNELS_REDUNDANCY_REDUNDANCY_H_

#include <cstddef>
#include <cstdint>

namespace lola::kernels {

struct RedundancyParams {
  const float* values = nullptr;  // [rows, head_dim]
  size_t rows = 0;
  size_t head_dim = 0;  // multiple of 16
  float threshold = 0.3f;
  uint32_t* counts = nullptr;  // [rows]
  float* scratch = nullptr;    // RedundancyScratchFloats(rows, head_dim)
};

constexpr size_t RedundancyScratchFloats(size_t rows, size_t head_dim) {
  return (rows + 15) / 16 * 16 * (head_dim + 2);
}

void Redundancy(const RedundancyParams& params);
void RedundancyRef(const RedundancyParams& params);

}  // namespace lola::kernels

#endif  // LOLA_KERNELS_REDUNDANCY_REDUNDANCY_H_
