#include <bit>
#include <cstring>

#include "kernels/gemm/gemm.h"
#include "kernels/gemm/gemm_kernels.h"

namespace lola::kernels {

Int8GroupInfo QuantizeGroup(const float* x, size_t n, int8_t* p) {
  // Magnitudes compared as whole numbers: NaN is above infinity, so nothing bad gets lost.
  uint32_t largest_bits = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu;
    largest_bits = bits > largest_bits ? bits : largest_bits;
  }
  const float largest = std::bit_cast<float>(largest_bits);
  std::memset(p, 0, kInt8Group);
  if (largest_bits >= 0x7f800000u) return {largest, 0};  // 0 * infinity is NaN in every output
  if (largest < 1e-30f) return {0.0f, 0};
  const float inverse = 127.0f / largest;
  // Adding 1.5 * 2^23 rounds to nearest even and leaves the whole number in the low bits.
  constexpr float kRound = 12582912.0f;
  int32_t sum = 0;
  for (size_t i = 0; i < n; ++i) {
    const int32_t whole = std::bit_cast<int32_t>(x[i] * inverse + kRound) - 0x4b400000;
    p[i] = static_cast<int8_t>(whole);
    sum += whole;
  }
  return {largest / 127.0f, -128 * sum};
}

}  // namespace lola::kernels
