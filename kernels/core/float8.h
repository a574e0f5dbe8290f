// Rows of 8-bit floats: e4m3 (sign, 4 bits of exponent with bias 7, 3 of mantissa; no infinity) and
// one power of two for the row. Any thread.
//
// A power of two scales without rounding, so an element is rounded once, to nearest even, and a row
// that was rounded before is stored without change. Relative error of an element: at most 2^-4
// while it is above 2^-13 of the row's largest, below that at most 2^-17 of the largest.
#ifndef LOLA_KERNELS_CORE_FLOAT8_H_
#define LOLA_KERNELS_CORE_FLOAT8_H_

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace lola::kernels {

struct Float8 {
  uint8_t bits = 0;
};
static_assert(sizeof(Float8) == 1);

// Exponent of a row that held a NaN or an infinity: its elements read as NaN.
inline constexpr int8_t kRowNotFinite = -128;

inline float ToFloat(Float8 value) {
  const uint32_t magnitude = value.bits & 0x7fu;
  const uint32_t sign = (value.bits & 0x80u) << 24;
  const float size = magnitude < 8 ? static_cast<float>(magnitude) * 0x1p-9f
                                   : std::bit_cast<float>((magnitude << 20) + (120u << 23));
  return std::bit_cast<float>(std::bit_cast<uint32_t>(size) | sign);
}

// REQUIRES: |value| <= 464, which still rounds to the largest number, 448.
inline Float8 ToFloat8(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>(bits >> 24 & 0x80u);
  const float size = std::fabs(value);
  if (size < 0x1p-6f) {  // a multiple of 2^-9: the addition rounds to nearest even
    const uint32_t steps = std::bit_cast<uint32_t>(size * 512.0f + 0x1p23f) & 0xffu;
    return Float8{static_cast<uint8_t>(sign | steps)};
  }
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t rounded = magnitude + 0x7ffffu + (magnitude >> 20 & 1u);
  return Float8{static_cast<uint8_t>(sign | ((rounded >> 20) - (120u << 3)))};
}

// 2^exponent; not a finite number for kRowNotFinite.
inline float RowScale(int8_t exponent) {
  return std::bit_cast<float>(static_cast<uint32_t>(exponent + 127) << 23);
}

// The least exponent under which no element exceeds 464; 0 for a row that rounds to zeros.
inline int8_t RowExponent(const float* row, size_t n) {
  float largest = 0;
  bool finite = true;
  for (size_t i = 0; i < n; ++i) {
    finite = finite && std::isfinite(row[i]);
    largest = std::fmax(largest, std::fabs(row[i]));
  }
  if (!finite) return kRowNotFinite;
  constexpr int kLeast = -100;
  if (largest <= std::ldexp(1.0f, kLeast - 10)) return 0;
  int exponent = 0;
  const float fraction = std::frexp(largest, &exponent);  // 464 = 0.90625 * 2^9
  exponent -= fraction <= 0.90625f ? 9 : 8;
  return static_cast<int8_t>(exponent < kLeast ? kLeast : exponent);
}

}  // namespace lola::kernels

#endif  // LOLA_KERNELS_CORE_FLOAT8_H_
