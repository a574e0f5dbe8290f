// "perplexity": how many bits a token of a text costs, by its place in the stream. Needs a runner
// that sees the model's probabilities (the engine in this process). Threads: task.h.
#ifndef LOLA_SERVICES_EVALUATE_PERPLEXITY_H_
#define LOLA_SERVICES_EVALUATE_PERPLEXITY_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/evaluate/sized_task.h"
#include "services/evaluate/task.h"

namespace lola::evaluate {

struct PerplexityOptions {
  std::string path;      // the text, UTF-8, read as it is
  uint64_t length = 0;   // most tokens of a stream, <bos> not counted; 0 = 1,000 times the training
                         // length, or less when the text ends before
  uint64_t samples = 1;  // streams: stretches of the text that do not overlap
  uint64_t trained_length = 0;  // 0 = not known
  bool repeat = false;          // begin the text again when it ends
};

// INVALID_ARGUMENT naming the option; NOT_FOUND for the file.
absl::StatusOr<std::unique_ptr<Task>> MakePerplexity(const PerplexityOptions& options,
                                                     TokenCounter counter);

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_PERPLEXITY_H_
