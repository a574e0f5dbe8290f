#include "services/engine/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace lola::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

// A plain Llama's config.json.
Json Plain() {
  return Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 272,
    "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "hidden_act": "silu",
    "max_position_embeddings": 1024, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
    "rope_scaling": null, "attention_bias": false, "mlp_bias": false,
    "tie_word_embeddings": false, "bos_token_id": 256, "eos_token_id": 257})");
}

Json WithLola() {
  Json config = Plain();
  config["lola"] = Json::parse(R"({
    "format_version": 1,
    "feature_map": {"kind": "softmax_dim", "feature_dim": 32, "fullspace": true,
                    "clamp_eps": 1e-12},
    "trained": {"window": 64, "mask": "terrace", "length": 1024,
                "memory_positions": "constant", "memory_distance": 128,
                "mixing": "gated_natural"},
    "defaults": {"profile": "lifelong", "window": 64, "chunk": 32, "cache_pairs": 96,
                 "memory_positions": "constant", "memory_distance": 100, "mass_cap": 256,
                 "redundancy_threshold": 0.25, "mixing": "natural", "score_epsilon": 1e-5,
                 "cache_dtype": "bfloat16", "sinks": 4, "cache_sharing": "group",
                 "adaptive_mass": 0.75, "cache_pairs_min": 16},
    "provenance": {"anything": [1, 2]}})");
  return config;
}

std::string ErrorOf(const Json& config) {
  const auto parsed = ParseModelConfig(config.dump());
  return parsed.ok() ? "ok" : std::string(parsed.status().message());
}

std::string ErrorWith(Json config, const char* pointer, const Json& value) {
  config[Json::json_pointer(pointer)] = value;
  return ErrorOf(config);
}

