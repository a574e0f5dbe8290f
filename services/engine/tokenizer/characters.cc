#define PCRE2_CODE_UNIT_WIDTH 8
#include "services/engine/tokenizer/characters.h"

#include <pcre2.h>

#include "kernels/core/check.h"

namespace lola::engine {

CodePoint CodePointAt(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(text[i])); };
  const uint32_t lead = byte(at);
  if (lead < 0x80) return {lead, 1};
  const size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  uint32_t code = lead & (0x7F >> size);
  for (size_t i = 1; i < size; ++i) code = code << 6 | (byte(at + i) & 0x3F);
  return {code, size};
}

bool IsWhiteSpace(uint32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

bool IsWordCharacter(std::string_view character) {
  static const pcre2_code* const code = [] {
    constexpr char kPattern[] = "^[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]$";
    int error = 0;
    PCRE2_SIZE offset = 0;
    const pcre2_code* made =
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPattern), PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &error, &offset, nullptr);
    LOLA_CHECK(made != nullptr);
    return made;
  }();
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  const int found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(character.data()),
                                character.size(), 0, PCRE2_NO_UTF_CHECK, data, nullptr);
  pcre2_match_data_free(data);
  return found >= 0;
}

}  // namespace lola::engine
