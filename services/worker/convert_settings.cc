#include "absl/strings/str_cat.h"
#include "services/worker/convert.h"

namespace lola::worker {
namespace {

constexpr uint32_t kSoftmaxWindowDefault = 4096;

using memory::LolaSettings;

absl::Status OverrideSelection(const v1::LolaSettings& message, LolaSettings* settings) {
  if (message.has_sinks()) settings->sinks = message.sinks();
  if (message.has_adaptive_mass()) settings->adaptive_mass = message.adaptive_mass();
  if (message.has_cache_pairs_min()) settings->cache_pairs_min = message.cache_pairs_min();
  if (message.cache_sharing().empty()) return absl::OkStatus();
  auto value = memory::ParseCacheSharing(message.cache_sharing());
  if (!value.ok()) return value.status();
  settings->cache_sharing = *value;
  return absl::OkStatus();
}

// Takes over what the message says; zero and empty fields leave `settings` as it is.
absl::Status Override(const v1::LolaSettings& message, LolaSettings* settings) {
  if (message.window() != 0) settings->window = message.window();
  if (message.chunk() != 0) settings->chunk = message.chunk();
  if (message.has_cache_pairs()) {
    settings->cache_pairs = message.cache_pairs();
    settings->cache_pairs_per_layer.clear();
  }
  if (message.cache_pairs_per_layer_size() > 0) {
    settings->cache_pairs_per_layer.assign(message.cache_pairs_per_layer().begin(),
                                           message.cache_pairs_per_layer().end());
  }
  if (!message.mixing().empty()) {
    auto value = memory::ParseMixing(message.mixing());
    if (!value.ok()) return value.status();
    settings->mixing = *value;
  }
  if (!message.memory_positions().empty()) {
    auto value = memory::ParseMemoryPositions(message.memory_positions());
    if (!value.ok()) return value.status();
    settings->memory_positions = *value;
  }
  if (message.memory_distance() != 0) settings->memory_distance = message.memory_distance();
  if (message.has_mass_cap()) settings->mass_cap = message.mass_cap();
  if (message.has_redundancy_threshold()) {
    settings->redundancy_threshold = message.redundancy_threshold();
  }
  if (!message.score().empty()) {
    auto value = memory::ParseScore(message.score());
    if (!value.ok()) return value.status();
    settings->score = *value;
  }
  if (message.has_rescore()) settings->rescore = message.rescore();
  if (message.score_epsilon() != 0) settings->score_epsilon = message.score_epsilon();
  if (!message.cache_dtype().empty()) {
    auto value = memory::ParseCacheDtype(message.cache_dtype());
    if (!value.ok()) return value.status();
    settings->cache_dtype = *value;
  }
  return OverrideSelection(message, settings);
}

// A profile says how positions and masses are treated; sizes stay the model's.
absl::Status ApplyProfile(const std::string& name, LolaSettings* settings) {
  if (name.empty() || name == "custom") return absl::OkStatus();
  if (name != "paper" && name != "lifelong") {
    return absl::InvalidArgumentError(
        absl::StrCat("settings.profile: \"", name, "\" (known: lifelong, paper, custom)"));
  }
  const LolaSettings preset =
      name == "paper" ? LolaSettings::PaperProfile() : LolaSettings::LifelongProfile();
  settings->memory_positions = preset.memory_positions;
  settings->memory_distance = preset.memory_distance;
  settings->mass_cap = preset.mass_cap;
  settings->redundancy_threshold = preset.redundancy_threshold;
  settings->profile = name;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::optional<LolaSettings>> RequestedSettings(const v1::LolaSettings& message,
                                                              const LolaSettings& defaults) {
  if (message.ByteSizeLong() == 0) return std::optional<LolaSettings>();
  LolaSettings settings = defaults;
  if (!message.mode().empty()) {
    auto mode = memory::ParseMode(message.mode());
    if (!mode.ok()) return mode.status();
    if (*mode == memory::Mode::kSoftmax && defaults.mode != memory::Mode::kSoftmax) {
      settings = LolaSettings::SoftmaxProfile(message.window() != 0 ? message.window()
                                                                    : kSoftmaxWindowDefault);
    }
    settings.mode = *mode;
  }
  if (absl::Status status = ApplyProfile(message.profile(), &settings); !status.ok()) return status;
  if (absl::Status status = Override(message, &settings); !status.ok()) return status;
  if (message.profile().empty() && !(settings == defaults)) settings.profile = "custom";
  return std::optional<LolaSettings>(std::move(settings));
}

absl::StatusOr<LolaSettings> RecordSettings(const v1::LolaSettings& message) {
  LolaSettings settings;
  // In a record a zero is a value, not a question.
  settings.window = settings.chunk = settings.memory_distance = 0;
  settings.score_epsilon = 0;
  auto mode = memory::ParseMode(message.mode());
  if (!mode.ok()) return mode.status();
  settings.mode = *mode;
  settings.profile = message.profile();
  if (absl::Status status = Override(message, &settings); !status.ok()) return status;
  return settings;
}

v1::LolaSettings ToProto(const LolaSettings& settings) {
  v1::LolaSettings message;
  const auto text = [](std::string_view view) { return std::string(view); };
  message.set_mode(text(memory::Name(settings.mode)));
  message.set_profile(settings.profile);
  message.set_window(settings.window);
  message.set_chunk(settings.chunk);
  message.set_cache_pairs(settings.cache_pairs);
  for (uint32_t pairs : settings.cache_pairs_per_layer) message.add_cache_pairs_per_layer(pairs);
  message.set_mixing(text(memory::Name(settings.mixing)));
  message.set_memory_positions(text(memory::Name(settings.memory_positions)));
  message.set_memory_distance(settings.memory_distance);
  message.set_mass_cap(settings.mass_cap);
  message.set_redundancy_threshold(settings.redundancy_threshold);
  message.set_score(text(memory::Name(settings.score)));
  message.set_rescore(settings.rescore);
  message.set_score_epsilon(settings.score_epsilon);
  message.set_cache_dtype(kernels::DtypeName(settings.cache_dtype));
  message.set_sinks(settings.sinks);
  message.set_cache_sharing(text(memory::Name(settings.cache_sharing)));
  message.set_adaptive_mass(settings.adaptive_mass);
  message.set_cache_pairs_min(settings.cache_pairs_min);
  return message;
}

}  // namespace lola::worker
