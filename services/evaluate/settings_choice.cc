#include "services/evaluate/settings_choice.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "memory/text.h"

namespace lola::evaluate {
namespace {

template <typename T>
void Set(const std::optional<T>& value, T& setting) {
  if (value) setting = *value;
}

template <typename T>
absl::Status SetWord(const std::string& word, absl::StatusOr<T> (*parse)(std::string_view),
                     T& setting) {
  if (word.empty()) return absl::OkStatus();
  const absl::StatusOr<T> value = parse(word);
  if (value.ok()) setting = *value;
  return value.status();
}

}  // namespace

absl::StatusOr<memory::LolaSettings> NamedSettings(const engine::Model& model,
                                                   std::string_view profile,
                                                   std::string_view mode) {
  const memory::LolaSettings& own = model.default_settings();
  memory::LolaSettings settings = own;
  if (mode == "softmax") return memory::LolaSettings::SoftmaxProfile(own.window);
  if (mode != "lola" && mode != "base" && mode != "model") {
    return absl::InvalidArgumentError(
        absl::StrCat("mode: \"", ToAbsl(mode), "\", must be model, lola, base or softmax"));
  }
  if (!model.config().has_lola && (mode != "model" || profile != "model")) {
    return absl::FailedPreconditionError(absl::StrCat(
        mode != "model" ? "mode" : "profile", ": \"", ToAbsl(mode != "model" ? mode : profile),
        "\", but the model has no feature maps (no lola object in config.json): only softmax"));
  }
  if (profile == "paper") {
    settings = memory::LolaSettings::PaperProfile();
    settings.window = own.window;
    settings.chunk = own.chunk;
    settings.cache_pairs = own.cache_pairs;
  } else if (profile == "lifelong" && own.profile != "lifelong") {
    settings = memory::LolaSettings::LifelongProfile();
    settings.window = own.window;
    settings.chunk = own.chunk;
  } else if (profile != "lifelong" && profile != "model") {
    return absl::InvalidArgumentError(
        absl::StrCat("profile: \"", ToAbsl(profile), "\", must be paper, lifelong or model"));
  }
  if (mode == "base") {
    settings.cache_pairs = 0;
    settings.cache_pairs_per_layer.clear();
  }
  return settings;
}

absl::StatusOr<memory::LolaSettings> SettingsOverrides::Over(memory::LolaSettings s) const {
  if (window) s.window = s.chunk = *window;
  Set(chunk, s.chunk);
  if (cache_pairs) s.cache_pairs_per_layer.clear();
  Set(cache_pairs, s.cache_pairs);
  if (!cache_pairs_per_layer.empty()) s.cache_pairs_per_layer = cache_pairs_per_layer;
  Set(memory_distance, s.memory_distance);
  Set(mass_cap, s.mass_cap);
  Set(redundancy_threshold, s.redundancy_threshold);
  Set(rescore, s.rescore);
  Set(score_epsilon, s.score_epsilon);
  Set(sinks, s.sinks);
  Set(adaptive_mass, s.adaptive_mass);
  Set(cache_pairs_min, s.cache_pairs_min);
  absl::Status status = SetWord(mixing, &memory::ParseMixing, s.mixing);
  status.Update(SetWord(memory_positions, &memory::ParseMemoryPositions, s.memory_positions));
  status.Update(SetWord(score, &memory::ParseScore, s.score));
  status.Update(SetWord(cache_dtype, &memory::ParseCacheDtype, s.cache_dtype));
  status.Update(SetWord(cache_sharing, &memory::ParseCacheSharing, s.cache_sharing));
  if (!status.ok()) return status;
  return s;
}

absl::StatusOr<std::optional<bool>> SettingsChoice::Rescore() const {
  if (rescore.empty()) return std::nullopt;
  if (rescore == "true" || rescore == "false") return rescore == "true";
  return absl::InvalidArgumentError(
      absl::StrCat("rescore: \"", rescore, "\", must be true or false"));
}

absl::StatusOr<memory::LolaSettings> Choose(const engine::Model& model,
                                            const SettingsChoice& choice) {
  const auto given = [](int value) {
    return value < 0 ? std::nullopt : std::optional<uint32_t>(static_cast<uint32_t>(value));
  };
  const auto share = [](double value) {
    return value < 0 ? std::nullopt : std::optional<float>(static_cast<float>(value));
  };
  absl::StatusOr<memory::LolaSettings> named = NamedSettings(model, choice.profile, choice.mode);
  if (!named.ok()) return named;
  const absl::StatusOr<std::optional<bool>> rescore = choice.Rescore();
  if (!rescore.ok()) return rescore.status();
  SettingsOverrides values;
  values.rescore = *rescore;
  values.window = given(choice.window);
  values.chunk = given(choice.chunk);
  values.cache_pairs = given(choice.cache_pairs);
  values.cache_pairs_per_layer = choice.cache_pairs_per_layer;
  values.memory_distance = given(choice.memory_distance);
  values.mass_cap = given(choice.mass_cap);
  values.sinks = given(choice.sinks);
  values.cache_pairs_min = given(choice.cache_pairs_min);
  values.redundancy_threshold = share(choice.redundancy_threshold);
  values.adaptive_mass = share(choice.adaptive_mass);
  values.score_epsilon = share(choice.score_epsilon);
  values.mixing = choice.mixing;
  values.memory_positions = choice.memory_positions;
  values.score = choice.score;
  values.cache_dtype = choice.cache_dtype;
  values.cache_sharing = choice.cache_sharing;
  return values.Over(*std::move(named));
}

uint64_t OutsideWindow(const memory::LolaSettings& settings) {
  if (settings.mode == memory::Mode::kSoftmax) return 192;
  return std::max<uint64_t>(192, 2 * uint64_t{settings.window} + 64);
}

std::vector<std::pair<std::string, std::string>> SettingsFields(const memory::LolaSettings& s) {
  return {{"mode", std::string(memory::Name(s.mode))},
          {"profile", s.profile},
          {"window", absl::StrCat(s.window)},
          {"chunk", absl::StrCat(s.chunk)},
          {"cache_pairs", absl::StrCat(s.cache_pairs)},
          {"cache_pairs_per_layer", absl::StrJoin(s.cache_pairs_per_layer, ",")},
          {"mixing", std::string(memory::Name(s.mixing))},
          {"memory_positions", std::string(memory::Name(s.memory_positions))},
          {"memory_distance", absl::StrCat(s.memory_distance)},
          {"mass_cap", absl::StrCat(s.mass_cap)},
          {"redundancy_threshold", absl::StrFormat("%g", s.redundancy_threshold)},
          {"score", std::string(memory::Name(s.score))},
          {"rescore", s.rescore ? "true" : "false"},
          {"score_epsilon", absl::StrFormat("%g", s.score_epsilon)},
          {"cache_dtype", std::string(kernels::DtypeName(s.cache_dtype))},
          {"sinks", absl::StrCat(s.sinks)},
          {"cache_sharing", std::string(memory::Name(s.cache_sharing))},
          {"adaptive_mass", absl::StrFormat("%g", s.adaptive_mass)},
          {"cache_pairs_min", absl::StrCat(s.cache_pairs_min)}};
}

}  // namespace lola::evaluate
