// A text file as a haystack: its words with runs of blanks made one, and its sentences. Immutable
// after making; any thread.
#ifndef LOLA_SERVICES_EVALUATE_HAYSTACK_H_
#define LOLA_SERVICES_EVALUATE_HAYSTACK_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lola::evaluate {

class Haystack {
 public:
  // INVALID_ARGUMENT for text that is not UTF-8 or has no word. A sentence ends at a word that ends
  // with . ! or ? (closing quotes and brackets may follow), unless it is a usual abbreviation, a
  // single initial, or the next word begins with a small letter.
  static absl::StatusOr<Haystack> Parse(std::string_view text, const std::string& origin);
  static absl::StatusOr<Haystack> Load(const std::string& path);

  uint64_t words() const { return word_ends_.size(); }
  uint64_t sentences() const { return sentence_ends_.size(); }
  // Sentences that begin in the first `words` words; the last one may be cut.
  uint64_t SentencesIn(uint64_t words) const;
  // Sentence `index` of the first `words` words. REQUIRES: index < SentencesIn(words).
  std::string Sentence(uint64_t index, uint64_t words) const;
  std::string Sentence(uint64_t index) const { return Sentence(index, words()); }
  uint64_t bytes() const { return text_.size(); }
  const std::string& origin() const { return origin_; }

 private:
  Haystack() = default;
  uint64_t WordBegin(uint64_t word) const { return word == 0 ? 0 : word_ends_[word - 1] + 1; }

  std::string origin_;
  std::string text_;                     // words joined by single blanks
  std::vector<uint64_t> word_ends_;      // byte after each word
  std::vector<uint64_t> sentence_ends_;  // word after each sentence
};

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_HAYSTACK_H_
