// Feature map of LoLCATs: phi(x) = max(concat(softmax(x W), softmax(-x W)), 1e-12).
//
// Any thread. Each row is computed alone: neither the number of rows nor a row's place changes a
// bit. Tolerance against the double reference: 5e-6 absolute (features are at most 1).
#ifndef LOLA_KERNELS_FEATURE_MAP_FEATURE_MAP_H_
#define LOLA_KERNELS_FEATURE_MAP_FEATURE_MAP_H_

#include <cstddef>

namespace lola::kernels {

inline constexpr float kFeatureFloor = 1e-12f;

struct FeatureMapParams {
  const float* input = nullptr;  // [rows, head_dim], rows input_stride floats apart
  size_t input_stride = 0;
  const float* map = nullptr;  // [head_dim, map_dim] row-major, map_dim a multiple of 16
  size_t rows = 0;
  size_t head_dim = 0;
  size_t map_dim = 0;
  float* output = nullptr;  // [rows, 2 * map_dim] contiguous, not overlapping the inputs
};

void FeatureMap(const FeatureMapParams& params);
void FeatureMapRef(const FeatureMapParams& params);

}  // namespace lola::kernels

#endif  // LOLA_KERNELS_FEATURE_MAP_FEATURE_MAP_H_
