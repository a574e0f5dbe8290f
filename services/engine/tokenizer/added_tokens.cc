#include "services/engine/tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/engine/tokenizer/characters.h"

namespace lola::engine {
namespace {

constexpr size_t kContentBytesMax = 1024;

bool LooksLikeControl(std::string_view content) {
  return content.size() > 4 && content.starts_with("<|") && content.ends_with("|>");
}

// Bytes of white space at the end of `text`.
size_t SpaceAtEnd(std::string_view text) {
  size_t kept = text.size();
  while (kept > 0) {
    size_t begin = kept - 1;
    while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
    if (!IsWhiteSpace(CodePointAt(text, begin).code)) break;
    kept = begin;
  }
  return text.size() - kept;
}

size_t SpaceAtBegin(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const CodePoint point = CodePointAt(text, at);
    if (!IsWhiteSpace(point.code)) break;
    at += point.size;
  }
  return at;
}

// Whether the characters around [begin, end) are no part of a word.
bool StandsAlone(std::string_view text, size_t begin, size_t end) {
  if (end < text.size() && IsWordCharacter(text.substr(end, CodePointAt(text, end).size))) {
    return false;
  }
  if (begin == 0) return true;
  size_t before = begin - 1;
  while (before > 0 && (static_cast<uint8_t>(text[before]) & 0xC0) == 0x80) --before;
  return !IsWordCharacter(text.substr(before, begin - before));
}

absl::StatusOr<AddedToken> ParseOne(const Json& entry, size_t index) {
  JsonReader reader(entry, absl::StrCat("added_tokens[", index, "]."));
  AddedToken token;
  token.content = reader.Text("content");
  token.id = static_cast<int32_t>(reader.Unsigned("id", 0, kTokenIdMax));
  const bool special = reader.Bool("special", false);
  token.normalized = reader.Bool("normalized", !special);
  token.lstrip = reader.Bool("lstrip", false);
  token.rstrip = reader.Bool("rstrip", false);
  token.single_word = reader.Bool("single_word", false);
  token.control = special || LooksLikeControl(token.content);
  if (!reader.status().ok()) return reader.status();
  if (token.content.size() > kContentBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        reader.prefix(), "content: ", token.content.size(), " bytes, at most ", kContentBytesMax));
  }
  return token;
}

}  // namespace

absl::StatusOr<std::vector<AddedToken>> ParseAddedTokens(const Json& root) {
  std::vector<AddedToken> tokens;
  const auto added = root.find("added_tokens");
  if (added == root.end() || added->is_null()) return tokens;
  if (!added->is_array()) {
    return absl::InvalidArgumentError(
        absl::StrCat("added_tokens: ", ShowJson(*added), ", must be an array"));
  }
  for (size_t i = 0; i < added->size(); ++i) {
    absl::StatusOr<AddedToken> token = ParseOne((*added)[i], i);
    if (!token.ok()) return token.status();
    tokens.push_back(*std::move(token));
  }
  return tokens;
}

void StringFinder::Add(std::string_view pattern, size_t value) {
  uint32_t node = 0;
  for (const char c : pattern) {
    const auto byte = static_cast<uint8_t>(c);
    const auto [next, fresh] =
        nodes_.try_emplace(uint64_t{node} << 8 | byte, static_cast<uint32_t>(ends_.size()));
    if (fresh) ends_.push_back(kNothing);
    if (node == 0) first_[byte] = next->second;
    node = next->second;
  }
  if (node != 0) ends_[node] = static_cast<int64_t>(value);
}

std::optional<StringFinder::Match> StringFinder::Find(std::string_view text, size_t from) const {
  if (nodes_.empty()) return std::nullopt;
  for (size_t begin = from; begin < text.size(); ++begin) {
    uint32_t node = first_[static_cast<uint8_t>(text[begin])];
    if (node == 0) continue;
    std::optional<Match> longest;
    for (size_t at = begin + 1;; ++at) {
      if (ends_[node] != kNothing) longest = Match{begin, at, static_cast<size_t>(ends_[node])};
      if (at == text.size()) break;
      const auto next = nodes_.find(uint64_t{node} << 8 | static_cast<uint8_t>(text[at]));
      if (next == nodes_.end()) break;
      node = next->second;
    }
    if (longest) return longest;
  }
  return std::nullopt;
}

std::vector<TextPart> AddedTokens::Split(std::string_view text, bool normalized,
                                         const std::vector<TextRange>& control) const {
  const StringFinder& finder = normalized ? normalized_ : plain_;
  std::vector<TextPart> parts;
  size_t done = 0, from = 0;
  auto range = control.begin();
  while (const auto match = finder.Find(text, from)) {
    const AddedToken& token = tokens_[match->value];
    from = match->end;
    while (range != control.end() && range->end < match->end) ++range;
    const bool within = range != control.end() && range->begin <= match->begin;
    if (token.control && !within) {
      // The search goes on behind it, but never misses the beginning of a range.
      if (range != control.end()) from = std::min(from, std::max(range->begin, match->begin + 1));
      continue;
    }
    if (token.single_word && !StandsAlone(text, match->begin, match->end)) continue;
    size_t begin = match->begin, end = match->end;
    if (token.lstrip) begin = std::max(begin - SpaceAtEnd(text.substr(0, begin)), done);
    if (token.rstrip) end += SpaceAtBegin(text.substr(end));
    if (done < begin) parts.push_back({done, begin, nullptr});
    parts.push_back({begin, end, &token});
    // May go back: a token within the space that the one before it took is found all the same, and
    // the rest of that space counts again. So it is in Hugging Face tokenizers.
    done = end;
  }
  if (done < text.size()) parts.push_back({done, text.size(), nullptr});
  return parts;
}

}  // namespace lola::engine
