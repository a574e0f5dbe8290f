// lola-eval: pass key questions on a model directory, without servers.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/core/cpu.h"
#include "memory/stream/accounting.h"
#include "services/evaluate/passkey.h"
#include "services/evaluate/settings_flags.h"

namespace lola::evaluate {
namespace {

using Json = nlohmann::ordered_json;

struct Flags {
  std::string model, text, profile = "model", mode = "lola", dtype = "float32";
  SettingsFlags settings;
  bool json = false, quiet = false, bytes = false;
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
  f.settings.Add(app);
  app.add_option("--number-share", f.options.number_share, "sentences with other numbers");
  app.add_flag("--needle-at-start", f.options.needle_at_start, "pass keys at the very start");
  app.add_option("--min-distance", f.options.min_distance, "tokens from statement to answer");
  app.add_option("--seed", f.options.seed, "random seed")->capture_default_str();
  app.add_option("--threads", f.options.threads, "threads")->capture_default_str();
  app.add_option("--streams", f.options.streams_per_thread, "texts side by side in each thread")
      ->capture_default_str();
  app.add_option("--dtype", f.dtype, "float32, bfloat16, float8 or int8 weights")
      ->capture_default_str();
  app.add_flag("--bytes", f.bytes, "print what a stream's state costs, and end");
  app.add_flag("--json", f.json, "result as one line of JSON");
  app.add_flag("--quiet", f.quiet, "no progress");
}

Json ToJson(const PasskeyResult& r, const Flags& f, const engine::Model& model) {
  Json mistakes = Json::array();
  for (const PasskeyMistake& m : r.mistakes) {
    std::string said;
    for (const char c : m.said) said += c >= ' ' && c <= '~' ? c : '?';
    mistakes.push_back(
        {{"question", m.question}, {"expected", m.expected}, {"said", said}, {"depth", m.depth}});
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
          {"full_cache_tokens",
           memory::FullCacheTokens(model.geometry(), r.settings.cache_dtype, r.state_bytes)},
          {"average_cached", r.stats.average_occupancy()},
          {"tokens", r.tokens},
          {"seconds", r.seconds},
          {"tokens_per_second", static_cast<double>(r.tokens) / r.seconds},
          {"mistakes", mistakes}};
}

// One row for every type of rows and owner of the sparse caches, the other settings as given.
void PrintBytes(const engine::Model& model, memory::LolaSettings s) {
  using kernels::Dtype;
  const memory::ModelGeometry& g = model.geometry();
  constexpr double kKiB = 1024;
  std::printf("%s\n", s.ToString().c_str());
  std::printf(
      "KiB; full cache: tokens whose keys and values, in rows of the same type, are as large\n");
  std::printf("%-9s %-6s %10s %10s %10s %10s %10s %10s\n", "rows", "caches", "H, s", "window",
              "caches", "other", "state", "full cache");
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat8}) {
    for (const auto sharing : {memory::CacheSharing::kHead, memory::CacheSharing::kGroup}) {
      if (s.mode == memory::Mode::kSoftmax && sharing == memory::CacheSharing::kGroup) continue;
      s.cache_dtype = dtype;
      s.cache_sharing = sharing;
      const memory::StateBytes b = memory::AccountFor(memory::StateLayout(g, s));
      std::printf("%-9s %-6s %10.1f %10.1f %10.1f %10.1f %10.1f %10llu\n",
                  kernels::DtypeName(dtype), std::string(memory::Name(sharing)).c_str(),
                  b.recurrent / kKiB, b.window / kKiB, b.cache / kKiB, b.bookkeeping / kKiB,
                  b.total / kKiB,
                  static_cast<unsigned long long>(memory::FullCacheTokens(g, dtype, b.total)));
    }
  }
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
  auto settings = NamedSettings(**model, f.profile, f.mode);
  if (settings.ok()) settings = f.settings.Apply(*std::move(settings));
  if (!settings.ok()) return settings.status();
  f.options.settings = *settings;
  if (f.bytes) {
    const absl::Status good = (*model)->CheckSettings(*settings);
    if (good.ok()) PrintBytes(**model, *settings);
    return good;
  }
  std::function<void(const PasskeyProgress&)> progress;
  if (!f.quiet) progress = ShowProgress;
  const auto result = EvaluatePasskey(**model, **tokenizer, *text, f.options, progress);
  if (!f.quiet) std::fprintf(stderr, "\n");
  if (!result.ok()) return result.status();
  if (f.json) {
    const std::string line =
        ToJson(*result, f, **model).dump(-1, ' ', false, Json::error_handler_t::replace);
    std::printf("%s\n", line.c_str());
  } else {
    std::printf(
        "%s %s, length %llu: %u of %u right, %.1f %% (95 %%: %.1f to %.1f), "
        "%.0f tokens/s, state %llu bytes (a full cache of %llu tokens)\n",
        f.profile.c_str(), f.mode.c_str(), static_cast<unsigned long long>(f.options.length),
        result->right, result->questions, result->percent, result->low, result->high,
        static_cast<double>(result->tokens) / result->seconds,
        static_cast<unsigned long long>(result->state_bytes),
        static_cast<unsigned long long>(memory::FullCacheTokens(
            (*model)->geometry(), result->settings.cache_dtype, result->state_bytes)));
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Asks for pass keys hidden in long texts and counts exact answers.", "lola-eval");
  Flags flags;
  AddFlags(app, flags);
  app.footer(
      "examples:\n"
      "  lola-eval --model models/passkey-1m --length 4096\n"
      "  lola-eval --model models/passkey-1m --profile paper --cache-pairs 64 --json\n"
      "  lola-eval --model models/passkey-1m --window 256 --bytes\n"
      "A text has --length tokens up to the answer; a key counts when all its digits are right.\n"
      "Other tasks, result files that go on after an interruption, endpoints: lola eval --help");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Evaluate(flags);
  if (status.ok()) return 0;
  std::fprintf(stderr, "lola-eval: %s\n", status.ToString().c_str());
  return 1;
}

}  // namespace
}  // namespace lola::evaluate

int main(int argc, char** argv) { return lola::evaluate::Main(argc, argv); }
