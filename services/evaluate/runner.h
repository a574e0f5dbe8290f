// Runs samples of a task somewhere: reads their texts into streams, asks their questions on copies,
// judges the answers. Blocking; a runner is used by one thread at a time and may have its own.
#ifndef LOLA_SERVICES_EVALUATE_RUNNER_H_
#define LOLA_SERVICES_EVALUATE_RUNNER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "services/evaluate/score.h"
#include "services/evaluate/task.h"

namespace lola::evaluate {

// One question, asked.
struct Answer {
  std::string text;            // what the model said, valid UTF-8
  uint64_t position = 0;       // tokens of the stream before the question
  uint64_t answer_at = 0;      // the same with the question: where the answer begins
  std::vector<uint64_t> told;  // tokens of the stream when each reference had been told
  Question question;
  Verdict verdict;
};

// What a stretch of text cost.
struct BitCount {
  uint64_t tokens = 0, bytes = 0;
  double bits = 0.0;
  double squares = 0.0;  // sum of every token's bits squared
};

struct SampleResult {
  uint64_t index = 0;
  uint64_t tokens = 0;  // of the stream, without questions
  std::vector<Answer> answers;
  // Tasks that measure: by position, lower powers of two; and by the smallest power of ten times
  // the task's unit that the position is below.
  std::map<uint64_t, BitCount> by_position, by_multiple;
};

struct RunCallbacks {
  std::function<void(SampleResult)> done;   // one at a time, from any thread, in any order
  std::function<void(uint64_t)> tokens;     // tokens that went through the model; as `done`
  const std::atomic<bool>* stop = nullptr;  // set: end soon; unfinished samples are dropped
};

// What answered, for the report.
struct RunSetup {
  std::string engine;  // "in process" or "endpoint host:port"
  std::string model, fingerprint, instruction_class, weight_dtype;
  uint64_t state_bytes = 0;                                   // of one stream, at any length
  std::vector<std::pair<std::string, std::string>> settings;  // by their names on the wire
};

class Runner {
 public:
  virtual ~Runner() = default;
  virtual const RunSetup& setup() const = 0;
  // CANCELLED when stopped. Every sample reported by `done` is whole.
  virtual absl::Status Run(const Task& task, std::span<const uint64_t> samples,
                           const RunCallbacks& callbacks) = 0;
};

// Where each of a script's marks lies in tokens, and how far the stream is.
class TokenPlaces {
 public:
  // A piece of text that begins at token `position` was split into `tokens` tokens.
  void Add(const Step& step, uint64_t position,
           const std::function<uint64_t(std::string_view)>& count);
  // An answer with the places of its references filled in. REQUIRES: their marks were added.
  Answer Make(const Question& question, uint64_t position, uint64_t question_tokens) const;

 private:
  std::vector<std::pair<uint32_t, uint64_t>> told_;  // mark, tokens
};

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_RUNNER_H_
