// Unicode normalization forms (UAX #15), with the characters Hugging Face tokenizers knows: its
// tables end with Unicode 9, later characters pass unchanged. Any thread may call.
#ifndef LOLA_SERVICES_ENGINE_TOKENIZER_UNICODE_FORM_H_
#define LOLA_SERVICES_ENGINE_TOKENIZER_UNICODE_FORM_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>

namespace lola::engine {

enum class UnicodeForm : uint8_t { kNfc, kNfd, kNfkc, kNfkd };

// "NFC", "NFD", "NFKC", "NFKD"; nothing for other names.
std::optional<UnicodeForm> ParseUnicodeForm(std::string_view name);

// Calls `emit(part, begin, end, same)` for the normalized text piece by piece: `part` is what bytes
// begin..end of `text` became, or those bytes themselves when `same`. Pieces are in order and cover
// the text. Takes time in proportion to the text (n log n within a run of combining marks).
// REQUIRES: valid UTF-8.
void NormalizeUnicode(
    UnicodeForm form, std::string_view text,
    const std::function<void(std::string_view part, size_t begin, size_t end, bool same)>& emit);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_TOKENIZER_UNICODE_FORM_H_
