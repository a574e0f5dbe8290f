#include "services/evaluate/tasks.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/engine/mapped_file.h"
#include "services/evaluate/haystack.h"
#include "services/evaluate/passkey_text.h"
#include "services/evaluate/perplexity.h"
#include "services/evaluate/ruler.h"
#include "services/evaluate/sized_task.h"
#include "services/evaluate/statements.h"
#include "services/evaluate/stream_recall.h"
#include "services/evaluate/words.h"

namespace lola::evaluate {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kLength = 4096, kLeastDistance = 192;
constexpr uint64_t kRulerSamples = 500, kStatementSamples = 100;

absl::StatusOr<std::unique_ptr<Task>> MakeRuler(const TaskOptions& o, TokenCounter counter) {
  RulerOptions ruler;
  ruler.length = o.length > 0 ? o.length : kLength;
  ruler.samples = o.samples > 0 ? o.samples : kRulerSamples;
  ruler.seed = o.seed;
  ruler.haystack_step = o.haystack_step;
  ruler.max_tokens = o.max_tokens;
  ruler.repeat_haystack = o.repeat_haystack;
  if (o.task == "variable_tracking") return MakeVariableTracking(ruler, counter);
  if (o.task == "passkey") return MakeLandmarkPasskey(ruler, counter);
  absl::StatusOr<Words> words = o.words.empty() ? Words::BuiltIn() : Words::Load(o.words);
  if (!words.ok()) return words.status();
  ruler.words = std::make_shared<const Words>(*std::move(words));
  if (NeedsHaystack(o.task) && !o.haystack.empty()) {
    absl::StatusOr<Haystack> haystack = Haystack::Load(o.haystack);
    if (!haystack.ok()) return haystack.status();
    ruler.haystack = std::make_shared<const Haystack>(*std::move(haystack));
  }
  return MakeNiah(o.task, ruler, counter);
}

absl::StatusOr<std::shared_ptr<const PasskeyText>> LoadTextKind(const TaskOptions& o) {
  if (o.text_kind.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("text-kind: ", o.task, " needs a passkey_text.json"));
  }
  absl::StatusOr<PasskeyText> text = PasskeyText::Load(o.text_kind);
  if (!text.ok()) return text.status();
  return std::make_shared<const PasskeyText>(*std::move(text));
}

absl::StatusOr<std::unique_ptr<Task>> MakeStatementTask(const TaskOptions& o,
                                                        TokenCounter counter) {
  const auto text = LoadTextKind(o);
  if (!text.ok()) return text.status();
  StatementsOptions statements;
  statements.length = o.length > 0 ? o.length : kLength;
  statements.samples = o.samples > 0 ? o.samples : kStatementSamples;
  statements.needles = o.needles;
  statements.number_share = o.number_share;
  statements.needle_at_start = o.needle_at_start;
  statements.min_distance = o.min_distance > 0 ? o.min_distance : kLeastDistance;
  statements.seed = o.seed;
  statements.text = *text;
  return MakeStatements(statements, counter);
}

absl::StatusOr<std::unique_ptr<Task>> MakeStreamTask(const TaskOptions& o, TokenCounter counter) {
  const auto text = LoadTextKind(o);
  if (!text.ok()) return text.status();
  StreamRecallOptions stream;
  if (o.length > 0) stream.length = o.length;
  if (o.samples > 0) stream.samples = o.samples;
  stream.checkpoints = o.checkpoints;
  stream.distances = o.distances;
  stream.needles = o.needles;
  stream.update_share = o.update_share;
  stream.number_share = o.number_share;
  stream.seed = o.seed;
  stream.text = *text;
  if (!o.haystack.empty()) {
    absl::StatusOr<Haystack> prose = Haystack::Load(o.haystack);
    if (!prose.ok()) return prose.status();
    stream.prose = std::make_shared<const Haystack>(*std::move(prose));
  }
  return MakeStreamRecall(stream, counter);
}

absl::StatusOr<std::unique_ptr<Task>> MakePerplexityTask(const TaskOptions& o,
                                                         TokenCounter counter) {
  PerplexityOptions perplexity;
  perplexity.path = o.text;
  perplexity.length = o.length;
  if (o.samples > 0) perplexity.samples = o.samples;
  perplexity.trained_length = o.trained_length;
  perplexity.repeat = o.repeat_haystack;
  return MakePerplexity(perplexity, counter);
}

// Options that the task would silently leave aside.
absl::Status CheckMeant(const TaskOptions& o) {
  const bool niah = o.task.starts_with("niah_");
  if (!o.haystack.empty() && !NeedsHaystack(o.task) && o.task != "stream_recall") {
    return absl::InvalidArgumentError(
        absl::StrCat("haystack: \"", o.haystack, "\", but ", o.task, " has a haystack of its own"));
  }
  if (!o.words.empty() && !niah) {
    return absl::InvalidArgumentError(
        absl::StrCat("words: \"", o.words, "\", but ", o.task, " draws no words"));
  }
  if (!o.text.empty() && o.task != "perplexity") {
    return absl::InvalidArgumentError(
        absl::StrCat("text: \"", o.text, "\", but ", o.task, " reads no text; see --haystack"));
  }
  return absl::OkStatus();
}

}  // namespace

