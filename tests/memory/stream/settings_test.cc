#include "memory/stream/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/memory/stream/stream_fixture.h"

namespace lola::memory {
namespace {

using ::testing::HasSubstr;

std::string Refusal(const LolaSettings& settings) {
  const absl::Status status = settings.Validate(test::SmallGeometry());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << settings.ToString();
  return std::string(status.message());
}

TEST(SettingsTest, ProfilesValidateAndDiffer) {
  const ModelGeometry geometry = test::SmallGeometry();
  const LolaSettings paper = LolaSettings::PaperProfile();
  const LolaSettings lifelong = LolaSettings::LifelongProfile();
  EXPECT_TRUE(paper.Validate(geometry).ok());
  EXPECT_TRUE(lifelong.Validate(geometry).ok());
  EXPECT_TRUE(LolaSettings::SoftmaxProfile(1000).Validate(geometry).ok());
  EXPECT_FALSE(paper == lifelong);
  EXPECT_EQ(lifelong.memory_distance, 128u);
  EXPECT_EQ(lifelong.mass_cap, 512u);
  EXPECT_FLOAT_EQ(lifelong.redundancy_threshold, 0.3f);
  EXPECT_EQ(paper.mass_cap, 0u);
  EXPECT_EQ(paper.memory_positions, MemoryPositions::kRotary);
}

TEST(SettingsTest, RefusalsNameFieldAndValue) {
  LolaSettings s;
  s.window = 65;
  EXPECT_THAT(Refusal(s), HasSubstr("chunk 64 does not divide window 65"));
  s = {};
  s.window = 0;
  EXPECT_THAT(Refusal(s), HasSubstr("window 0"));
  s = {};
  s.chunk = 0;
  EXPECT_THAT(Refusal(s), HasSubstr("chunk 0"));
  s = {};
  s.window = 1u << 21;
  EXPECT_THAT(Refusal(s), HasSubstr("window 2097152"));
  s = {};
  s.cache_pairs = 1u << 20;
  EXPECT_THAT(Refusal(s), HasSubstr("cache_pairs 1048576"));
  s = {};
  s.cache_pairs_per_layer = {1, 2, 3};
  EXPECT_THAT(Refusal(s), HasSubstr("cache_pairs_per_layer has 3 entries, the model has 2"));
  s = {};
  s.redundancy_threshold = NAN;
  EXPECT_THAT(Refusal(s), HasSubstr("redundancy_threshold"));
  s.redundancy_threshold = -1;
  EXPECT_THAT(Refusal(s), HasSubstr("redundancy_threshold -1"));
  s = {};
  s.score_epsilon = 0;
  EXPECT_THAT(Refusal(s), HasSubstr("score_epsilon 0"));
  s = {};
  s.memory_distance = 1u << 30;
  EXPECT_THAT(Refusal(s), HasSubstr("memory_distance 1073741824"));
  s = {};
  s.mixing = static_cast<Mixing>(9);
  EXPECT_THAT(Refusal(s), HasSubstr("mixing 9"));
  s = {};
  s.cache_dtype = static_cast<kernels::Dtype>(7);
  EXPECT_THAT(Refusal(s), HasSubstr("cache_dtype 7"));
  s.cache_dtype = kernels::Dtype::kInt8;  // weights only
  EXPECT_THAT(Refusal(s), HasSubstr("cache_dtype 3"));
  s = {};
  s.score = static_cast<Score>(11);
  EXPECT_THAT(Refusal(s), HasSubstr("score 11"));
  s = {};
  s.cache_sharing = static_cast<CacheSharing>(3);
  EXPECT_THAT(Refusal(s), HasSubstr("cache_sharing 3"));
  s = {};
  s.cache_pairs_per_layer = {64, 3};
  s.sinks = 4;
  EXPECT_THAT(Refusal(s), HasSubstr("sinks 4 is above the 3 cache_pairs of layer 1"));
  s = {};
  s.adaptive_mass = 1.5f;
  EXPECT_THAT(Refusal(s), HasSubstr("adaptive_mass 1.5"));
  s.adaptive_mass = NAN;
  EXPECT_THAT(Refusal(s), HasSubstr("adaptive_mass nan"));
  s = {};
  s.cache_pairs_min = 129;
  EXPECT_THAT(Refusal(s), HasSubstr("cache_pairs_min 129 is above cache_pairs 128"));
}

TEST(SettingsTest, AModelWithoutFeatureMapsRunsSoftmaxOnly) {
  ModelGeometry geometry = test::SmallGeometry();
  geometry.feature_dim = 0;
  EXPECT_FALSE(LolaSettings::LifelongProfile().Validate(geometry).ok());
  EXPECT_TRUE(LolaSettings::SoftmaxProfile(64).Validate(geometry).ok());
}

TEST(GeometryTest, RefusalsNameFieldAndValue) {
  const auto refusal = [](auto change) {
    ModelGeometry g = test::SmallGeometry();
    change(g);
    return std::string(g.Validate().message());
  };
  EXPECT_THAT(refusal([](auto& g) { g.layers = 0; }), HasSubstr("layers 0"));
  EXPECT_THAT(refusal([](auto& g) { g.kv_heads = 3; }),
              HasSubstr("kv_heads 3 does not divide query_heads 4"));
  EXPECT_THAT(refusal([](auto& g) { g.kv_heads = 0; }), HasSubstr("kv_heads 0"));
  EXPECT_THAT(refusal([](auto& g) { g.head_dim = 40; }), HasSubstr("head_dim 40"));
  EXPECT_THAT(refusal([](auto& g) { g.feature_dim = 48; }), HasSubstr("feature_dim 48"));
  EXPECT_THAT(refusal([](auto& g) { g.vocab = 0; }), HasSubstr("vocab 0"));
}

TEST(SettingsTest, FingerprintSeesEveryFieldButTheProfile) {
  const LolaSettings base = LolaSettings::LifelongProfile();
  const auto differs = [&](auto change) {
    LolaSettings other = base;
    change(other);
    return other.Fingerprint() != base.Fingerprint() && !(other == base);
  };
  EXPECT_FALSE(differs([](auto& s) { s.profile = "mine"; }));
  EXPECT_TRUE(differs([](auto& s) { s.mode = Mode::kSoftmax; }));
  EXPECT_TRUE(differs([](auto& s) { s.window = 128; }));
  EXPECT_TRUE(differs([](auto& s) { s.chunk = 32; }));
  EXPECT_TRUE(differs([](auto& s) { s.cache_pairs = 127; }));
  EXPECT_TRUE(differs([](auto& s) { s.cache_pairs_per_layer = {128, 128}; }));
  EXPECT_TRUE(differs([](auto& s) { s.mixing = Mixing::kNatural; }));
  EXPECT_TRUE(differs([](auto& s) { s.memory_positions = MemoryPositions::kRotary; }));
  EXPECT_TRUE(differs([](auto& s) { s.memory_distance = 64; }));
  EXPECT_TRUE(differs([](auto& s) { s.mass_cap = 0; }));
  EXPECT_TRUE(differs([](auto& s) { s.redundancy_threshold = 0; }));
  EXPECT_TRUE(differs([](auto& s) { s.score = Score::kRandom; }));
  EXPECT_TRUE(differs([](auto& s) { s.rescore = false; }));
  EXPECT_TRUE(differs([](auto& s) { s.score_epsilon = 1e-5f; }));
  EXPECT_TRUE(differs([](auto& s) { s.sinks = 4; }));
  EXPECT_TRUE(differs([](auto& s) { s.cache_sharing = CacheSharing::kGroup; }));
  EXPECT_TRUE(differs([](auto& s) { s.adaptive_mass = 0.9f; }));
  EXPECT_FALSE(differs([](auto& s) { s.cache_pairs_min = 32; }));  // no meaning alone
  EXPECT_TRUE(differs([](auto& s) { s.cache_dtype = kernels::Dtype::kBFloat16; }));
}

// Records on disk carry this value: it must not move between releases.
TEST(SettingsTest, FingerprintIsFrozen) {
  EXPECT_EQ(ToHex(LolaSettings::LifelongProfile().Fingerprint()),
            "68dd04b62970d8b2bd70c3aa3d7a8c7a");
}

TEST(SettingsTest, LaterSettingsAreDistinctAndFrozenToo) {
  LolaSettings all = LolaSettings::LifelongProfile();
  EXPECT_FALSE(all.Extended());
  all.sinks = 2;
  LolaSettings other = LolaSettings::LifelongProfile();
  other.cache_sharing = CacheSharing::kGroupMax;  // also the number 2
  EXPECT_NE(all.Fingerprint(), other.Fingerprint());
  all.cache_sharing = CacheSharing::kGroup;
  LolaSettings rows = LolaSettings::SoftmaxProfile(64);
  rows.cache_dtype = kernels::Dtype::kFloat8;
  EXPECT_TRUE(rows.Extended());
  all.adaptive_mass = 0.75f;
  all.cache_pairs_min = 16;
  EXPECT_TRUE(all.Extended());
  EXPECT_EQ(ToHex(all.Fingerprint()), "b2e9d800d2612a4ae07e87f4d76c02b4");
  EXPECT_THAT(all.ToString(), HasSubstr(" score_epsilon=1e-06 sinks=2 cache_sharing=group "
                                        "adaptive_mass=0.75 cache_pairs_min=16 cache_dtype"));
}

TEST(SettingsTest, WordsParseBackAndUnknownOnesAreNamed) {
  for (int i = 0; i <= static_cast<int>(Score::kAttention); ++i) {
    EXPECT_EQ(*ParseScore(Name(static_cast<Score>(i))), static_cast<Score>(i));
  }
  for (int i = 0; i <= static_cast<int>(CacheSharing::kGroupMax); ++i) {
    const auto sharing = static_cast<CacheSharing>(i);
    EXPECT_EQ(*ParseCacheSharing(Name(sharing)), sharing);
  }
  for (const Mixing mixing : {Mixing::kGatedNatural, Mixing::kNatural, Mixing::kLolcats}) {
    EXPECT_EQ(*ParseMixing(Name(mixing)), mixing);
  }
  EXPECT_EQ(*ParseMode("softmax"), Mode::kSoftmax);
  EXPECT_EQ(*ParseMemoryPositions("constant"), MemoryPositions::kConstant);
  EXPECT_EQ(*ParseCacheDtype("bfloat16"), kernels::Dtype::kBFloat16);
  EXPECT_EQ(*ParseCacheDtype("float8"), kernels::Dtype::kFloat8);
  EXPECT_THAT(std::string(ParseScore("best").status().message()),
              HasSubstr("score \"best\" is unknown; known: sre, value_norm"));
  EXPECT_THAT(std::string(ParseCacheDtype("fp8").status().message()), HasSubstr("fp8"));
}

TEST(SettingsTest, ToStringNamesWhatMatters) {
  EXPECT_EQ(LolaSettings::LifelongProfile().ToString(),
            "mode=lola window=64 chunk=64 cache_pairs=128 mixing=gated_natural "
            "memory_positions=constant memory_distance=128 mass_cap=512 redundancy_threshold=0.3 "
            "score=sre rescore=true score_epsilon=1e-06 cache_dtype=float32");
  EXPECT_EQ(LolaSettings::SoftmaxProfile(99).ToString(),
            "mode=softmax window=99 cache_dtype=float32");
}

}  // namespace
}  // namespace lola::memory
