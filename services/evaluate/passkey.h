// Pass key evaluation in one process: reads long documents through the engine and asks for keys
// hidden in them. Each question is asked on a copy of the stream's state, so several questions a
// document cost little more than one. Blocking; runs `threads` workers of its own.
#ifndef LOLA_SERVICES_EVALUATE_PASSKEY_H_
#define LOLA_SERVICES_EVALUATE_PASSKEY_H_

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "memory/stream/settings.h"
#include "memory/stream/statistics.h"
#include "services/engine/model.h"
#include "services/engine/tokenizer.h"
#include "services/evaluate/passkey_text.h"
#include "services/evaluate/settings_choice.h"
#include "services/evaluate/summary.h"

namespace lola::evaluate {

inline constexpr size_t kDepthBins = 4;

struct PasskeyOptions {
  memory::LolaSettings settings;  // softmax mode: the window is made long enough
  uint64_t length = 1024;         // tokens up to the answer: <bos>, document and question
  uint32_t questions = 100;
  uint32_t needles = 1;          // statements in a document, each asked once
  double number_share = 0.0;     // share of filler sentences that hold other numbers
  bool needle_at_start = false;  // all needles at the very start instead of spread over depth
  // Least tokens between the end of a statement and the first answer; 0 = outside the window of
  // every setting: max(192, 2 * window + 64).
  uint64_t min_distance = 0;
  uint64_t seed = 1'000'003;
  int threads = 2;
  uint32_t streams_per_thread = 8;  // documents read side by side
};

struct PasskeyProgress {
  uint64_t tokens = 0, tokens_total = 0;
  uint32_t questions = 0, questions_total = 0, right = 0;
  double seconds = 0.0;
  double tokens_per_second() const { return seconds > 0 ? tokens / seconds : 0.0; }
  double seconds_left() const {
    return tokens > 0 ? seconds * static_cast<double>(tokens_total - tokens) / tokens : 0.0;
  }
};

// An answer that was not exactly right.
struct PasskeyMistake {
  std::string question, expected, said;
  double depth = 0.0;
};

struct PasskeyResult {
  uint32_t questions = 0, right = 0;
  double percent = 0.0, low = 0.0, high = 0.0;        // with the 95 % Wilson interval
  std::array<uint32_t, kDepthBins> asked_by_depth{};  // depth of the statement, quarters
  std::array<uint32_t, kDepthBins> right_by_depth{};
  uint64_t digits_right = 0;  // single digits, of questions * digits
  uint64_t tokens = 0;        // through the model, questions included
  double seconds = 0.0;
  uint64_t state_bytes = 0;  // of one stream
  uint64_t min_distance = 0;
  memory::LolaSettings settings;  // as run
  memory::MemoryStats stats;
  std::vector<PasskeyMistake> mistakes;  // at most 8
};

// `progress` (may be empty) is called from the calling thread about once a second.
// INVALID_ARGUMENT naming the option and its value; the engine's own errors otherwise.
absl::StatusOr<PasskeyResult> EvaluatePasskey(
    const engine::Model& model, const engine::Tokenizer& tokenizer, const PasskeyText& text,
    const PasskeyOptions& options, const std::function<void(const PasskeyProgress&)>& progress);

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_PASSKEY_H_
