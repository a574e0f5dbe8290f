// bfloat16 storage type and its exact conversions. Any thread.
//
// Rounding is to nearest even; NaN stays NaN. Arithmetic is always done in float32.
#ifndef LOLA_KERNELS_CORE_BF16_H_
#define LOLA_KERNELS_CORE_BF16_H_

#include <bit>
#include <cstddef>
#include <cstdint>

namespace lola::kernels {

// Element type of weights and of cached rows.
enum class Dtype : uint8_t {
  kFloat32 = 0,
  kBFloat16 = 1,
  kFloat8 = 2,  // kernels/core/float8.h
  kInt8 = 3,    // weights only; kernels/gemm
};

constexpr size_t DtypeBytes(Dtype dtype) {
  return dtype == Dtype::kFloat32 ? 4 : dtype == Dtype::kBFloat16 ? 2 : 1;
}
constexpr const char* DtypeName(Dtype dtype) {
  constexpr const char* kNames[] = {"float32", "bfloat16", "float8", "int8"};
  return kNames[static_cast<uint8_t>(dtype)];
}

struct BFloat16 {
  uint16_t bits = 0;
};
static_assert(sizeof(BFloat16) == 2);

inline BFloat16 ToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return BFloat16{static_cast<uint16_t>((bits >> 16) | 0x40u)};  // quiet NaN
  }
  return BFloat16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

inline float ToFloat(BFloat16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

inline float ToFloat(float value) { return value; }

}  // namespace lola::kernels

#endif  // LOLA_KERNELS_CORE_BF16_H_
