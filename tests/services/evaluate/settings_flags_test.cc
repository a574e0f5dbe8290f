#include "services/evaluate/settings_flags.h"

#include <gtest/gtest.h>

namespace lola::evaluate {
namespace {

using memory::LolaSettings;

absl::StatusOr<LolaSettings> Parsed(std::vector<std::string> arguments,
                                    const LolaSettings& base = LolaSettings::LifelongProfile()) {
  CLI::App app("test");
  SettingsFlags flags;
  flags.Add(app);
  std::reverse(arguments.begin(), arguments.end());
  app.parse(arguments);
  return flags.Apply(base);
}

TEST(SettingsFlags, NothingGivenLeavesTheProfile) {
  EXPECT_EQ(*Parsed({}), LolaSettings::LifelongProfile());
}

TEST(SettingsFlags, EveryOptionReachesItsSetting) {
  const auto s = Parsed({"--window",
                         "32",
                         "--chunk",
                         "16",
                         "--cache-pairs",
                         "40",
                         "--mixing",
                         "natural",
                         "--memory-positions",
                         "rotary",
                         "--memory-distance",
                         "64",
                         "--mass-cap",
                         "0",
                         "--redundancy-threshold",
                         "0.5",
                         "--score",
                         "attention",
                         "--rescore",
                         "false",
                         "--score-epsilon",
                         "1e-5",
                         "--cache-dtype",
                         "bfloat16",
                         "--sinks",
                         "4",
                         "--cache-sharing",
                         "group_max",
                         "--adaptive-mass",
                         "0.9",
                         "--cache-pairs-min",
                         "8"});
  ASSERT_TRUE(s.ok()) << s.status();
  EXPECT_EQ(s->ToString(),
            "mode=lola window=32 chunk=16 cache_pairs=40 mixing=natural memory_positions=rotary "
            "mass_cap=0 redundancy_threshold=0.5 score=attention rescore=false "
            "score_epsilon=1e-05 sinks=4 cache_sharing=group_max adaptive_mass=0.9 "
            "cache_pairs_min=8 cache_dtype=bfloat16");
  EXPECT_EQ(s->memory_distance, 64u);
}

TEST(SettingsFlags, AWindowAloneMovesTheChunkAndPairsAloneDropTheBudgets) {
  LolaSettings base = LolaSettings::LifelongProfile();
  base.cache_pairs_per_layer = {1, 2};
  EXPECT_EQ(Parsed({"--window", "32"}, base)->chunk, 32u);
  EXPECT_EQ(Parsed({"--cache-pairs", "9"}, base)->CachePairs(1), 9u);
  EXPECT_EQ(Parsed({"--cache-pairs-per-layer", "5,6"}, base)->CachePairs(1), 6u);
}

TEST(SettingsFlags, AnUnknownWordIsNamed) {
  const auto s = Parsed({"--cache-sharing", "all"});
  EXPECT_TRUE(absl::IsInvalidArgument(s.status()));
  EXPECT_NE(s.status().message().find("cache_sharing \"all\""), std::string::npos) << s.status();
}

}  // namespace
}  // namespace lola::evaluate
