// The common part of Oniguruma's and PCRE2's regular expressions.
#ifndef LOLA_SERVICES_ENGINE_TOKENIZER_REGEX_DIALECT_H_
#define LOLA_SERVICES_ENGINE_TOKENIZER_REGEX_DIALECT_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace lola::engine {

// A pattern for PCRE2 (UTF and UCP on) that means what Oniguruma's default syntax means by
// `pattern`. UNIMPLEMENTED naming `field`, the construct and its place for what the two read
// differently or what pre-tokenizers do not need: anchors, back references, named or capturing
// groups with options, nested classes, \w, \h and other letter escapes.
absl::StatusOr<std::string> TranslateOniguruma(std::string_view field, std::string_view pattern);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_TOKENIZER_REGEX_DIALECT_H_
