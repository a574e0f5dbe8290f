#include "services/engine/utf8.h"

#include <cstdint>

namespace lola::engine {

Utf8Step NextUtf8(std::string_view text) {
  const auto byte = [text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {Utf8Step::kCharacter, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Step::kBad, 1};
  const size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte has a narrower range after some leads: no overlong forms, no surrogates,
  // nothing above U+10FFFF.
  uint8_t low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t i = 1; i < size; ++i) {
    if (i == text.size()) return {Utf8Step::kUnfinished, i};
    if (byte(i) < low || byte(i) > high) return {Utf8Step::kBad, i};
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Step::kCharacter, size};
}

}  // namespace lola::engine
