#include "services/cli/eval_flags.h"

#include <algorithm>
#include <charconv>

namespace lola::cli {
namespace {

std::string TaskList() {
  size_t width = 0;
  for (const auto& task : evaluate::KnownTasks()) width = std::max(width, task.name.size());
  std::string text = "Tasks:\n";
  for (const auto& task : evaluate::KnownTasks()) {
    text +=
        "  " + task.name + std::string(width - task.name.size() + 2, ' ') + task.description + "\n";
  }
  return text;
}

void RegisterTexts(rpc::OptionSet& eval, evaluate::TaskOptions* task) {
  eval.Add("length", &task->length, "tokens of a stream up to the answer; 0: the task's own");
  eval.Add("samples", &task->samples, "streams; 0: the task's own (500 for RULER)");
  eval.Add("seed", &task->seed, "of texts, keys and places");
  eval.Add("bos", &task->bos,
           "begin every stream with <bos>; --bos=false: without (LoLA's published figures)");
  eval.Add("max-tokens", &task->max_tokens, "generated per answer; 0: the task's own");
  eval.Add("words", &task->words,
           "keys of needles: {\"adjectives\": [...], \"nouns\": [...]}; empty: a built-in list");
  eval.Add("haystack", &task->haystack, "text file: essays, or the filler of stream_recall");
  eval.Add("repeat-haystack", &task->repeat_haystack, "begin the file again when it ends");
  eval.Add("haystack-step", &task->haystack_step, "words or lines; 0: RULER's rule");
  eval.Add("text-kind", &task->text_kind, "passkey_text.json; empty: the model folder's");
  eval.Add("needles", &task->needles, "statements in a stream, or for each place and distance");
  eval.Add("number-share", &task->number_share, "filler sentences with other numbers, 0 to 1");
  eval.Add("needle-at-start", &task->needle_at_start, "statements at the very start");
  eval.Add("min-distance", &task->min_distance,
           "tokens from the last statement to the answer; 0: outside the window");
  eval.Add("checkpoints", &task->checkpoints, "stream_recall: places where questions are asked");
  eval.Add("update-share", &task->update_share,
           "stream_recall: statements that replace older ones");
  eval.Add("text", &task->text, "perplexity: the text file");
}

void RegisterSettings(rpc::OptionSet& eval, EvalFlags* flags) {
  evaluate::SettingsChoice* s = &flags->settings;
  eval.Add("profile", &s->profile, "model (its defaults), lifelong or paper");
  eval.Add("mode", &s->mode,
           "model (lola if it has feature maps, else softmax), lola, base (no sparse cache) or "
           "softmax (full cache)");
  eval.Add("cache-pairs", &s->cache_pairs, "lambda: pairs per layer and head; -1: the profile's");
  eval.Add("cache-pairs-per-layer", &flags->cache_pairs_per_layer, "pairs of each layer");
  eval.Add("window", &s->window, "eta, tokens; -1: the profile's");
  eval.Add("chunk", &s->chunk, "tokens; -1: the window");
  eval.Add("memory-positions", &s->memory_positions, "rotary or constant");
  eval.Add("memory-distance", &s->memory_distance, "for constant positions; -1: the profile's");
  eval.Add("mass-cap", &s->mass_cap, "of the linear branch; 0: none; -1: the profile's");
  eval.Add("redundancy-threshold", &s->redundancy_threshold, "0: plain score; -1: the profile's");
  eval.Add(
      "score", &s->score,
      "sre, leave_one_out, hypothetical, each also relative_..., value_norm, key_norm, attention, "
      "recency or random");
  eval.Add("score-epsilon", &s->score_epsilon, "kept away from zero by this; -1: the profile's");
  eval.Add("rescore", &s->rescore, "cached pairs anew at every event: true or false");
  eval.Add("cache-dtype", &s->cache_dtype, "rows of window and cache: float32, bfloat16, float8");
  eval.Add("sinks", &s->sinks, "first tokens that never leave the cache; -1: the profile's");
  eval.Add("cache-sharing", &s->cache_sharing, "head, group or group_max");
  eval.Add("adaptive-mass", &s->adaptive_mass, "share of the scores to keep; -1: the profile's");
  eval.Add("cache-pairs-min", &s->cache_pairs_min, "least pairs with --adaptive-mass");
  eval.Add("mixing", &s->mixing, "gated_natural, natural or lolcats");
}

template <typename Number>
absl::Status ReadNumbers(const char* name, const std::vector<std::string>& texts,
                         std::vector<Number>* numbers) {
  for (const std::string& text : texts) {
    Number number = 0;
    const auto end = text.data() + text.size();
    const auto read = std::from_chars(text.data(), end, number);
    if (read.ec != std::errc() || read.ptr != end) {
      return absl::InvalidArgumentError(std::string("--") + name + ": '" + text +
                                        "' is not a whole number");
    }
    numbers->push_back(number);
  }
  return absl::OkStatus();
}

}  // namespace

void RegisterEval(rpc::OptionSet& set, EvalFlags* flags) {
  rpc::OptionSet& eval = set.AddCommand("eval", "measure what the model remembers");
  eval.AddPositional("task", &flags->task.task, "what to ask for; see below", true);
  eval.Add("model", &flags->model, "model folder, run in this process; empty: the endpoint");
  eval.Add("tokenizer", &flags->tokenizer,
           "folder with the tokenizer the endpoint's model has; empty: single bytes");
  eval.Add("dtype", &flags->dtype, "weights in this process: float32, bfloat16, float8 or int8");
  eval.Add("threads", &flags->threads, "threads in this process");
  eval.Add("streams", &flags->streams, "texts side by side, in each thread or at the endpoint");
  eval.Add(
      "out", &flags->out,
      "results as JSON; the same command goes on where one ended that was interrupted or killed");
  eval.Add("print-samples", &flags->print_samples,
           "print so many samples as JSON lines and stop; needs no model");
  eval.Add("distances", &flags->distances,
           "stream_recall: tokens from statement to question; empty: 1024, 4096, ...");
  RegisterTexts(eval, &flags->task);
  RegisterSettings(eval, flags);
  eval.SetExamples(
      TaskList() +
      "\nTexts are streamed in, questions are asked on copies. Answers are greedy. With --out "
      "every\n"
      "finished sample is kept, whatever ends the run. --json prints one line: append runs to a\n"
      "file, tools/eval_report.py makes tables and plots of such files and of --out's.\n\n"
      "  lola eval passkey --model models/passkey-1m --length 16384 --out passkey.json\n"
      "  lola eval statements --model models/passkey-1m --mode base\n"
      "  lola eval stream_recall --model models/passkey-1m --length 1000000 --update-share 0.3\n"
      "  lola eval niah_single_2 --haystack essays.txt --tokenizer my-model    through the "
      "endpoint\n"
      "  lola eval perplexity --model models/passkey-1m --text book.txt\n"
      "  lola eval passkey --model models/passkey-1m --json >> runs.jsonl\n"
      "  lola eval niah_multikey_1 --haystack essays.txt --print-samples 10");
}

absl::StatusOr<EvalFlags> ResolveEval(const EvalFlags& flags) {
  EvalFlags resolved = flags;
  absl::Status status = evaluate::CheckTaskName(flags.task.task);
  if (status.ok()) status = ReadNumbers("distances", flags.distances, &resolved.task.distances);
  if (status.ok()) {
    status = ReadNumbers("cache-pairs-per-layer", flags.cache_pairs_per_layer,
                         &resolved.settings.cache_pairs_per_layer);
  }
  if (status.ok()) status = flags.settings.Rescore().status();
  if (!status.ok()) return status;
  if (resolved.tokenizer.empty()) resolved.tokenizer = flags.model;
  if (resolved.task.text_kind.empty() && !resolved.tokenizer.empty()) {
    resolved.task.text_kind = resolved.tokenizer + "/passkey_text.json";
  }
  return resolved;
}

}  // namespace lola::cli
