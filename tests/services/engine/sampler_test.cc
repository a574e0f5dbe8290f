#include "services/engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <vector>

namespace lola::engine {
namespace {

using ::testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

int32_t PickId(std::vector<float> logits, SamplingParams params, uint64_t position = 0,
               std::vector<int32_t> recent = {}) {
  Sampler sampler;
  const auto token = sampler.Pick(logits, params, position, recent);
  EXPECT_TRUE(token.ok()) << token.status();
  return token.ok() ? token->id : -1;
}

// Share of each id among many positions.
std::map<int32_t, double> Shares(const std::vector<float>& logits, SamplingParams params) {
  constexpr int kDraws = 20000;
  Sampler sampler;
  std::map<int32_t, double> shares;
  for (int i = 0; i < kDraws; ++i) shares[sampler.Pick(logits, params, i, {})->id] += 1.0 / kDraws;
  return shares;
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowestIdOfEquals) {
  EXPECT_EQ(PickId({1, 3, 2}, {}), 1);
  EXPECT_EQ(PickId({1, 3, 3}, {}), 1);
  EXPECT_EQ(PickId({-kInfinity, -5, -kInfinity}, {}), 1);
}

TEST(Sampler, LogprobIsThatOfTheRawDistribution) {
  Sampler sampler;
  const std::vector<float> logits = {0.0f, std::log(3.0f)};
  SamplingParams params{
      .temperature = 2.0f, .top_k = 1, .repetition_penalty = 2.0f, .repetition_window = 4};
  const std::vector<int32_t> recent = {0};
  const auto token = sampler.Pick(logits, params, 0, recent);
  ASSERT_TRUE(token.ok());
  EXPECT_EQ(token->id, 1);
  EXPECT_NEAR(token->logprob, std::log(0.75), 1e-6);
}

TEST(Sampler, IsAFunctionOfSeedAndPosition) {
  const std::vector<float> logits(50, 0.0f);
  SamplingParams a{.temperature = 1.0f, .seed = 1}, b{.temperature = 1.0f, .seed = 2};
  int same_seed = 0, other_seed = 0, other_position = 0;
  for (uint64_t position = 0; position < 200; ++position) {
    same_seed += PickId(logits, a, position) == PickId(logits, a, position);
    other_seed += PickId(logits, a, position) == PickId(logits, b, position);
    other_position += PickId(logits, a, position) == PickId(logits, a, position + 1);
  }
  EXPECT_EQ(same_seed, 200);
  EXPECT_LT(other_seed, 20);
  EXPECT_LT(other_position, 20);
}

TEST(Sampler, DrawsFromTheSoftmaxOfTheTemperedLogits) {
  const std::vector<float> logits = {0.0f, std::log(4.0f), -kInfinity, 0.0f};
  auto shares = Shares(logits, {.temperature = 1.0f, .seed = 7});
  EXPECT_NEAR(shares[0], 1.0 / 6, 0.02);
  EXPECT_NEAR(shares[1], 4.0 / 6, 0.02);
  EXPECT_EQ(shares.count(2), 0u);
  shares = Shares(logits, {.temperature = 2.0f, .seed = 7});
  EXPECT_NEAR(shares[1], 0.5, 0.02);
}

TEST(Sampler, CutsByCountAndByShareWithTiesToLowIds) {
  const std::vector<float> logits = {1, 2, 2, 2, 0};
  auto shares = Shares(logits, {.temperature = 1.0f, .top_k = 2, .seed = 3});
  EXPECT_EQ(shares.size(), 2u);
  EXPECT_NEAR(shares[1], 0.5, 0.02);
  EXPECT_NEAR(shares[2], 0.5, 0.02);
  // Ids 1, 2, 3 hold about 0.28 each: 0.3 needs the first two.
  shares = Shares(logits, {.temperature = 1.0f, .top_p = 0.3f, .seed = 3});
  EXPECT_EQ(shares.size(), 2u);
  EXPECT_EQ(shares.count(1) + shares.count(2), 2u);
  EXPECT_EQ(Shares(logits, {.temperature = 1.0f, .top_p = 1e-6f, .seed = 3}).size(), 1u);
}

TEST(Sampler, ShareCutSpansManyCandidates) {
  const std::vector<float> logits(1000, 0.0f);
  const auto shares = Shares(logits, {.temperature = 1.0f, .top_p = 0.5f, .seed = 5});
  EXPECT_NEAR(shares.size(), 500, 1);
  EXPECT_LT(shares.rbegin()->first, 501);
}

TEST(Sampler, PenalisesOnlyTheWindow) {
  SamplingParams params{.repetition_penalty = 2.0f, .repetition_window = 2};
  EXPECT_EQ(PickId({3, 2, -1}, params, 0, {0}), 1);
  EXPECT_EQ(PickId({3, 2, -1}, params, 0, {0, 2, 2}), 0);
  EXPECT_EQ(PickId({-1, -1.5f}, params, 0, {0}), 1);
  EXPECT_EQ(PickId({3, 2, -1}, params, 0, {-7, 900}), 0);
}

// Penalties at the ends of their range: no infinities, whose differences are no numbers.
TEST(Sampler, APenaltyNeverMakesALogitInfinite) {
  SamplingParams params{.temperature = 1.0f, .repetition_penalty = 1e-40f, .repetition_window = 2};
  for (uint64_t position = 0; position < 20; ++position) {
    EXPECT_EQ(PickId({10, 0, 5}, params, position, {0}), 0);
  }
  params.repetition_penalty = 100.0f;
  std::set<int32_t> drawn;
  for (uint64_t position = 0; position < 40; ++position) {
    drawn.insert(PickId({-3e38f, -3e38f, -kInfinity}, params, position, {0, 1}));
  }
  EXPECT_EQ(drawn, (std::set<int32_t>{0, 1}));
}

TEST(Sampler, RefusesBrokenLogits) {
  Sampler sampler;
  for (const float bad : {std::nanf(""), kInfinity}) {
    const std::vector<float> logits = {0.0f, bad};
    EXPECT_EQ(sampler.Pick(logits, {}, 0, {}).status().code(), absl::StatusCode::kInternal);
  }
  const std::vector<float> nothing(3, -kInfinity);
  EXPECT_FALSE(sampler.Pick(nothing, {}, 0, {}).ok());
}

TEST(Sampler, ValidationNamesFieldAndValue) {
  const auto error = [](const SamplingParams& params) {
    return std::string(params.Validate().message());
  };
  EXPECT_TRUE(SamplingParams{}.Validate().ok());
  EXPECT_THAT(error({.temperature = -1}), HasSubstr("sampling.temperature: -1"));
  EXPECT_THAT(error({.temperature = std::nanf("")}), HasSubstr("sampling.temperature: nan"));
  EXPECT_THAT(error({.top_p = 0}), HasSubstr("sampling.top_p: 0"));
  EXPECT_THAT(error({.top_p = 1.5f}), HasSubstr("sampling.top_p: 1.5"));
  EXPECT_THAT(error({.repetition_penalty = 0}), HasSubstr("sampling.repetition_penalty: 0"));
  EXPECT_THAT(error({.repetition_window = 5000}), HasSubstr("sampling.repetition_window: 5000"));
}

}  // namespace
}  // namespace lola::engine
