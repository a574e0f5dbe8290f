// The ops of a chunk event against their references: feature map, recall score, redundancy, select,
// absorb.
#include <numeric>
#include <set>
#include <tuple>

#include "kernels/absorb/absorb.h"
#include "kernels/feature_map/feature_map.h"
#include "kernels/recall_score/recall_score.h"
#include "kernels/redundancy/redundancy.h"
#include "kernels/select/select.h"
#include "tests/kernels/kernel_test_util.h"

namespace lola::kernels {
namespace {

using test::Normal;
using test::WorstError;

// rows, head_dim, map_dim
using Shape = std::tuple<size_t, size_t, size_t>;

class MemoryOpsTest : public ::testing::TestWithParam<Shape> {
 protected:
  MemoryOpsTest() { std::tie(rows_, d_, f_) = GetParam(); }

  std::vector<float> Features(uint64_t seed) const {
    const std::vector<float> x = Normal(rows_ * d_, seed);
    const std::vector<float> map = Normal(d_ * f_, seed + 1, 0.3f);
    std::vector<float> phi(rows_ * 2 * f_);
    FeatureMapRef({x.data(), d_, map.data(), rows_, d_, f_, phi.data()});
    return phi;
  }

  size_t rows_, d_, f_;
};

TEST_P(MemoryOpsTest, FeatureMapAgreesAndRowsStandAlone) {
  const size_t stride = d_ + 4;
  const std::vector<float> x = Normal(rows_ * stride, 1);
  const std::vector<float> map = Normal(d_ * f_, 2, 0.5f);
  std::vector<float> got(rows_ * 2 * f_), want(got.size()), single(got.size());
  FeatureMapParams p{x.data(), stride, map.data(), rows_, d_, f_, got.data()};
  FeatureMap(p);
  p.output = want.data();
  FeatureMapRef(p);
  EXPECT_LE(WorstError(got, want), 5e-6);
  for (size_t r = 0; r < rows_; ++r) {
    FeatureMap({x.data() + r * stride, stride, map.data(), 1, d_, f_, single.data() + r * 2 * f_});
  }
  EXPECT_TRUE(test::SameBits(single.data(), got.data(), got.size()));
}

TEST_P(MemoryOpsTest, FeatureMapHasAFloorAndSumsToOneOtherwise) {
  const std::vector<float> x = Normal(rows_ * d_, 1, 40.0f);  // sharp: most features vanish
  const std::vector<float> map = Normal(d_ * f_, 2, 1.0f);
  std::vector<float> phi(rows_ * 2 * f_);
  FeatureMap({x.data(), d_, map.data(), rows_, d_, f_, phi.data()});
  for (size_t half = 0; half < rows_ * 2; ++half) {
    const auto begin = phi.begin() + half * f_;
    EXPECT_GE(*std::min_element(begin, begin + f_), kFeatureFloor);
    EXPECT_NEAR(std::accumulate(begin, begin + f_, 0.0), 1.0, 1e-5);
  }
}

TEST_P(MemoryOpsTest, RecallScoreAgreesInEveryForm) {
  const std::vector<float> phi = Features(3);
  const std::vector<float> v = Normal(rows_ * d_, 5);
  const std::vector<float> h = Normal(2 * f_ * d_, 6, 3.0f);
  std::vector<float> s = Normal(2 * f_, 7);
  for (float& value : s) value = 1.0f + std::abs(value);
  for (const bool empty : {false, true}) {
    for (const bool leave_out : {false, true}) {
      std::vector<float> got(rows_), want(rows_);
      RecallScoreParams p{.features = phi.data(),
                          .values = v.data(),
                          .h = h.data(),
                          .s = s.data(),
                          .rows = rows_,
                          .feature_dim = 2 * f_,
                          .head_dim = d_,
                          .epsilon = 1e-6f,
                          .empty_state = empty,
                          .leave_self_out = leave_out,
                          .scores = got.data()};
      RecallScore(p);
      p.scores = want.data();
      if (empty) p.leave_self_out = false;
      RecallScoreRef(p);
      for (size_t r = 0; r < rows_; ++r) {
        EXPECT_NEAR(got[r], want[r], 1e-4 * want[r] + 1e-6) << r << empty << leave_out;
      }
    }
  }
}

TEST_P(MemoryOpsTest, RedundancyCountsAgree) {
  std::vector<float> v = Normal(rows_ * d_, 8);
  // Copies at distances on both sides of the threshold.
  for (size_t r = 1; r < rows_; ++r) {
    if (r % 3 == 0) continue;
    for (size_t i = 0; i < d_; ++i)
      v[r * d_ + i] = v[(r - 1) * d_ + i] * (r % 3 == 1 ? 1.1f : 1.5f);
  }
  for (const float threshold : {0.01f, 0.3f, 1.0f, 2.0f}) {
    std::vector<uint32_t> got(rows_), want(rows_);
    std::vector<float> scratch(RedundancyScratchFloats(rows_, d_));
    RedundancyParams p{v.data(), rows_, d_, threshold, got.data(), scratch.data()};
    Redundancy(p);
    p.counts = want.data();
    RedundancyRef(p);
    EXPECT_EQ(got, want) << threshold;
  }
}

TEST_P(MemoryOpsTest, EqualValuesAreAllRedundantEvenZeros) {
  for (const float value : {0.0f, 3.0f}) {
    const std::vector<float> v(rows_ * d_, value);
    std::vector<uint32_t> counts(rows_);
    std::vector<float> scratch(RedundancyScratchFloats(rows_, d_));
    Redundancy({v.data(), rows_, d_, 0.3f, counts.data(), scratch.data()});
    for (const uint32_t count : counts) EXPECT_EQ(count, rows_);
  }
}

TEST_P(MemoryOpsTest, AbsorbAgreesOverManyBatches) {
  std::vector<float> h(2 * f_ * d_), s(2 * f_), correction(2 * f_);
  std::vector<float> h_ref = h, s_ref = s, correction_ref = correction;
  for (uint64_t batch = 0; batch < 5; ++batch) {
    const std::vector<float> phi = Features(10 + batch);
    const std::vector<float> v = Normal(rows_ * d_, 20 + batch);
    AbsorbParams p{.features = phi.data(),
                   .values = v.data(),
                   .rows = rows_,
                   .feature_dim = 2 * f_,
                   .head_dim = d_,
                   .h = h.data(),
                   .s = s.data(),
                   .s_correction = correction.data()};
    Absorb(p);
    p.h = h_ref.data();
    p.s = s_ref.data();
    p.s_correction = correction_ref.data();
    AbsorbRef(p);
  }
  EXPECT_LE(WorstError(h, h_ref), 1e-6 * static_cast<double>(rows_) + 1e-6);
  EXPECT_LE(WorstError(s, s_ref), 1e-6 * static_cast<double>(rows_));
}

INSTANTIATE_TEST_SUITE_P(Shapes, MemoryOpsTest,
                         ::testing::Values(Shape{1, 16, 16}, Shape{64, 32, 32}, Shape{77, 64, 64},
                                           Shape{192, 32, 32}, Shape{50, 128, 64},
                                           Shape{31, 48, 48}));

TEST(AbsorbTest, MassStaysExactOverAMillionPairs) {
  // 1/64 is exact; 0.1f is not, and plain float32 sums of it drift by percents.
  constexpr size_t kFeatures = 16, kDim = 16, kRows = 64, kBatches = 16384;
  std::vector<float> phi(kRows * kFeatures, 0.1f), v(kRows * kDim, 1.0f);
  std::vector<float> h(kFeatures * kDim), s(kFeatures), correction(kFeatures);
  for (size_t batch = 0; batch < kBatches; ++batch) {
    Absorb({.features = phi.data(),
            .values = v.data(),
            .rows = kRows,
            .feature_dim = kFeatures,
            .head_dim = kDim,
            .h = h.data(),
            .s = s.data(),
            .s_correction = correction.data()});
  }
  // A batch of 64 is rounded once in float32; nothing else is lost.
  const double exact = static_cast<double>(0.1f) * kRows * kBatches;
  EXPECT_NEAR((static_cast<double>(s[3]) + correction[3]) / exact, 1.0, 1e-6);
  // H is plain float32: equal increments are its worst case, every rounding errs the same way.
  EXPECT_NEAR(h[5] / exact, 1.0, 5e-4);
}

TEST(SelectTest, AgreesWithTheFullSortUnderTies) {
  std::mt19937_64 random(3);
  for (int trial = 0; trial < 200; ++trial) {
    const size_t n = 1 + random() % 200;
    const size_t keep = random() % (n + 1);
    std::vector<Candidate> a;
    for (size_t i = 0; i < n; ++i) {
      a.push_back({static_cast<float>(random() % 7), static_cast<uint32_t>(i),
                   static_cast<int64_t>(1000 - 3 * i)});
    }
    std::vector<Candidate> b = a;
    EXPECT_EQ(SelectTop(a, keep), 0u);
    SelectTopRef(b, keep);
    std::set<int64_t> kept_a, kept_b;
    for (size_t i = 0; i < keep; ++i) {
      kept_a.insert(a[i].position);
      kept_b.insert(b[i].position);
    }
    EXPECT_EQ(kept_a, kept_b);
  }
}

TEST(SelectTest, NanIsCountedAndComesLastAndInfinityIsCounted) {
  std::vector<Candidate> c = {
      {NAN, 0, 0}, {-INFINITY, 1, 1}, {2.0f, 2, 2}, {INFINITY, 3, 3}, {NAN, 4, 4}};
  EXPECT_EQ(SelectTop(c, 3), 4u);
  std::set<int64_t> kept = {c[0].position, c[1].position, c[2].position};
  EXPECT_EQ(kept, (std::set<int64_t>{1, 2, 3}));
  EXPECT_TRUE(RanksBefore({NAN, 0, 0}, {NAN, 4, 4}));
}

TEST(SelectTest, MassPrefixIsTheShortestThatHoldsTheShare) {
  std::vector<Candidate> c;
  for (const float score : {8.0f, 4.0f, 2.0f, 1.0f, 1.0f}) c.push_back({score, 0, 0});
  EXPECT_EQ(MassPrefix(c, 0.4), 1u);
  EXPECT_EQ(MassPrefix(c, 0.5), 1u);
  EXPECT_EQ(MassPrefix(c, 0.51), 2u);
  EXPECT_EQ(MassPrefix(c, 0.75), 2u);
  EXPECT_EQ(MassPrefix(c, 0.95), 5u);
  EXPECT_EQ(MassPrefix(c, 1.0), 5u);
  for (Candidate& candidate : c) candidate.score = 0.0f;
  EXPECT_EQ(MassPrefix(c, 0.5), 0u);  // nothing to hold
  c[4].score = NAN;
  EXPECT_EQ(MassPrefix(c, 0.5), 5u);
  EXPECT_EQ(MassPrefix({}, 0.5), 0u);
}

TEST(SelectTest, RandomScoresAreFixedAndSpread) {
  double sum = 0;
  for (int64_t p = 0; p < 10000; ++p) {
    const float score = RandomScore(p);
    ASSERT_GE(score, 0.0f);
    ASSERT_LT(score, 1.0f);
    sum += score;
  }
  EXPECT_NEAR(sum / 10000, 0.5, 0.02);
  EXPECT_EQ(RandomScore(12345), RandomScore(12345));
  EXPECT_NE(RandomScore(1), RandomScore(2));
}

}  // namespace
}  // namespace lola::kernels
