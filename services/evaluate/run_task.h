// A run from beginning to end: skips what the results file holds, runs the rest, saves as it goes.
// Blocking; `progress` and saving happen on the runner's threads, one at a time.
#ifndef LOLA_SERVICES_EVALUATE_RUN_TASK_H_
#define LOLA_SERVICES_EVALUATE_RUN_TASK_H_

#include <atomic>
#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "services/evaluate/results_file.h"
#include "services/evaluate/runner.h"
#include "services/evaluate/task.h"

namespace lola::evaluate {

struct RunProgress {
  uint64_t samples = 0, samples_total = 0;  // finished earlier included
  uint64_t tokens = 0, tokens_total = 0;    // of this run; the total is about right
  uint64_t questions = 0;
  double score = 0.0;  // percent so far
  double seconds = 0.0;
};

// Ok when every sample of the task is in `results`; CANCELLED when `stop` was set: finished samples
// are kept and saved. UNAVAILABLE, soon, when the file cannot be written.
absl::Status RunTask(const Task& task, Runner& runner, ResultsFile& results,
                     const std::atomic<bool>* stop,
                     const std::function<void(const RunProgress&)>& progress);

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_RUN_TASK_H_
