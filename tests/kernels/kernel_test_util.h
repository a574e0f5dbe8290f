// Random data and comparisons shared by the kernel tests.
#ifndef LOLA_TESTS_KERNELS_KERNEL_TEST_UTIL_H_
#define LOLA_TESTS_KERNELS_KERNEL_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace lola::kernels::test {

inline std::vector<float> Normal(size_t n, uint64_t seed, float deviation = 1.0f) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

// Largest |a - b|; infinite when only one of the two is a number.
inline double WorstError(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::isfinite(a[i]) != std::isfinite(b[i])) return INFINITY;
    if (std::isfinite(a[i])) worst = std::max(worst, std::abs(static_cast<double>(a[i]) - b[i]));
  }
  return worst;
}

inline bool SameBits(const float* a, const float* b, size_t n) {
  return std::memcmp(a, b, n * sizeof(float)) == 0;
}

}  // namespace lola::kernels::test

#endif  // LOLA_TESTS_KERNELS_KERNEL_TEST_UTIL_H_
