// What a tokenizer.json does to a text before it is cut: putting a string in front of it and
// replacing one string by another, the two steps of SentencePiece-style files. Immutable.
#ifndef LOLA_SERVICES_ENGINE_TOKENIZER_NORMALIZER_H_
#define LOLA_SERVICES_ENGINE_TOKENIZER_NORMALIZER_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "services/engine/json_reader.h"

namespace lola::engine {

class Normalizer {
 public:
  // The `normalizer` value of a tokenizer.json; null = nothing to do. UNIMPLEMENTED naming a type
  // we lack.
  static absl::StatusOr<Normalizer> Parse(const Json& root);

  bool empty() const { return steps_.empty(); }
  // Whether a text gets something put in front of it.
  bool prepends() const;
  // `starts` = false leaves out what is put in front: the text goes on where another one ended.
  // With `origins`, also the byte of `text` that every byte of the result comes from (what is put
  // in front comes from byte 0).
  std::string Apply(std::string_view text, bool starts, std::vector<size_t>* origins) const;

 private:
  struct Step {
    std::string from;  // empty: put `to` in front
    std::string to;
  };
  absl::Status Add(const Json& value, const std::string& field);

  std::vector<Step> steps_;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_TOKENIZER_NORMALIZER_H_
