// RULER's needle-in-a-haystack tasks and variable tracking, and the landmark form of the pass key,
// with their templates, sizing and decoding lengths. Placement is stratified by depth. Keys that
// are asked for occur nowhere else (with a short word list they would). Threads: task.h.
#ifndef LOLA_SERVICES_EVALUATE_RULER_H_
#define LOLA_SERVICES_EVALUATE_RULER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "services/evaluate/haystack.h"
#include "services/evaluate/sized_task.h"
#include "services/evaluate/task.h"
#include "services/evaluate/words.h"

namespace lola::evaluate {

struct RulerOptions {
  uint64_t length = 4096;  // tokens, those to generate included
  uint64_t samples = 500;
  uint64_t seed = 42;
  // Step of the haystack: 0 = the rule (500 words; 25 lines, 5 below 4,096 tokens; 10 lines for
  // variable tracking; 1 line for the pass key).
  uint64_t haystack_step = 0;
  uint32_t max_tokens = 0;  // to generate: 0 = 128, 30 for variable tracking, 16 for the pass key
  std::shared_ptr<const Words> words;        // needed by all niah tasks
  std::shared_ptr<const Haystack> haystack;  // needed by tasks with essays
  bool repeat_haystack = false;              // begin it again when it ends
};

// "niah_single_1" ... "niah_multiquery". NOT_FOUND for other names, INVALID_ARGUMENT for options.
absl::StatusOr<std::unique_ptr<Task>> MakeNiah(std::string_view name, const RulerOptions& options,
                                               TokenCounter counter);
bool NeedsHaystack(std::string_view name);

// "variable_tracking".
absl::StatusOr<std::unique_ptr<Task>> MakeVariableTracking(const RulerOptions& options,
                                                           TokenCounter counter);
// "passkey", the landmark form.
absl::StatusOr<std::unique_ptr<Task>> MakeLandmarkPasskey(const RulerOptions& options,
                                                          TokenCounter counter);

inline constexpr char kNoiseLine[] =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_RULER_H_
