// Well-formed UTF-8, byte by byte (Unicode standard, table of well-formed byte sequences).
#ifndef LOLA_SERVICES_ENGINE_UTF8_H_
#define LOLA_SERVICES_ENGINE_UTF8_H_

#include <cstddef>
#include <string_view>

namespace lola::engine {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

struct Utf8Step {
  enum Kind { kCharacter, kBad, kUnfinished } kind;
  // kCharacter: its bytes. kBad: the maximal part that can no longer become a character, at
  // least 1. kUnfinished: the bytes are a proper beginning and the text ends there.
  size_t size;
};

// Looks at the beginning of `text`. REQUIRES: text is not empty.
Utf8Step NextUtf8(std::string_view text);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_UTF8_H_
