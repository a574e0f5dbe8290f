// "stream_recall": one long stream with statements planted at chosen distances before the places
// where they are asked for, some of them updates of older statements with the same name. Asking
// happens on copies, at several places of the stream, while it goes on. Threads: task.h.
#ifndef LOLA_SERVICES_EVALUATE_STREAM_RECALL_H_
#define LOLA_SERVICES_EVALUATE_STREAM_RECALL_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "services/evaluate/haystack.h"
#include "services/evaluate/passkey_text.h"
#include "services/evaluate/sized_task.h"
#include "services/evaluate/task.h"

namespace lola::evaluate {

struct StreamRecallOptions {
  uint64_t length = 65'536;         // tokens of a stream
  uint64_t samples = 10;            // streams
  uint32_t checkpoints = 4;         // places where questions are asked, evenly spaced to the end
  std::vector<uint64_t> distances;  // tokens from a statement's end to its question; empty: powers
                                    // of 4 from 1,024 up to the length
  uint32_t needles = 1;             // statements for each place and distance
  double update_share = 0.0;        // statements that replace older ones, 0 to 1
  double number_share = 0.0;        // filler sentences with other numbers, 0 to 1
  uint64_t seed = 42;
  std::shared_ptr<const PasskeyText> text;
  std::shared_ptr<const Haystack> prose;  // filler; null: sentences of `text`
};

// INVALID_ARGUMENT naming the option and its value.
absl::StatusOr<std::unique_ptr<Task>> MakeStreamRecall(const StreamRecallOptions& options,
                                                       TokenCounter counter);

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_STREAM_RECALL_H_
