// RMSNorm, SwiGLU and rotary embedding against their references.
#include <numbers>

#include "kernels/norm/rms_norm.h"
#include "kernels/rope/rope.h"
#include "kernels/swiglu/swiglu.h"
#include "tests/kernels/kernel_test_util.h"

namespace lola::kernels {
namespace {

using test::Normal;
using test::WorstError;

TEST(RmsNormTest, AgreesForAllLengthsAndInPlace) {
  ThreadPool pool(2);
  for (const size_t n : {1, 15, 16, 33, 128, 2048}) {
    const size_t rows = n == 2048 ? 200 : 5;
    std::vector<float> x = Normal(rows * n, n, 3.0f);
    const std::vector<float> weight = Normal(n, 2);
    std::vector<float> got(x.size()), want(x.size());
    RmsNormRows(x.data(), weight.data(), 1e-5f, rows, n, got.data(), pool);
    RmsNormRowsRef(x.data(), weight.data(), 1e-5f, rows, n, want.data());
    EXPECT_LE(WorstError(got, want), 3e-5) << n;
    RmsNormRows(x.data(), weight.data(), 1e-5f, rows, n, x.data(), pool);
    EXPECT_TRUE(test::SameBits(x.data(), got.data(), got.size()));
  }
}

TEST(SwigluTest, AgreesWithTailsStridesAndExtremes) {
  ThreadPool pool(2);
  for (const size_t n : {1, 16, 35, 352, 8192}) {
    const size_t rows = 7;
    std::vector<float> both = Normal(rows * 2 * n, n, 4.0f);
    both[0] = 200.0f;
    if (n > 1) both[1] = -200.0f;
    std::vector<float> got(rows * n), want(rows * n);
    SwigluParams p{both.data(), 2 * n, both.data() + n, 2 * n, got.data(), n, rows, n};
    Swiglu(p, pool);
    p.output = want.data();
    SwigluRef(p);
    EXPECT_LE(WorstError(got, want), 1e-4) << n;
  }
}

TEST(SwigluTest, AnElementDoesNotDependOnItsPlace) {
  ThreadPool pool(1);
  const std::vector<float> gate = Normal(37, 1, 5.0f);
  const std::vector<float> up = Normal(37, 2);
  std::vector<float> all(37);
  Swiglu({gate.data(), 37, up.data(), 37, all.data(), 37, 1, 37}, pool);
  for (size_t i = 0; i < 37; ++i) {
    float alone = 0;
    Swiglu({gate.data() + i, 1, up.data() + i, 1, &alone, 1, 1, 1}, pool);
    EXPECT_EQ(alone, all[i]) << i;
  }
}

TEST(RopeTest, FrequenciesFollowTheFormula) {
  const std::vector<double> f = RopeFrequencies(64, 10000.0);
  ASSERT_EQ(f.size(), 32u);
  EXPECT_EQ(f[0], 1.0);
  EXPECT_NEAR(f[16], 0.01, 1e-15);
}

TEST(RopeTest, Llama3ScalingKeepsFastSlowsSlowAndMixesBetween) {
  const Llama3Scaling scaling{8.0, 1.0, 4.0, 8192.0};
  const std::vector<double> plain = RopeFrequencies(128, 500000.0);
  const std::vector<double> scaled = RopeFrequencies(128, 500000.0, scaling);
  for (size_t i = 0; i < plain.size(); ++i) {
    const double wavelength = 2 * std::numbers::pi / plain[i];
    if (wavelength < 8192.0 / 4) {
      EXPECT_EQ(scaled[i], plain[i]) << i;
    } else if (wavelength > 8192.0) {
      EXPECT_NEAR(scaled[i], plain[i] / 8, 1e-18) << i;
    } else {
      EXPECT_LT(scaled[i], plain[i]);
      EXPECT_GT(scaled[i], plain[i] / 8);
    }
  }
}

TEST(RopeTest, AnglesStayExactAtABillion) {
  const std::vector<double> f = RopeFrequencies(64, 10000.0);
  const RotationTable table(f, 1000000000u, 2);
  for (size_t i = 0; i < f.size(); ++i) {
    const long double angle = 1000000001.0L * static_cast<long double>(f[i]);
    EXPECT_NEAR(table.cos_row(1)[i], std::cos(angle), 3e-7) << i;
    EXPECT_NEAR(table.sin_row(1)[i], std::sin(angle), 3e-7) << i;
  }
}

TEST(RopeTest, RotationAgreesInvertsAndKeepsRelativeAngles) {
  for (const size_t d : {16, 32, 64, 128}) {
    const std::vector<double> f = RopeFrequencies(d, 10000.0);
    const RotationTable table(f, 0, 200);
    const std::vector<float> x = Normal(d, d);
    std::vector<float> got(d), want(d), back(d);
    for (const bool inverse : {false, true}) {
      RotateRow(x.data(), table.cos_row(77), table.sin_row(77), d, inverse, got.data());
      RotateRowRef(x.data(), table.cos_row(77), table.sin_row(77), d, inverse, want.data());
      EXPECT_LE(WorstError(got, want), 1e-6);
    }
    RotateRow(got.data(), table.cos_row(77), table.sin_row(77), d, false, back.data());
    EXPECT_LE(WorstError(back, x), 2e-6);
    const std::vector<float> y = Normal(d, d + 1);
    const auto dot = [&](size_t a, size_t b) {
      std::vector<float> ra(d), rb(d);
      RotateRow(x.data(), table.cos_row(a), table.sin_row(a), d, false, ra.data());
      RotateRow(y.data(), table.cos_row(b), table.sin_row(b), d, false, rb.data());
      double sum = 0;
      for (size_t i = 0; i < d; ++i) sum += static_cast<double>(ra[i]) * rb[i];
      return sum;
    };
    EXPECT_NEAR(dot(150, 120), dot(30, 0), 1e-4);
  }
}

}  // namespace
}  // namespace lola::kernels