TEST(ModelConfig, PlainLlamaRunsInSoftmaxModeOnly) {
  const auto config = ParseModelConfig(Plain().dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(config->has_lola);
  EXPECT_EQ(config->geometry.feature_dim, 0u);
  EXPECT_EQ(config->geometry.kv_heads, 2u);
  EXPECT_EQ(config->defaults.mode, memory::Mode::kSoftmax);
  EXPECT_EQ(config->defaults.window, 1024u);
  EXPECT_EQ(config->bos, 256);
  EXPECT_THAT(config->eos, ElementsAre(257));
}

TEST(ModelConfig, MistralsSlidingWindowBoundsSoftmaxStreams) {
  Json config = Plain();
  config["model_type"] = "mistral";
  config["sliding_window"] = nullptr;
  auto parsed = ParseModelConfig(config.dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->sliding_window, 0u);
  EXPECT_EQ(parsed->defaults.window, 1024u);
  config["sliding_window"] = 512;
  parsed = ParseModelConfig(config.dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->sliding_window, 512u);
  EXPECT_EQ(parsed->defaults.window, 512u);
  EXPECT_THAT(ErrorWith(config, "/sliding_window", 0), HasSubstr("sliding_window: 0"));
}

TEST(ModelConfig, ReadsEveryLolaField) {
  const auto config = ParseModelConfig(WithLola().dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->has_lola);
  EXPECT_EQ(config->geometry.feature_dim, 64u);
  EXPECT_EQ(config->trained.length, 1024u);
  EXPECT_EQ(config->trained.window, 64u);
  EXPECT_EQ(config->trained.mixing, "gated_natural");
  const memory::LolaSettings& s = config->defaults;
  EXPECT_EQ(s.mode, memory::Mode::kLola);
  EXPECT_EQ(s.profile, "lifelong");
  EXPECT_EQ(s.window, 64u);
  EXPECT_EQ(s.chunk, 32u);
  EXPECT_EQ(s.cache_pairs, 96u);
  EXPECT_EQ(s.memory_positions, memory::MemoryPositions::kConstant);
  EXPECT_EQ(s.memory_distance, 100u);
  EXPECT_EQ(s.mass_cap, 256u);
  EXPECT_EQ(s.redundancy_threshold, 0.25f);
  EXPECT_EQ(s.mixing, memory::Mixing::kNatural);
  EXPECT_EQ(s.score_epsilon, 1e-5f);
  EXPECT_EQ(s.cache_dtype, kernels::Dtype::kBFloat16);
  EXPECT_EQ(s.sinks, 4u);
  EXPECT_EQ(s.cache_sharing, memory::CacheSharing::kGroup);
  EXPECT_EQ(s.adaptive_mass, 0.75f);
  EXPECT_EQ(s.cache_pairs_min, 16u);
}

TEST(ModelConfig, DefaultsFollowTheNamedProfile) {
  Json config = WithLola();
  config["lola"]["defaults"] = {{"profile", "paper"}};
  const auto parsed = ParseModelConfig(config.dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->defaults, memory::LolaSettings::PaperProfile());
}

TEST(ModelConfig, ReadsLlama3ScalingAndNewerRopeParameters) {
  Json config = Plain();
  const Json scaling = {{"rope_type", "llama3"},
                        {"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 8192}};
  config["rope_scaling"] = scaling;
  auto parsed = ParseModelConfig(config.dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_TRUE(parsed->rope_scaling.has_value());
  EXPECT_EQ(parsed->rope_scaling->factor, 8.0);
  EXPECT_EQ(parsed->rope_scaling->original_max_position, 8192.0);
  config = Plain();
  config.erase("rope_theta");
  config["rope_parameters"] = scaling;
  config["rope_parameters"]["rope_theta"] = 500000.0;
  parsed = ParseModelConfig(config.dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->rope_theta, 500000.0);
  EXPECT_TRUE(parsed->rope_scaling.has_value());
  EXPECT_THAT(ErrorWith(config, "/rope_parameters/rope_type", "yarn"), HasSubstr("yarn"));
  EXPECT_THAT(ErrorWith(config, "/rope_parameters/high_freq_factor", 0.5),
              HasSubstr("high_freq_factor: 0.5"));
}

TEST(ModelConfig, EosMayBeAList) {
  Json config = Plain();
  config["eos_token_id"] = {257, 258};
  EXPECT_THAT(ParseModelConfig(config.dump())->eos, ElementsAre(257, 258));
  EXPECT_THAT(ErrorWith(config, "/eos_token_id", 272), HasSubstr("eos_token_id: 272"));
  EXPECT_THAT(ErrorWith(config, "/eos_token_id", Json::array({"x"})), HasSubstr("eos_token_id"));
}

TEST(ModelConfig, NamesBadFieldsWithTheirValues) {
  EXPECT_THAT(ErrorWith(Plain(), "/hidden_size", "wide"), HasSubstr("hidden_size: \"wide\""));
  EXPECT_THAT(ErrorWith(Plain(), "/hidden_size", -1), HasSubstr("hidden_size: -1"));
  EXPECT_THAT(ErrorWith(Plain(), "/hidden_size", nullptr), HasSubstr("hidden_size: missing"));
  EXPECT_THAT(ErrorWith(Plain(), "/num_hidden_layers", 0), HasSubstr("num_hidden_layers: 0"));
  EXPECT_THAT(ErrorWith(Plain(), "/num_key_value_heads", 3), HasSubstr("kv_heads"));
  EXPECT_THAT(ErrorWith(Plain(), "/rms_norm_eps", -1e-5), HasSubstr("rms_norm_eps: -1e-05"));
  EXPECT_THAT(ErrorWith(Plain(), "/rope_theta", "x"), HasSubstr("rope_theta: \"x\""));
  EXPECT_THAT(ErrorWith(Plain(), "/hidden_act", "gelu"), HasSubstr("hidden_act: \"gelu\""));
  EXPECT_THAT(ErrorWith(Plain(), "/attention_bias", true), HasSubstr("attention_bias: true"));
  EXPECT_THAT(ErrorWith(Plain(), "/model_type", "qwen3"), HasSubstr("qwen3"));
  EXPECT_THAT(ErrorWith(Plain(), "/sliding_window", 4096), HasSubstr("sliding_window: 4096"));
  EXPECT_THAT(ErrorWith(Plain(), "/quantization_config", Json{{"bits", 4}}),
              HasSubstr("quantization_config: {\"bits\":4}"));
  EXPECT_THAT(ErrorWith(Plain(), "/partial_rotary_factor", 0.5),
              HasSubstr("partial_rotary_factor: 0.5"));
  EXPECT_THAT(ErrorWith(Plain(), "/rope_scaling", Json{{"type", "linear"}}), HasSubstr("linear"));
  EXPECT_THAT(ErrorOf(Json::array()), HasSubstr("not a JSON object"));
}

// Values are copied and printed level by level on the stack: a nest must not end the process.
TEST(ModelConfig, ANestOfBracketsIsRefusedByItsPlace) {
  const std::string nest = std::string(200'000, '[') + std::string(200'000, ']');
  for (const char* field : {"hidden_size", "eos_token_id", "quantization_config", "anything"}) {
    const std::string text = "{\"" + std::string(field) + "\":" + nest + "}";
    EXPECT_THAT(std::string(ParseModelConfig(text).status().message()),
                HasSubstr("nested deeper than 128 levels at byte "));
  }
  const Json text = std::string(300, '[') + "\"\\" + std::string(300, '{');
  EXPECT_EQ(ErrorWith(Plain(), "/brackets_in_a_text", text), "ok");
}

TEST(ModelConfig, NamesBadLolaFields) {
  const Json good = WithLola();
  EXPECT_EQ(ErrorOf(good), "ok");
  EXPECT_THAT(ErrorWith(good, "/lola", 7), HasSubstr("lola: 7"));
  EXPECT_THAT(ErrorWith(good, "/lola/format_version", 2), HasSubstr("lola.format_version: 2"));
  EXPECT_THAT(ErrorWith(good, "/lola/feature_map/kind", "relu"),
              HasSubstr("lola.feature_map.kind: \"relu\""));
  EXPECT_THAT(ErrorWith(good, "/lola/feature_map/clamp_eps", 1e-6), HasSubstr("clamp_eps"));
  EXPECT_THAT(ErrorWith(good, "/lola/defaults/mixing", "odd"), HasSubstr("lola.defaults.mixing"));
  EXPECT_THAT(ErrorWith(good, "/lola/defaults/score", "odd"), HasSubstr("lola.defaults.score"));
  EXPECT_THAT(ErrorWith(good, "/lola/defaults/chunk", 63), HasSubstr("63"));
  EXPECT_THAT(ErrorWith(good, "/lola/defaults/windows", 64),
              HasSubstr("lola.defaults.windows: unknown field"));
  EXPECT_THAT(ErrorWith(good, "/lola/defaults/cache_pairs_per_layer", {64, 64}),
              HasSubstr("cache_pairs_per_layer"));
  EXPECT_THAT(ErrorWith(good, "/lola/defaults/profile", "x"), HasSubstr("profile: \"x\""));
}

}  // namespace
}  // namespace lola::engine
