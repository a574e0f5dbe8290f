#include "services/evaluate/summary.h"

#include <gtest/gtest.h>

namespace lola::evaluate {
namespace {

TEST(Summarise, MeanBitsHaveAnInterval) {
  const BitCount count{16, 16, 32.0, 80.0};  // 8 tokens of 1 bit, 8 of 3
  EXPECT_NEAR(MeanInterval(count).first, 1.4939, 1e-4);
  EXPECT_NEAR(MeanInterval(count).second, 2.5061, 1e-4);
}

TEST(Wilson, KnownValuesAndMeans) {
  EXPECT_NEAR(WilsonInterval(99, 100).first, 94.55, 0.01);
  EXPECT_NEAR(WilsonInterval(99, 100).second, 99.82, 0.01);
  EXPECT_EQ(WilsonOfMean(0.5, 40), WilsonInterval(20, 40));
}

TEST(Summarise, CountsValuesByDepthAndDistance) {
  SampleResult sample;
  Answer answer;
  answer.position = 1000;
  answer.answer_at = 1024;
  answer.told = {0, 512, 999};
  answer.verdict.found = {true, false, true};
  answer.verdict.score = 2.0 / 3.0;
  answer.verdict.which = "older";
  sample.answers = {answer};
  const Summary summary = Summarise({sample});
  EXPECT_EQ(summary.found, 2u);
  EXPECT_NEAR(summary.score, 66.667, 0.001);
  EXPECT_EQ(summary.by_depth[0].right, 1u);
  EXPECT_EQ(summary.by_depth[5].asked, 1u);
  EXPECT_EQ(summary.by_depth[5].right, 0u);
  EXPECT_EQ(summary.by_depth[9].right, 1u);
  EXPECT_EQ(summary.by_distance.at(1024).right, 1u);
  EXPECT_EQ(summary.by_distance.at(512).right, 0u);
  EXPECT_EQ(summary.by_distance.at(16).right, 1u);
  EXPECT_EQ(summary.updates.at("older"), 1u);
}

}  // namespace
}  // namespace lola::evaluate
