// Base of tasks whose haystack is as long as a token budget allows (the RULER rule): the haystack
// grows in steps while prompt, answers and the tokens to generate stay within the length; a sample
// that would still exceed it is shrunk by steps. See task.h for threads.
#ifndef LOLA_SERVICES_EVALUATE_SIZED_TASK_H_
#define LOLA_SERVICES_EVALUATE_SIZED_TASK_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "services/engine/tokenizer.h"
#include "services/evaluate/line_script.h"
#include "services/evaluate/random.h"
#include "services/evaluate/task.h"

namespace lola::evaluate {

// Tokens of texts as they will be fed: piece by piece, with <bos> when there is one.
class TokenCounter {
 public:
  // The tokenizer outlives the counter.
  TokenCounter(const engine::Tokenizer* tokenizer, bool bos) : tokenizer_(tokenizer), bos_(bos) {}

  // `begins`: the text is the stream's first. REQUIRES: valid UTF-8.
  uint64_t Text(std::string_view text, bool begins = false) const;
  // Stream and question, without the answer prefix.
  uint64_t Prompt(Script& script) const;
  const engine::Tokenizer& tokenizer() const { return *tokenizer_; }
  bool bos() const { return bos_; }

 private:
  const engine::Tokenizer* tokenizer_;
  bool bos_;
};

struct Sizing {
  uint64_t length = 0;    // tokens: prompt, answers and tokens to generate
  uint64_t generate = 0;  // tokens to generate
  uint64_t step = 1;      // of the haystack
  uint64_t least = 0;     // smallest haystack
  uint64_t most = UINT64_MAX;
};

class SizedTask : public Task {
 public:
  uint64_t samples() const override { return depths_.size(); }
  uint64_t tokens_per_sample() const override { return sizing_.length + kPrefixTokensMax; }
  std::unique_ptr<Script> Open(uint64_t index) const override;
  uint64_t haystack() const { return haystack_; }  // lines or words, before shrinking

 protected:
  SizedTask(TokenCounter counter, Sizing sizing, uint64_t seed, uint64_t samples)
      : counter_(counter), sizing_(sizing), seed_(seed), depths_(Stratified(seed, samples)) {}

  // The prompt of sample `index` with a haystack of `size`; `index` may be kSizingSample.
  virtual LinePrompt Compose(uint64_t index, uint64_t size) const = 0;
  // Finds the haystack's size. INVALID_ARGUMENT naming the length when nothing fits, or when the
  // haystack ends before the length is reached.
  absl::Status Size();

  static constexpr uint64_t kSizingSample = UINT64_MAX;
  static constexpr uint64_t kPrefixTokensMax = 1024;

  uint64_t seed() const { return seed_; }
  uint64_t step() const { return sizing_.step; }
  uint64_t generate() const { return sizing_.generate; }
  double Depth(uint64_t index) const { return index < depths_.size() ? depths_[index] : 0.5; }
  const TokenCounter& counter() const { return counter_; }

 private:
  uint64_t TokensWithAnswers(uint64_t size) const;

  TokenCounter counter_;
  Sizing sizing_;
  uint64_t seed_;
  std::vector<double> depths_;
  uint64_t haystack_ = 0;
};

// `count` different places below `bound`; the first is the one `depth` (0..1) points at.
std::vector<uint64_t> Places(Random& random, uint64_t bound, uint64_t count, double depth);

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_SIZED_TASK_H_
