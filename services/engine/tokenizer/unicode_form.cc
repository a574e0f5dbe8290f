#include "services/engine/tokenizer/unicode_form.h"

#include <utf8proc.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/check.h"
#include "services/engine/tokenizer/characters.h"

namespace lola::engine {
namespace {

// What Unicode 10 to 15 added that is not left alone by normalization. utf8proc knows these
// characters, Hugging Face tokenizers does not. tools/tokenizer_check/real.py --all-characters
// compares all characters.
constexpr std::pair<uint32_t, uint32_t> kLater[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},
    {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x10781, 0x107BA}, {0x10D24, 0x10D27},
    {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F85}, {0x11070, 0x11070},
    {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11943},
    {0x119E0, 0x119E0}, {0x11A34, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D45},
    {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E030, 0x1E08F},
    {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1F16C, 0x1F16C},
    {0x1FBF0, 0x1FBF9}};

// Characters at which a text may be cut: they stay as they are and touch nothing before them. What
// follows them may still combine with them, unless they are later ones.
bool IsLater(uint32_t code) {
  const auto range = std::upper_bound(
      std::begin(kLater), std::end(kLater), code,
      [](uint32_t value, const std::pair<uint32_t, uint32_t>& r) { return value < r.first; });
  return range != std::begin(kLater) && code <= std::prev(range)->second;
}

std::string Converted(UnicodeForm form, std::string_view text) {
  const bool compatible = form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd;
  const bool compose = form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc;
  const auto decompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                        (compatible ? UTF8PROC_COMPAT : 0));
  constexpr size_t kPartsMax = 32;  // of one character; the longest has 18
  std::vector<utf8proc_int32_t> codes;
  size_t count = 0;
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = CodePointAt(text, at);
    codes.resize(count + kPartsMax);
    int last_class = 0;
    const utf8proc_ssize_t parts =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(point.code), codes.data() + count,
                                kPartsMax, decompose, &last_class);
    LOLA_CHECK(parts >= 0 && parts <= static_cast<utf8proc_ssize_t>(kPartsMax));
    count += static_cast<size_t>(parts);
    at += point.size;
  }
  codes.resize(count);
  // Runs of combining marks by their class. utf8proc's own way takes the square of the run.
  const auto rank = [](utf8proc_int32_t code) {
    return utf8proc_get_property(code)->combining_class;
  };
  for (auto from = codes.begin(); from != codes.end();) {
    from = std::find_if(from, codes.end(), [&](auto code) { return rank(code) != 0; });
    const auto end = std::find_if(from, codes.end(), [&](auto code) { return rank(code) == 0; });
    std::stable_sort(from, end, [&](auto a, auto b) { return rank(a) < rank(b); });
    from = end;
  }
  if (compose) {
    const utf8proc_ssize_t left = utf8proc_normalize_utf32(
        codes.data(), static_cast<utf8proc_ssize_t>(codes.size()),
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    LOLA_CHECK(left >= 0);
    codes.resize(static_cast<size_t>(left));
  }
  std::string made;
  for (const utf8proc_int32_t code : codes) {
    utf8proc_uint8_t bytes[4];
    const utf8proc_ssize_t size = utf8proc_encode_char(code, bytes);
    made.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(size));
  }
  return made;
}

}  // namespace

std::optional<UnicodeForm> ParseUnicodeForm(std::string_view name) {
  if (name == "NFC") return UnicodeForm::kNfc;
  if (name == "NFD") return UnicodeForm::kNfd;
  if (name == "NFKC") return UnicodeForm::kNfkc;
  if (name == "NFKD") return UnicodeForm::kNfkd;
  return std::nullopt;
}

void NormalizeUnicode(
    UnicodeForm form, std::string_view text,
    const std::function<void(std::string_view part, size_t begin, size_t end, bool same)>& emit) {
  const auto ascii = [text](size_t at) { return static_cast<uint8_t>(text[at]) < 0x80; };
  size_t done = 0;
  // Bytes done..end as they are.
  const auto keep = [&](size_t end) {
    if (done < end) emit(text.substr(done, end - done), done, end, true);
    done = end;
  };
  for (size_t at = 0; at < text.size();) {
    if (ascii(at)) {
      ++at;
      continue;
    }
    // A run of other characters, and the one before it that they may combine with.
    const size_t begin = at > done ? at - 1 : at;
    size_t end = at;
    while (end < text.size() && !ascii(end)) {
      const CodePoint point = CodePointAt(text, end);
      if (IsLater(point.code)) break;
      end += point.size;
    }
    keep(begin);
    if (begin < end) {
      const std::string made = Converted(form, text.substr(begin, end - begin));
      const bool same = made == text.substr(begin, end - begin);
      emit(made, begin, end, same);
      done = end;
    }
    at = end;
    if (at < text.size() && !ascii(at)) keep(at += CodePointAt(text, at).size);
  }
  keep(text.size());
}

}  // namespace lola::engine
