// Unicode regular expressions of pre-tokenizers, run by PCRE2 with the meaning Oniguruma gives them
// (the library behind Hugging Face tokenizers). Immutable after Compile: any thread may match.
//
// Only constructs on which both agree pass; others are refused by name. Two are rewritten: \s is
// the White_Space property (PCRE2's own \s also holds U+180E), \p{Script} is the script, not its
// extensions.
#ifndef LOLA_SERVICES_ENGINE_TOKENIZER_SPLIT_REGEX_H_
#define LOLA_SERVICES_ENGINE_TOKENIZER_SPLIT_REGEX_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct pcre2_real_code_8;

namespace lola::engine {

class SplitRegex {
 public:
  // `field` names the pattern in messages. INVALID_ARGUMENT when it is malformed, UNIMPLEMENTED for
  // constructs outside the common part and for patterns that can match nothing.
  static absl::StatusOr<SplitRegex> Compile(std::string_view field, std::string_view pattern);
  // A pattern that matches exactly `literal`. REQUIRES: literal is not empty.
  static absl::StatusOr<SplitRegex> Literal(std::string_view field, std::string_view literal);

  // Calls `piece(begin, end, matched)` for matches and the gaps between them, in order, covering
  // `text`. REQUIRES: text is valid UTF-8. RESOURCE_EXHAUSTED when a match takes too many steps.
  absl::Status ForEach(std::string_view text,
                       const std::function<void(size_t, size_t, bool)>& piece) const;

  // The pattern as PCRE2 sees it.
  const std::string& pattern() const { return pattern_; }

 private:
  SplitRegex() = default;
  static absl::StatusOr<SplitRegex> CompileTranslated(std::string_view field, std::string pattern);

  std::string pattern_;
  std::shared_ptr<const pcre2_real_code_8> code_;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_TOKENIZER_SPLIT_REGEX_H_
