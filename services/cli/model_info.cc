// What a model would need, from its config.json alone: no endpoint, no weights.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "memory/stream/layout.h"
#include "services/cli/commands.h"
#include "services/cli/output.h"
#include "services/engine/config.h"
#include "services/engine/model.h"
#include "services/engine/weights.h"

namespace lola::cli {
namespace {

constexpr std::string_view kRandom = "random:";
constexpr kernels::Dtype kDtypes[] = {kernels::Dtype::kFloat32, kernels::Dtype::kBFloat16,
                                      kernels::Dtype::kInt8};

absl::StatusOr<engine::ModelConfig> ReadConfig(const std::string& model) {
  if (!model.starts_with(kRandom)) return engine::LoadModelConfig(model);
  return engine::NamedGeometry(std::string_view(model).substr(kRandom.size()));
}

absl::StatusOr<memory::LolaSettings> SettingsFromFlags(const engine::ModelConfig& config,
                                                       const CliFlags& flags) {
  memory::LolaSettings settings = config.defaults;
  if (flags.profile == "paper") settings = memory::LolaSettings::PaperProfile();
  if (flags.profile == "lifelong") settings = memory::LolaSettings::LifelongProfile();
  if (!flags.profile.empty() && settings.profile != flags.profile) {
    return absl::InvalidArgumentError(
        absl::StrCat("--profile: '", flags.profile, "' is not lifelong or paper"));
  }
  settings.window = config.defaults.window;
  settings.chunk = config.defaults.chunk;
  settings.cache_pairs = config.defaults.cache_pairs;
  settings.cache_dtype = config.defaults.cache_dtype;
  if (!flags.mode.empty()) {
    const auto mode = memory::ParseMode(flags.mode);
    if (!mode.ok()) return mode.status();
    if (*mode == memory::Mode::kSoftmax) {
      settings = memory::LolaSettings::SoftmaxProfile(config.defaults.window);
    }
    settings.mode = *mode;
  }
  if (flags.window > 0) settings.window = settings.chunk = flags.window;
  if (flags.cache_pairs >= 0) settings.cache_pairs = static_cast<uint32_t>(flags.cache_pairs);
  const absl::Status valid = settings.Validate(config.geometry);
  if (!valid.ok()) return valid;
  return settings;
}

std::string Shape(const engine::ModelConfig& config) {
  const memory::ModelGeometry& g = config.geometry;
  return absl::StrCat(g.layers, " layers, hidden ", g.hidden, ", ", g.query_heads, " query heads, ",
                      g.kv_heads, " kv heads of ", g.head_dim, ", vocabulary ", Grouped(g.vocab),
                      config.tied_embeddings ? ", tied" : "");
}

}  // namespace

absl::Status LocalModelInfo(const CliFlags& flags) {
  const auto config = ReadConfig(flags.info_model);
  if (!config.ok()) return config.status();
  const auto settings = SettingsFromFlags(*config, flags);
  if (!settings.ok()) return settings.status();
  const uint64_t state = memory::StateLayout(config->geometry, *settings).stride_bytes();
  const uint64_t parameters = engine::SizeOfWeights(*config, kernels::Dtype::kFloat32).parameters;
  nlohmann::json weights;
  std::string text;
  for (const kernels::Dtype dtype : kDtypes) {
    const uint64_t bytes = engine::SizeOfWeights(*config, dtype).bytes;
    weights[kernels::DtypeName(dtype)] = bytes;
    absl::StrAppend(&text, text.empty() ? "" : ", ", kernels::DtypeName(dtype), " ",
                    HumanBytes(bytes));
  }
  if (flags.json) {
    const nlohmann::json all = {{"model", flags.info_model},
                                {"parameters", parameters},
                                {"weight_bytes", weights},
                                {"settings", settings->ToString()},
                                {"state_bytes", state}};
    PrintText(all.dump(2) + "\n");
    return absl::OkStatus();
  }
  PrintText(Table({{"model", flags.info_model},
                   {"shape", Shape(*config)},
                   {"parameters", Grouped(parameters)},
                   {"weights", text},
                   {"settings", settings->ToString()},
                   {"state", absl::StrCat(HumanBytes(state), " (", Grouped(state), " bytes) for a ",
                                          settings->mode == memory::Mode::kSoftmax
                                              ? "stream of at most the window"
                                              : "stream of any length")}}));
  return absl::OkStatus();
}

}  // namespace lola::cli
