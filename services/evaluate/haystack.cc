#include "services/evaluate/haystack.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "services/engine/mapped_file.h"
#include "services/engine/tokenizer.h"

namespace lola::evaluate {
namespace {

constexpr size_t kFileBytesMax = size_t{1} << 30;
constexpr char kBlanks[] = " \t\r\n\f\v";

bool IsSmall(char c) { return c >= 'a' && c <= 'z'; }
bool IsLetter(char c) { return IsSmall(c) || (c >= 'A' && c <= 'Z'); }

bool EndsSentence(std::string_view word, std::string_view next) {
  static const auto& abbreviations = *new std::set<std::string_view>{
      "Mr.",  "Mrs.", "Ms.",  "Dr.", "Prof.", "St.",  "Jr.", "Sr.",   "vs.", "etc.",
      "e.g.", "i.e.", "U.S.", "No.", "cf.",   "Inc.", "Co.", "Corp.", "Fig."};
  if (abbreviations.count(word) > 0) return false;
  while (!word.empty() &&
         (word.back() == '"' || word.back() == '\'' || word.back() == ')' || word.back() == ']')) {
    word.remove_suffix(1);
  }
  if (word.empty()) return false;
  const char last = word.back();
  if (last != '.' && last != '!' && last != '?') return false;
  const bool initial = last == '.' && word.size() == 2 && IsLetter(word[0]) && !IsSmall(word[0]);
  return !initial && (next.empty() || !IsSmall(next[0]));
}

}  // namespace

absl::StatusOr<Haystack> Haystack::Parse(std::string_view text, const std::string& origin) {
  const absl::Status good = engine::CheckUtf8(text, origin);
  if (!good.ok()) return good;
  Haystack haystack;
  haystack.origin_ = origin;
  haystack.text_.reserve(text.size());
  for (size_t at = text.find_first_not_of(kBlanks); at != std::string_view::npos;) {
    const size_t end = std::min(text.find_first_of(kBlanks, at), text.size());
    if (!haystack.text_.empty()) haystack.text_ += ' ';
    haystack.text_ += text.substr(at, end - at);
    haystack.word_ends_.push_back(haystack.text_.size());
    at = text.find_first_not_of(kBlanks, end);
  }
  if (haystack.word_ends_.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(origin, ": holds no word"));
  }
  const std::string_view all = haystack.text_;
  for (uint64_t word = 0; word < haystack.words(); ++word) {
    const uint64_t begin = haystack.WordBegin(word), end = haystack.word_ends_[word];
    const bool last = word + 1 == haystack.words();
    const std::string_view next =
        last ? std::string_view() : all.substr(end + 1, haystack.word_ends_[word + 1] - end - 1);
    if (last || EndsSentence(all.substr(begin, end - begin), next)) {
      haystack.sentence_ends_.push_back(word + 1);
    }
  }
  return haystack;
}

absl::StatusOr<Haystack> Haystack::Load(const std::string& path) {
  const absl::StatusOr<std::string> text = engine::ReadTextFile(path, kFileBytesMax);
  if (!text.ok()) return text.status();
  return Parse(*text, path);
}

uint64_t Haystack::SentencesIn(uint64_t words) const {
  if (words == 0) return 0;
  const auto last = std::lower_bound(sentence_ends_.begin(), sentence_ends_.end(), words);
  return std::min<uint64_t>(sentences(), static_cast<uint64_t>(last - sentence_ends_.begin()) + 1);
}

std::string Haystack::Sentence(uint64_t index, uint64_t words) const {
  LOLA_CHECK_LT(index, SentencesIn(words));
  const uint64_t first = index == 0 ? 0 : sentence_ends_[index - 1];
  const uint64_t end = std::min(words, sentence_ends_[index]);
  return text_.substr(WordBegin(first), word_ends_[end - 1] - WordBegin(first));
}

}  // namespace lola::evaluate
