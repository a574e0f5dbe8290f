#include "kernels/rope/rope.h"

#include <cmath>
#include <numbers>

#include "kernels/core/check.h"

namespace lola::kernels {

std::vector<double> RopeFrequencies(size_t head_dim, double theta,
                                    const std::optional<Llama3Scaling>& scaling) {
  LOLA_CHECK(head_dim > 0 && head_dim % 2 == 0 && theta > 0)
      << "head_dim " << head_dim << " theta " << theta;
  std::vector<double> frequencies(head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
    frequencies[i] = std::pow(theta, -exponent);
    if (!scaling) continue;
    // Long wavelengths are slowed down by `factor`, short ones are kept, the band between is mixed.
    const double wavelength = 2.0 * std::numbers::pi / frequencies[i];
    const double low = scaling->original_max_position / scaling->low_freq_factor;
    const double high = scaling->original_max_position / scaling->high_freq_factor;
    if (wavelength > low) {
      frequencies[i] /= scaling->factor;
    } else if (wavelength >= high) {
      const double share =
          (scaling->original_max_position / wavelength - scaling->low_freq_factor) /
          (scaling->high_freq_factor - scaling->low_freq_factor);
      frequencies[i] = (1.0 - share) * frequencies[i] / scaling->factor + share * frequencies[i];
    }
  }
  return frequencies;
}

void FillRotationRows(std::span<const double> frequencies, uint64_t first_position, size_t rows,
                      float* cos, float* sin) {
  constexpr double kTurn = 2.0 * std::numbers::pi;
  for (size_t r = 0; r < rows; ++r) {
    const double position = static_cast<double>(first_position + r);
    for (size_t i = 0; i < frequencies.size(); ++i) {
      const double angle = std::fmod(position * frequencies[i], kTurn);
      cos[r * frequencies.size() + i] = static_cast<float>(std::cos(angle));
      sin[r * frequencies.size() + i] = static_cast<float>(std::sin(angle));
    }
  }
}

RotationTable::RotationTable(std::span<const double> frequencies, uint64_t first_position,
                             size_t rows)
    : half(frequencies.size()), cos(rows * half), sin(rows * half) {
  FillRotationRows(frequencies, first_position, rows, cos.data(), sin.data());
}

}  // namespace lola::kernels
