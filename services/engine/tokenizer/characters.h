// Properties of characters that do not need a pattern. Any thread may call.
#ifndef LOLA_SERVICES_ENGINE_TOKENIZER_CHARACTERS_H_
#define LOLA_SERVICES_ENGINE_TOKENIZER_CHARACTERS_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace lola::engine {

// Ids above this are refused at load: tables are indexed by id.
inline constexpr int32_t kTokenIdMax = 1 << 20;

struct CodePoint {
  uint32_t code = 0;
  size_t size = 0;  // bytes
};
// The character that begins at byte `at`. REQUIRES: valid UTF-8, `at` begins a character.
CodePoint CodePointAt(std::string_view text, size_t at);

// The White_Space property of Unicode.
bool IsWhiteSpace(uint32_t code);
// Letters, marks, digits, connectors: what \w means to Rust's regex crate, which decides for
// added tokens that stand as single words. REQUIRES: one valid character.
bool IsWordCharacter(std::string_view character);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_TOKENIZER_CHARACTERS_H_
