// Rotary position embedding, half-split pairing: dimension i is rotated with dimension i + d/2.
//
//   out[i]       = x[i] * cos - x[i + d/2] * sin
//   out[i + d/2] = x[i + d/2] * cos + x[i] * sin      (angle = position * frequency[i])
//
// Angles are computed in float64, so a position of 10^9 is as exact as position 0; cos and sin are
// rounded to float32 once. Any thread.
#ifndef LOLA_KERNELS_ROPE_ROPE_H_
#define LOLA_KERNELS_ROPE_ROPE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace lola::kernels {

// rope_scaling of type "llama3" in a Hugging Face config.json.
struct Llama3Scaling {
  double factor = 8.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  double original_max_position = 8192.0;
};

// frequency[i] = theta^(-2i/head_dim), i in [0, head_dim/2), scaled when asked for.
// REQUIRES: head_dim even and positive, theta > 0.
std::vector<double> RopeFrequencies(size_t head_dim, double theta,
                                    const std::optional<Llama3Scaling>& scaling = std::nullopt);

// Writes rows of cosines and sines for positions first, first + 1, ...
// cos, sin: [rows, frequencies.size()] contiguous.
void FillRotationRows(std::span<const double> frequencies, uint64_t first_position, size_t rows,
                      float* cos, float* sin);

// Owned rows for positions first .. first + rows - 1.
struct RotationTable {
  RotationTable() = default;
  RotationTable(std::span<const double> frequencies, uint64_t first_position, size_t rows);
  const float* cos_row(size_t row) const { return cos.data() + row * half; }
  const float* sin_row(size_t row) const { return sin.data() + row * half; }

  size_t half = 0;  // head_dim / 2
  std::vector<float> cos;
  std::vector<float> sin;
};

// out = R x for one row of `head_dim` floats; out may be x. Rotate by -angle with inverse = true.
// REQUIRES: head_dim is a multiple of 16.
void RotateRow(const float* x, const float* cos, const float* sin, size_t head_dim, bool inverse,
               float* out);
void RotateRowRef(const float* x, const float* cos, const float* sin, size_t head_dim, bool inverse,
                  float* out);  // out is not x

}  // namespace lola::kernels

#endif  // LOLA_KERNELS_ROPE_ROPE_H_
