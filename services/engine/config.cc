#include "services/engine/config.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "memory/text.h"
#include "services/engine/json_reader.h"
#include "services/engine/mapped_file.h"

namespace lola::engine {
namespace {

constexpr size_t kConfigBytesMax = 4 << 20;
constexpr uint64_t kLayersMax = 1024;
constexpr uint64_t kWidthMax = 1 << 20;
constexpr uint64_t kHeadsMax = 4096;
constexpr uint64_t kVocabMax = 1 << 24;
constexpr uint64_t kPositionsMax = uint64_t{1} << 40;
// A plain Llama's stream holds its whole key-value cache; longer windows are asked for explicitly.
constexpr uint64_t kSoftmaxWindowDefaultMax = 8192;

// Reads one id, a list of ids, or nothing.
std::vector<int32_t> ReadIds(JsonReader& reader, const char* name, uint64_t vocab) {
  const Json* value = reader.Find(name);
  if (value == nullptr) return {};
  const Json list = value->is_array() ? *value : Json::array({*value});
  std::vector<int32_t> ids;
  for (const Json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= vocab) {
      reader.Refuse(name, *value, absl::StrCat("ids from 0 to ", vocab - 1));
      return {};
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

void ReadShape(JsonReader& reader, ModelConfig& config) {
  memory::ModelGeometry& g = config.geometry;
  g.layers = reader.Unsigned("num_hidden_layers", 1, kLayersMax);
  g.hidden = reader.Unsigned("hidden_size", 1, kWidthMax);
  g.query_heads = reader.Unsigned("num_attention_heads", 1, kHeadsMax);
  g.kv_heads = reader.Unsigned("num_key_value_heads", 1, kHeadsMax, g.query_heads);
  g.head_dim = reader.Unsigned("head_dim", 1, kWidthMax, g.hidden / g.query_heads);
  g.ffn = reader.Unsigned("intermediate_size", 1, kWidthMax);
  g.vocab = reader.Unsigned("vocab_size", 1, kVocabMax);
  config.rms_epsilon = static_cast<float>(reader.Number("rms_norm_eps", 0.0, 1.0, 1e-6));
  config.tied_embeddings = reader.Bool("tie_word_embeddings", false);
  config.max_positions = reader.Unsigned("max_position_embeddings", 1, kPositionsMax, 0);
  const std::vector<int32_t> bos = ReadIds(reader, "bos_token_id", g.vocab);
  if (!bos.empty()) config.bos = bos.front();
  config.eos = ReadIds(reader, "eos_token_id", g.vocab);
}

void RefuseWhatIsMissing(JsonReader& reader, ModelConfig& config) {
  const std::string type = reader.Text("model_type", "llama");
  if (type != "llama" && type != "mistral") {
    reader.Unsupported("model_type", type, "llama, mistral");
  }
  const std::string act = reader.Text("hidden_act", "silu");
  if (act != "silu") reader.Unsupported("hidden_act", act, "silu");
  for (const char* name : {"attention_bias", "mlp_bias"}) {
    if (reader.Bool(name, false)) reader.Unsupported(name, true, "false");
  }
  if (const Json* quantised = reader.Find("quantization_config")) {
    reader.Unsupported("quantization_config", *quantised, "none: float32, bfloat16, float16");
  }
  const double rotated = reader.Number("partial_rotary_factor", 0.0, 1.0, 1.0);
  if (rotated != 1.0) reader.Unsupported("partial_rotary_factor", rotated, "1");
  const Json* sliding = reader.Find("sliding_window");
  if (sliding == nullptr) return;
  if (type != "mistral")
    reader.Unsupported("sliding_window", *sliding, "null, or model_type mistral");
  config.sliding_window = reader.Unsigned("sliding_window", 1, UINT32_MAX);
}

// Older writers: rope_theta and rope_scaling; newer ones: both in rope_parameters.
void ReadRope(JsonReader& reader, ModelConfig& config) {
  const Json* parameters = reader.Object("rope_parameters");
  const Json* scaling = reader.Object("rope_scaling");
  const std::string where =
      reader.prefix() + (scaling != nullptr ? "rope_scaling." : "rope_parameters.");
  const double theta = reader.Number("rope_theta", 1.0, 1e12, 0.0);
  if (scaling == nullptr) scaling = parameters;
  config.rope_theta = theta > 0.0 ? theta : 10000.0;
  if (parameters != nullptr && theta == 0.0) {
    JsonReader inner(*parameters, reader.prefix() + "rope_parameters.");
    config.rope_theta = inner.Number("rope_theta", 1.0, 1e12, 10000.0);
    reader.Fail(inner.status());
  }
  if (scaling == nullptr) return;
  JsonReader inner(*scaling, where);
  const std::string type = inner.Text("rope_type", inner.Text("type", "default"));
  if (type == "llama3") {
    kernels::Llama3Scaling llama3;
    llama3.factor = inner.Number("factor", 1.0, 1e6);
    llama3.low_freq_factor = inner.Number("low_freq_factor", 1e-3, 1e6);
    llama3.high_freq_factor = inner.Number("high_freq_factor", 1e-3, 1e6);
    llama3.original_max_position =
        inner.Number("original_max_position_embeddings", 1.0, double{kPositionsMax});
    if (inner.status().ok() && llama3.high_freq_factor <= llama3.low_freq_factor) {
      inner.Refuse("high_freq_factor", llama3.high_freq_factor,
                   absl::StrCat("above low_freq_factor ", llama3.low_freq_factor));
    }
    config.rope_scaling = llama3;
  } else if (type != "default") {
    inner.Unsupported("rope_type", type, "default, llama3");
  }
  reader.Fail(inner.status());
}

template <typename T>
void Parse(JsonReader& reader, const char* name, absl::StatusOr<T> (*parse)(std::string_view),
           T& out) {
  if (reader.Find(name) == nullptr) return;
  const absl::StatusOr<T> value = parse(reader.Text(name));
  if (value.ok()) {
    out = *value;
  } else {
    reader.Fail(absl::Status(value.status().code(),
                             absl::StrCat(reader.prefix(), name, ": ", value.status().message())));
  }
}

void ReadBudgets(JsonReader& reader, memory::LolaSettings& s) {
  const Json* budgets = reader.Find("cache_pairs_per_layer");
  if (budgets == nullptr) return;
  bool good = budgets->is_array();
  for (size_t i = 0; good && i < budgets->size(); ++i) {
    good = (*budgets)[i].is_number_unsigned() && (*budgets)[i].get<uint64_t>() <= kWidthMax;
    if (good) s.cache_pairs_per_layer.push_back((*budgets)[i].get<uint32_t>());
  }
  if (!good) reader.Refuse("cache_pairs_per_layer", *budgets, "an array of pair counts");
}

// "lola.defaults": every field is optional and falls back to the named profile's value.
void ReadDefaults(const Json& object, ModelConfig& config, absl::Status& status) {
  JsonReader reader(object, "lola.defaults.");
  const std::string profile = reader.Text("profile", "lifelong");
  memory::LolaSettings s = profile == "paper" ? memory::LolaSettings::PaperProfile()
                                              : memory::LolaSettings::LifelongProfile();
  if (profile != "paper" && profile != "lifelong" && profile != "custom") {
    reader.Refuse("profile", profile, "paper, lifelong or custom");
  }
  s.profile = profile;
  Parse(reader, "mode", &memory::ParseMode, s.mode);
  s.window = reader.Unsigned("window", 1, kWidthMax, s.window);
  s.chunk = reader.Unsigned("chunk", 1, kWidthMax, s.chunk);
  s.cache_pairs = reader.Unsigned("cache_pairs", 0, kWidthMax, s.cache_pairs);
  ReadBudgets(reader, s);
  Parse(reader, "mixing", &memory::ParseMixing, s.mixing);
  Parse(reader, "memory_positions", &memory::ParseMemoryPositions, s.memory_positions);
  s.memory_distance = reader.Unsigned("memory_distance", 0, kPositionsMax >> 16, s.memory_distance);
  s.mass_cap = reader.Unsigned("mass_cap", 0, UINT32_MAX, s.mass_cap);
  s.redundancy_threshold = static_cast<float>(
      reader.Number("redundancy_threshold", 0.0, 1e6, double{s.redundancy_threshold}));
  Parse(reader, "score", &memory::ParseScore, s.score);
  s.rescore = reader.Bool("rescore", s.rescore);
  s.score_epsilon =
      static_cast<float>(reader.Number("score_epsilon", 0.0, 1.0, double{s.score_epsilon}));
  Parse(reader, "cache_dtype", &memory::ParseCacheDtype, s.cache_dtype);
  s.sinks = reader.Unsigned("sinks", 0, kWidthMax, s.sinks);
  Parse(reader, "cache_sharing", &memory::ParseCacheSharing, s.cache_sharing);
  s.adaptive_mass =
      static_cast<float>(reader.Number("adaptive_mass", 0.0, 1.0, double{s.adaptive_mass}));
  s.cache_pairs_min = reader.Unsigned("cache_pairs_min", 0, kWidthMax, s.cache_pairs_min);
  reader.RefuseUnknown();
  config.defaults = s;
  status = reader.status();
}

void ReadTrained(const Json& object, ModelConfig& config, absl::Status& status) {
  JsonReader reader(object, "lola.trained.");
  TrainedWith& t = config.trained;
  t.window = reader.Unsigned("window", 0, kWidthMax, 0);
  t.length = reader.Unsigned("length", 0, UINT32_MAX, 0);
  t.mask = reader.Text("mask", "");
  t.memory_positions = reader.Text("memory_positions", "");
  t.memory_distance = reader.Unsigned("memory_distance", 0, UINT32_MAX, 0);
  t.mixing = reader.Text("mixing", "");
  status = reader.status();
}

absl::Status ReadLola(const Json& object, ModelConfig& config) {
  JsonReader reader(object, "lola.");
  reader.Unsigned("format_version", 1, 1);
  const Json* map = reader.Object("feature_map");
  if (map == nullptr) return absl::InvalidArgumentError("lola.feature_map: missing");
  JsonReader features(*map, "lola.feature_map.");
  const std::string kind = features.Text("kind");
  if (kind != "softmax_dim") features.Unsupported("kind", kind, "softmax_dim");
  if (!features.Bool("fullspace", true)) features.Unsupported("fullspace", false, "true");
  const double epsilon = features.Number("clamp_eps", 0.0, 1.0, 1e-12);
  if (epsilon != 1e-12) features.Unsupported("clamp_eps", epsilon, "1e-12");
  config.geometry.feature_dim = 2 * features.Unsigned("feature_dim", 1, kWidthMax);
  reader.Fail(features.status());
  absl::Status inner;
  if (const Json* trained = reader.Object("trained")) ReadTrained(*trained, config, inner);
  reader.Fail(inner);
  const Json* defaults = reader.Object("defaults");
  ReadDefaults(defaults != nullptr ? *defaults : Json::object(), config, inner);
  reader.Fail(inner);
  config.has_lola = true;
  return reader.status();
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json) {
  const absl::StatusOr<Json> root = ParseJsonObject(json);
  if (!root.ok()) return root.status();
  JsonReader reader(*root, "");
  ModelConfig config;
  RefuseWhatIsMissing(reader, config);
  ReadShape(reader, config);
  ReadRope(reader, config);
  const Json* lola = reader.Object("lola");
  if (!reader.status().ok()) return reader.status();
  if (lola != nullptr) {
    const absl::Status read = ReadLola(*lola, config);
    if (!read.ok()) return read;
  } else {
    uint64_t most = config.max_positions > 0 ? config.max_positions : 2048;
    if (config.sliding_window > 0) most = std::min<uint64_t>(most, config.sliding_window);
    config.defaults = memory::LolaSettings::SoftmaxProfile(
        static_cast<uint32_t>(std::min(most, kSoftmaxWindowDefaultMax)));
  }
  absl::Status valid = config.geometry.Validate();
  if (valid.ok()) valid = config.defaults.Validate(config.geometry);
  if (!valid.ok()) return valid;
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir) {
  const std::string path = absl::StrCat(model_dir, "/config.json");
  const absl::StatusOr<std::string> text = ReadTextFile(path, kConfigBytesMax);
  if (!text.ok()) return text.status();
  absl::StatusOr<ModelConfig> config = ParseModelConfig(*text);
  if (!config.ok()) {
    return absl::Status(config.status().code(),
                        absl::StrCat(path, ": ", config.status().message()));
  }
  const std::string generation = absl::StrCat(model_dir, "/generation_config.json");
  std::error_code ignored;
  if (!std::filesystem::exists(generation, ignored)) return config;
  const absl::StatusOr<std::string> extra = ReadTextFile(generation, kConfigBytesMax);
  if (!extra.ok()) return extra.status();
  const absl::StatusOr<Json> root = ParseJsonObject(*extra);
  if (!root.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(generation, ": ", root.status().message()));
  }
  JsonReader reader(*root, generation + ": ");
  std::vector<int32_t> eos = ReadIds(reader, "eos_token_id", config->geometry.vocab);
  if (!reader.status().ok()) return reader.status();
  if (!eos.empty()) config->eos = std::move(eos);
  return config;
}

}  // namespace lola::engine
