// "statements": short statements ("The pass key of abc is 12345. ") hidden between the sentences of
// a model's own passkey_text.json, every one asked about at the end. Threads: task.h.
#ifndef LOLA_SERVICES_EVALUATE_STATEMENTS_H_
#define LOLA_SERVICES_EVALUATE_STATEMENTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/evaluate/passkey_text.h"
#include "services/evaluate/sized_task.h"
#include "services/evaluate/task.h"

namespace lola::evaluate {

struct StatementsOptions {
  uint64_t length = 4096;        // tokens up to the answer: <bos>, document and question
  uint64_t samples = 100;        // documents
  uint64_t questions = 0;        // in all; 0 = samples * needles (the last document may hold fewer)
  uint32_t needles = 1;          // statements in a document, each asked once
  double number_share = 0.0;     // share of filler sentences that hold other numbers
  bool needle_at_start = false;  // all statements at the very start instead of spread over depth
  // Least tokens between a statement's end and the answer, so that it has left the window.
  uint64_t min_distance = 192;
  uint64_t seed = 1'000'003;
  std::shared_ptr<const PasskeyText> text;
};

// INVALID_ARGUMENT naming the option and its value.
absl::StatusOr<std::unique_ptr<Task>> MakeStatements(const StatementsOptions& options,
                                                     TokenCounter counter);

// The question about `name` and its answer, for a tokenizer: with a tokenizer of single bytes the
// question ends with the statement's own blank; other vocabularies have that blank in the answer.
Question AskStatement(const PasskeyText& text, const std::string& name,
                      const TokenCounter& counter);

// Tokens of this tokenizer for a byte of `text`, measured on a stretch of its filler.
double TokensPerByte(const PasskeyText& text, const TokenCounter& counter);

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_STATEMENTS_H_
