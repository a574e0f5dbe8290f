// All tasks by name, and what they can be told. Plain values; any thread.
#ifndef LOLA_SERVICES_EVALUATE_TASKS_H_
#define LOLA_SERVICES_EVALUATE_TASKS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "services/engine/tokenizer.h"
#include "services/evaluate/task.h"

namespace lola::evaluate {

// Everything that decides the texts of a run. Zero or empty means the task's own default.
struct TaskOptions {
  std::string task;
  // Tokens; 0 = 4,096; 65,536 for stream_recall; for perplexity 1,000 times the training length, or
  // the text's own.
  uint64_t length = 0;
  uint64_t samples = 0;  // streams; 0 = 500 for RULER, 100 for statements, 10 and 1 for the others
  uint64_t seed = 42;
  bool bos = true;  // begin streams with <bos>
  uint32_t max_tokens = 0;

  // RULER.
  std::string words;     // file; empty = built-in list
  std::string haystack;  // text file for essays
  bool repeat_haystack = false;
  uint64_t haystack_step = 0;

  // Statements and stream_recall (which may take its filler from `haystack`).
  std::string text_kind;  // passkey_text.json
  uint32_t needles = 1;
  double number_share = 0.0;
  bool needle_at_start = false;
  uint64_t min_distance = 0;  // 0 = outside the window, see OutsideWindow

  // stream_recall.
  uint32_t checkpoints = 4;
  std::vector<uint64_t> distances;
  double update_share = 0.0;

  // perplexity.
  std::string text;
  uint64_t trained_length = 0;  // of the model; 0 = not known
};

// What decides a run's results, as (name, value): options, and a checksum of every file they name.
// Errors of files.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> Arguments(
    const TaskOptions& options);

struct TaskInfo {
  std::string name, description;
};
const std::vector<TaskInfo>& KnownTasks();
// NOT_FOUND naming the known ones.
absl::Status CheckTaskName(const std::string& name);

// NOT_FOUND naming the known tasks; INVALID_ARGUMENT naming option and value; errors of files.
// The tokenizer outlives the task.
absl::StatusOr<std::unique_ptr<Task>> MakeTask(const TaskOptions& options,
                                               const engine::Tokenizer& tokenizer);

// One JSON line: task, index, prompt, references; several questions with their places when a
// stream is asked more than once. Without a model: to look at texts, or to train on their kind.
std::string SampleLine(const Task& task, uint64_t index, const TaskOptions& options,
                       const engine::Tokenizer& tokenizer);

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_TASKS_H_