const std::vector<TaskInfo>& KnownTasks() {
  static const auto& tasks = *new std::vector<TaskInfo>{
      {"passkey", "one pass key in a repeated line (landmark attention's form)"},
      {"statements", "statements in the model's own kind of text (passkey_text.json)"},
      {"niah_single_1", "RULER: one number, repeated line"},
      {"niah_single_2", "RULER: one number, essays (--haystack FILE)"},
      {"niah_single_3", "RULER: one uuid, essays"},
      {"niah_multikey_1", "RULER: one number of four keys, essays"},
      {"niah_multikey_2", "RULER: one number among needles"},
      {"niah_multikey_3", "RULER: one uuid among needles with uuid keys"},
      {"niah_multivalue", "RULER: four numbers of one key, essays"},
      {"niah_multiquery", "RULER: four keys asked at once, essays"},
      {"variable_tracking", "RULER: a chain of five variables, repeated line"},
      {"stream_recall", "statements and their updates by distance and place, in one long stream"},
      {"perplexity", "bits per token of a text by position (--text FILE, in this process only)"},
  };
  return tasks;
}

absl::Status CheckTaskName(const std::string& name) {
  const auto& known = KnownTasks();
  if (std::any_of(known.begin(), known.end(),
                  [&](const TaskInfo& task) { return task.name == name; })) {
    return absl::OkStatus();
  }
  std::string names;
  for (const TaskInfo& task : known) absl::StrAppend(&names, names.empty() ? "" : ", ", task.name);
  return absl::InvalidArgumentError(
      absl::StrCat("task: \"", name, "\" is unknown; known: ", names));
}

absl::StatusOr<std::unique_ptr<Task>> MakeTask(const TaskOptions& options,
                                               const engine::Tokenizer& tokenizer) {
  absl::Status good = CheckTaskName(options.task);
  if (good.ok()) good = CheckMeant(options);
  if (!good.ok()) return good;
  const TokenCounter counter(&tokenizer, options.bos);
  if (options.task == "statements") return MakeStatementTask(options, counter);
  if (options.task == "stream_recall") return MakeStreamTask(options, counter);
  if (options.task == "perplexity") return MakePerplexityTask(options, counter);
  return MakeRuler(options, counter);
}

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> Arguments(const TaskOptions& o) {
  std::vector<std::pair<std::string, std::string>> arguments = {
      {"task", o.task},
      {"length", absl::StrCat(o.length)},
      {"samples", absl::StrCat(o.samples)},
      {"seed", absl::StrCat(o.seed)},
      {"bos", o.bos ? "true" : "false"},
      {"max_tokens", absl::StrCat(o.max_tokens)},
      {"repeat_haystack", o.repeat_haystack ? "true" : "false"},
      {"haystack_step", absl::StrCat(o.haystack_step)},
      {"needles", absl::StrCat(o.needles)},
      {"number_share", absl::StrCat(o.number_share)},
      {"needle_at_start", o.needle_at_start ? "true" : "false"},
      {"min_distance", absl::StrCat(o.min_distance)},
      {"checkpoints", absl::StrCat(o.checkpoints)},
      {"distances", absl::StrJoin(o.distances, ",")},
      {"update_share", absl::StrCat(o.update_share)},
      {"trained_length", absl::StrCat(o.trained_length)}};
  const bool statements = o.task == "statements" || o.task == "stream_recall";
  for (const auto& [name, path] :
       {std::pair("words", o.words), std::pair("haystack", o.haystack), std::pair("text", o.text),
        std::pair("text_kind", statements ? o.text_kind : "")}) {
    std::string sum;
    if (!path.empty()) {
      const auto file = engine::MappedFile::Open(path);
      if (!file.ok()) return file.status();
      // FNV-1a: tells files apart, is no protection.
      uint64_t hash = 0xCBF29CE484222325ull;
      for (const std::byte byte : file->bytes()) {
        hash = (hash ^ static_cast<uint64_t>(byte)) * 0x100000001B3ull;
      }
      sum = absl::StrCat(absl::Hex(hash, absl::kZeroPad16));
    }
    arguments.emplace_back(name, sum);
  }
  return arguments;
}

std::string SampleLine(const Task& task, uint64_t index, const TaskOptions& options,
                       const engine::Tokenizer& tokenizer) {
  const TokenCounter counter(&tokenizer, options.bos);
  const std::unique_ptr<Script> script = task.Open(index);
  std::string text;
  Json questions = Json::array();
  for (Step step = script->Next(); step.kind != Step::Kind::kEnd; step = script->Next()) {
    text += step.text;
    if (step.kind != Step::Kind::kQuestion) continue;
    const Question& q = step.question;
    Json references = Json::array();
    for (const Reference& reference : q.references) references.push_back(reference.text);
    questions.push_back({{"at_byte", text.size()},
                         {"question", q.text},
                         {"answer_prefix", q.answer_prefix},
                         {"references", references},
                         {"older", q.older},
                         {"max_new_tokens", q.max_tokens},
                         {"scoring", std::string(Name(q.scoring))}});
  }
  Json line = {{"task", task.name()}, {"index", index}};
  if (questions.size() == 1) {
    const Json& q = questions[0];
    const std::string prompt = text + q["question"].get<std::string>();
    line["prompt"] = prompt + q["answer_prefix"].get<std::string>();
    for (const char* name : {"answer_prefix", "references", "max_new_tokens", "scoring"}) {
      line[name] = q[name];
    }
    line["tokens"] = counter.Text(prompt, true) + (options.bos ? 1 : 0);
  } else {
    line["text"] = text;
    line["questions"] = questions;
  }
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace lola::evaluate
