// Cuts a text into the words that byte pair encoding works on, by the `pre_tokenizer` of a
// tokenizer.json: Split, ByteLevel, Digits, Metaspace and sequences of them. Immutable.
#ifndef LOLA_SERVICES_ENGINE_TOKENIZER_PRE_TOKENIZER_H_
#define LOLA_SERVICES_ENGINE_TOKENIZER_PRE_TOKENIZER_H_

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "services/engine/json_reader.h"
#include "services/engine/tokenizer/split_regex.h"

namespace lola::engine {

// Words of one text. Views are into the text that was cut or into `made`.
struct Words {
  std::vector<std::string_view> words;
  std::deque<std::string> made;
};

class PreTokenizer {
 public:
  // UNIMPLEMENTED naming a type or setting we lack.
  static absl::StatusOr<PreTokenizer> Parse(const Json& root);

  // Whether it ends in ByteLevel: words are bytes, the vocabulary is in their printable spelling.
  bool byte_level() const { return byte_level_; }
  // Whether a text gets something put in front of it.
  bool prepends() const;
  // The sign for a space (Metaspace); empty when spaces stay.
  std::string_view space_sign() const;

  struct Place {
    // The first text of a sequence, or one that follows a token: false when it goes on in the
    // middle of a text, where nothing is put in front.
    bool starts = true;
    // The very first bytes of a sequence (Metaspace's "first").
    bool first = true;
  };
  // REQUIRES: valid UTF-8; `text` outlives `out`. RESOURCE_EXHAUSTED from a pattern.
  absl::Status Cut(std::string_view text, Place place, Words* out) const;

 private:
  struct Step {
    enum Kind : uint8_t { kPattern, kPrefixSpace, kMetaspace } kind = kPattern;
    std::optional<SplitRegex> regex;  // kPattern
    bool invert = false;
    bool removed = false;  // matches (or gaps, inverted) are dropped
    std::string sign;      // kMetaspace
    enum Prepend : uint8_t { kAlways, kFirst, kNever } prepend = kNever;
    bool split = false;
  };
  absl::Status Add(const Json& value, const std::string& field);
  absl::Status AddSplit(JsonReader& reader);
  absl::Status AddByteLevel(JsonReader& reader);
  absl::Status AddMetaspace(JsonReader& reader);
  absl::Status AddPattern(const std::string& field, const char* pattern);

  static absl::Status Match(const Step& step, std::vector<std::string_view>* words);
  static void PrefixSpace(Place place, Words* words);
  static void Metaspace(const Step& step, Place place, Words* words);

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_TOKENIZER_PRE_TOKENIZER_H_
