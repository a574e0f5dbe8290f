#include "memory/stream/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace lola::memory {
namespace {

TEST(StatisticsTest, BucketBoundsGrowAndEndOpen) {
  for (size_t i = 1; i < kRecallErrorBuckets; ++i) {
    EXPECT_GT(RecallErrorBucketBound(i), RecallErrorBucketBound(i - 1));
  }
  EXPECT_TRUE(std::isinf(RecallErrorBucketBound(kRecallErrorBuckets - 1)));
}

TEST(StatisticsTest, AnErrorLandsInTheFirstBucketThatHoldsIt) {
  for (const float error : {0.0f, 1e-9f, 9.5367431640625e-07f, 1e-3f, 0.25f, 0.26f, 1.0f, 3.0f,
                            4.0f, 5.0f, 262144.0f, 262145.0f, 1e30f}) {
    MemoryStats stats;
    stats.AddRecallError(error);
    size_t expected = 0;
    while (error > RecallErrorBucketBound(expected)) ++expected;
    EXPECT_EQ(stats.recall_error_histogram[expected], 1u) << error;
    EXPECT_EQ(stats.recall_error_count, 1u);
  }
}

TEST(StatisticsTest, NumbersThatAreNoneAreLeftOut) {
  MemoryStats stats;
  stats.AddRecallError(NAN);
  stats.AddRecallError(INFINITY);
  EXPECT_EQ(stats.recall_error_count, 0u);
  EXPECT_EQ(stats.recall_error_sum, 0.0);
}

TEST(StatisticsTest, MergeAddsEverything) {
  MemoryStats a;
  a.tokens = 1;
  a.events = 2;
  a.admissions = 3;
  a.displacements = 4;
  a.absorptions = 5;
  a.nonfinite_scores = 6;
  a.nonfinite_rows = 7;
  a.occupancy_sum = 9;
  a.occupancy_count = 2;
  a.AddRecallError(0.5f);
  MemoryStats b = a;
  b.Merge(a);
  EXPECT_EQ(b.tokens, 2u);
  EXPECT_EQ(b.events, 4u);
  EXPECT_EQ(b.admissions, 6u);
  EXPECT_EQ(b.displacements, 8u);
  EXPECT_EQ(b.absorptions, 10u);
  EXPECT_EQ(b.nonfinite(), 26u);
  EXPECT_EQ(b.average_occupancy(), 4.5);
  EXPECT_EQ(b.occupancy_count, 4u);
  EXPECT_EQ(b.recall_error_count, 2u);
  EXPECT_EQ(std::accumulate(b.recall_error_histogram.begin(), b.recall_error_histogram.end(),
                            uint64_t{0}),
            2u);
}

}  // namespace
}  // namespace lola::memory
