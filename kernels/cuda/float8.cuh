// Rows of 8-bit floats on the device: bit for bit what kernels/core/float8.h does on the CPU.
#ifndef LOLA_KERNELS_CUDA_FLOAT8_CUH_
#define LOLA_KERNELS_CUDA_FLOAT8_CUH_

#include "kernels/cuda/portable.h"

namespace lola::cuda {

// e4m3 as stored; the row's power of two is kept beside it.
struct Fp8 {
  uint8_t bits;
};

inline constexpr int kRowNotFinite = -128;

LOLA_DEVICE float ToFloat(Fp8 value) {
  const uint32_t magnitude = value.bits & 0x7fu;
  const uint32_t sign = (value.bits & 0x80u) << 24;
  const float size =
      magnitude < 8 ? float(magnitude) * 0x1p-9f : BitsToFloat((magnitude << 20) + (120u << 23));
  return BitsToFloat(FloatBits(size) | sign);
}

// Two neighbours, the lower one in the low byte, as a word of two bfloat16, which hold them
// exactly: exponent and fraction in place, then a power of two takes the difference of the biases.
// Subnormal floats must not be flushed to zero (nvcc's default).
LOLA_DEVICE uint32_t ToBf16Pair(uint32_t bytes) {
  const float low = BitsToFloat((bytes & 0x7fu) << 20) * 0x1p120f;
  const float high = BitsToFloat((bytes & 0x7f00u) << 12) * 0x1p120f;
  const uint32_t signs = (bytes & 0x80u) << 8 | (bytes & 0x8000u) << 16;
  return FloatBits(low) >> 16 | (FloatBits(high) & 0xffff0000u) | signs;
}

// REQUIRES: |value| <= 464.
LOLA_DEVICE Fp8 ToFp8(float value) {
  const uint32_t bits = FloatBits(value);
  const uint32_t sign = bits >> 24 & 0x80u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude < 0x3c800000u) {  // 2^-6: a multiple of 2^-9, which the addition rounds to
    const uint32_t steps = FloatBits(BitsToFloat(magnitude) * 512.0f + 0x1p23f) & 0xffu;
    return {uint8_t(sign | steps)};
  }
  const uint32_t rounded = magnitude + 0x7ffffu + (magnitude >> 20 & 1u);
  return {uint8_t(sign | ((rounded >> 20) - (120u << 3)))};
}

LOLA_DEVICE float RowScale(int exponent) { return BitsToFloat(uint32_t(exponent + 127) << 23); }

// Exponent of a row whose largest size is `largest`; `finite`: so are all of its elements.
LOLA_DEVICE int RowExponent(float largest, bool finite) {
  if (!finite) return kRowNotFinite;
  constexpr int kLeast = -100;
  if (largest <= 0x1p-110f) return 0;
  const uint32_t bits = FloatBits(largest);
  // largest = fraction 2^exponent with fraction in [0.5, 1); 464 = 0.90625 * 2^9.
  int exponent = int(bits >> 23) - 126;
  exponent -= (bits & 0x7fffffu) <= 0x680000u ? 9 : 8;
  return exponent < kLeast ? kLeast : exponent;
}

LOLA_DEVICE Fp8 RoundedTo(int exponent, float value) {
  if (exponent == kRowNotFinite) return {0};
  return ToFp8(value * RowScale(-exponent));
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_FLOAT8_CUH_
