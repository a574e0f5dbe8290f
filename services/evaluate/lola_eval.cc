// lola-eval: pass key questions on a model directory, without servers.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/core/cpu.h"
#include "services/evaluate/passkey.h"

namespace lola::evaluate {
namespace {

using Json = nlohmann::ordered_json;

struct Flags {
  std::string model, text, profile = "model", mode = "lola", score, positions, dtype = "float32";
  std::vector<uint32_t> budgets;
  int cache_pairs = -1, window = 0, chunk = 0, mass_cap = -1;
  double threshold = -1.0;
  bool json = false, quiet = false;
  PasskeyOptions options;
};

void AddFlags(CLI::App& app, Flags& f) {
  app.add_option("--model", f.model, "model directory")->required();
  app.add_option("--text", f.text, "word lists; default: passkey_text.json of the model");
  app.add_option("--length", f.options.length, "tokens up to the answer")->capture_default_str();
  app.add_option("--questions", f.options.questions, "questions")->capture_default_str();
  app.add_option("--needles", f.options.needles, "pass keys in one text")->capture_default_str();
  app.add_option("--profile", f.profile, "paper, lifelong or model")->capture_default_str();
  app.add_option("--mode", f.mode, "lola, base or softmax")->capture_default_str();
  app.add_option("--cache-pairs", f.cache_pairs, "pairs per layer and head");
  app.add_option("--cache-pairs-per-layer", f.budgets, "pairs of each layer")->delimiter(',');
  app.add_option("--score", f.score, "sre, value_norm, random, leave_one_out or recency");
  app.add_option("--window", f.window, "window, tokens");
  app.add_option("--chunk", f.chunk, "chunk, tokens; default: the window when it is given");
  app.add_option("--memory-positions", f.positions, "rotary or constant");
  app.add_option("--mass-cap", f.mass_cap, "linear mass cap; 0 = none");
  app.add_option("--redundancy-threshold", f.threshold, "0 = plain score");
  app.add_option("--number-share", f.options.number_share, "sentences with other numbers");
  app.add_flag("--needle-at-start", f.options.needle_at_start, "pass keys at the very start");
  app.add_option("--min-distance", f.options.min_distance, "tokens from statement to answer");
  app.add_option("--seed", f.options.seed, "random seed")->capture_default_str();
  app.add_option("--threads", f.options.threads, "threads")->capture_default_str();
  app.add_option("--streams", f.options.streams_per_thread, "texts side by side in each thread")
      ->capture_default_str();
  app.add_option("--dtype", f.dtype, "float32 or bfloat16 weights")->capture_default_str();
  app.add_flag("--json", f.json, "result as one line of JSON");
  app.add_flag("--quiet", f.quiet, "no progress");
}

absl::StatusOr<memory::LolaSettings> SettingsFrom(const engine::Model& model, const Flags& f) {
  absl::StatusOr<memory::LolaSettings> settings = NamedSettings(model, f.profile, f.mode);
  if (!settings.ok()) return settings;
  if (f.cache_pairs >= 0) {
    settings->cache_pairs = static_cast<uint32_t>(f.cache_pairs);
    settings->cache_pairs_per_layer.clear();
  }
  if (!f.budgets.empty()) settings->cache_pairs_per_layer = f.budgets;
  if (f.window > 0) settings->window = settings->chunk = static_cast<uint32_t>(f.window);
  if (f.chunk > 0) settings->chunk = static_cast<uint32_t>(f.chunk);
  if (f.mass_cap >= 0) settings->mass_cap = static_cast<uint32_t>(f.mass_cap);
  if (f.threshold >= 0.0) settings->redundancy_threshold = static_cast<float>(f.threshold);
  if (!f.score.empty()) {
    const auto score = memory::ParseScore(f.score);
    if (!score.ok()) return score.status();
    settings->score = *score;
  }
  if (!f.positions.empty()) {
    const auto positions = memory::ParseMemoryPositions(f.positions);
    if (!positions.ok()) return positions.status();
    settings->memory_positions = *positions;
  }
  return settings;
}

Json ToJson(const PasskeyResult& r, const Flags& f, const engine::Model& model) {
  Json mistakes = Json::array();
  for (const PasskeyMistake& m : r.mistakes) {
    std::string said;
    for (const char c : m.said) said += c >= ' ' && c <= '~' ? c : '?';
    mistakes.push_back(
        {{"name", m.name}, {"expected", m.expected}, {"said", said}, {"depth", m.depth}});
  }
  return {{"model", f.model},
          {"fingerprint", model.fingerprint()},
          {"instruction_class", std::string(kernels::InstructionClass())},
          {"profile", f.profile},
          {"mode", f.mode},
          {"settings", r.settings.ToString()},
          {"length", f.options.length},
          {"needles", f.options.needles},
          {"number_share", f.options.number_share},
          {"needle_at_start", f.options.needle_at_start},
          {"min_distance", r.min_distance},
          {"seed", f.options.seed},
          {"questions", r.questions},
          {"right", r.right},
          {"percent", r.percent},
          {"wilson95", {r.low, r.high}},
          {"asked_by_depth", r.asked_by_depth},
          {"right_by_depth", r.right_by_depth},
          {"digits_right", r.digits_right},
          {"state_bytes", r.state_bytes},
          {"tokens", r.tokens},
          {"seconds", r.seconds},
          {"tokens_per_second", static_cast<double>(r.tokens) / r.seconds},
          {"mistakes", mistakes}};
}

void ShowProgress(const PasskeyProgress& p) {
  std::fprintf(stderr, "\r%5.1f %%  %llu tokens, %.0f tokens/s, %u of %u right, %.0f s left   ",
               100.0 * static_cast<double>(p.tokens) / static_cast<double>(p.tokens_total),
               static_cast<unsigned long long>(p.tokens), p.tokens_per_second(), p.right,
               p.questions, p.seconds_left());
}

absl::Status Evaluate(Flags& f) {
  const auto dtype = engine::ParseWeightDtype(f.dtype);
  if (!dtype.ok()) return dtype.status();
  const auto model = engine::Model::Load(f.model, {.dtype = *dtype});
  if (!model.ok()) return model.status();
  const auto tokenizer = engine::LoadTokenizer(f.model);
  if (!tokenizer.ok()) return tokenizer.status();
  const auto text = PasskeyText::Load(f.text.empty() ? f.model + "/passkey_text.json" : f.text);
  if (!text.ok()) return text.status();
  const auto settings = SettingsFrom(**model, f);
  if (!settings.ok()) return settings.status();
  f.options.settings = *settings;
  std::function<void(const PasskeyProgress&)> progress;
  if (!f.quiet) progress = ShowProgress;
  const auto result = EvaluatePasskey(**model, **tokenizer, *text, f.options, progress);
  if (!f.quiet) std::fprintf(stderr, "\n");
  if (!result.ok()) return result.status();
  if (f.json) {
    std::printf("%s\n", ToJson(*result, f, **model).dump().c_str());
  } else {
    std::printf(
        "%s %s, length %llu: %u of %u right, %.1f %% (95 %%: %.1f to %.1f), "
        "%.0f tokens/s\n",
        f.profile.c_str(), f.mode.c_str(), static_cast<unsigned long long>(f.options.length),
        result->right, result->questions, result->percent, result->low, result->high,
        static_cast<double>(result->tokens) / result->seconds);
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Asks for pass keys hidden in long texts and counts exact answers.", "lola-eval");
  Flags flags;
  AddFlags(app, flags);
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Evaluate(flags);
  if (status.ok()) return 0;
  std::fprintf(stderr, "lola-eval: %s\n", status.ToString().c_str());
  return 1;
}

}  // namespace
}  // namespace lola::evaluate

int main(int argc, char** argv) { return lola::evaluate::Main(argc, argv); }
