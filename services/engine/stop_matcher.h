// Decides when a generation ends and which text may be shown. Not thread-safe: one per generation.
//
// A pure function of the tokens pushed, so a replay of logged tokens after a failover comes to the
// same verdicts. Tokens are never held back (they are part of the stream); text that may be the
// beginning of a stop string is, until that is decided. A stop string itself and what follows it in
// the same token are not shown. The string that is complete first wins, whatever tokens it came in.
#ifndef LOLA_SERVICES_ENGINE_STOP_MATCHER_H_
#define LOLA_SERVICES_ENGINE_STOP_MATCHER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "services/engine/tokenizer.h"

namespace lola::engine {

enum class FinishReason { kNone, kLength, kStop, kEos, kCancelled };
std::string_view FinishReasonName(FinishReason reason);

struct StopRules {
  uint64_t max_tokens = 0;         // tokens of this generation; at least 1
  std::vector<std::string> stops;  // not empty strings, valid UTF-8
  std::vector<int32_t> eos;        // ids that end the generation
  bool ignore_eos = false;

  // INVALID_ARGUMENT naming the field; limits: kStopStringsMax strings of kStopBytesMax bytes.
  absl::Status Validate() const;
};

inline constexpr size_t kStopStringsMax = 16;
inline constexpr size_t kStopBytesMax = 256;

class StopMatcher {
 public:
  // REQUIRES: rules.Validate().ok(); tokenizer outlives the matcher.
  StopMatcher(StopRules rules, const Tokenizer& tokenizer);

  struct Verdict {
    std::string text;  // valid UTF-8, final, in order; on the last token all that may be shown
    FinishReason reason = FinishReason::kNone;
  };
  // Takes the next token. REQUIRES: no earlier verdict had a reason.
  Verdict Push(int32_t id);
  // Text still held back when a generation is cancelled.
  std::string Flush();

  uint64_t tokens() const { return tokens_; }

 private:
  // Appends decoded text; true when a stop string ends in it, tail_ is then cut before that string.
  bool Append(std::string_view text);
  // Bytes at the end of tail_ that may be the beginning of a stop string.
  size_t HeldBytes() const;

  StopRules rules_;
  const Tokenizer* tokenizer_;
  TextDecoder decoder_;
  std::string tail_;  // decoded, not yet shown
  uint64_t tokens_ = 0;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_STOP_MATCHER_H_
