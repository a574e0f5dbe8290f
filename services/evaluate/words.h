// Words for needle keys: every adjective with every noun, joined by a hyphen, as RULER builds its
// keys. The built-in list is this project's own; RULER draws from the wonderwords package, whose
// lists (or any other) can be given as a file. Immutable after making; any thread.
#ifndef LOLA_SERVICES_EVALUATE_WORDS_H_
#define LOLA_SERVICES_EVALUATE_WORDS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lola::evaluate {

class Words {
 public:
  static Words BuiltIn();
  // {"adjectives": [...], "nouns": [...]}. INVALID_ARGUMENT naming the field: empty lists, words
  // that are empty or hold blanks.
  static absl::StatusOr<Words> Parse(std::string_view json);
  static absl::StatusOr<Words> Load(const std::string& path);

  uint64_t count() const { return adjectives_.size() * nouns_.size(); }
  std::string Key(uint64_t index) const;  // REQUIRES: index < count()
  // For reports: "built-in (80 x 80)" or "<path> (n x m)".
  const std::string& description() const { return description_; }

 private:
  Words(std::vector<std::string> adjectives, std::vector<std::string> nouns,
        const std::string& origin);
  std::vector<std::string> adjectives_, nouns_;
  std::string description_;
};

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_WORDS_H_
