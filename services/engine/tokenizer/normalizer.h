// What a tokenizer.json does to a text before it is cut: putting a string in front of it, replacing
// one string by another, and Unicode normalization forms. Immutable: any thread may call.
#ifndef LOLA_SERVICES_ENGINE_TOKENIZER_NORMALIZER_H_
#define LOLA_SERVICES_ENGINE_TOKENIZER_NORMALIZER_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "services/engine/json_reader.h"
#include "services/engine/tokenizer/unicode_form.h"

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
  std::string Apply(std::string_view text, bool starts) const {
    return Made(text, starts, nullptr);
  }
  // Also the byte of `text` that every byte of the result comes from, ascending: what is put in
  // front comes from byte 0, a character that was put together from the first of its parts. Nothing
  // is put together across `cuts` (ascending; beginnings of characters of `text`, or its end).
  std::string Apply(std::string_view text, bool starts, const std::vector<size_t>& cuts,
                    std::vector<size_t>* origins) const;

 private:
  struct Step {
    std::optional<UnicodeForm> form;  // else replace `from` by `to`
    std::string from;                 // empty: put `to` in front
    std::string to;
  };
  // A text on its way, and where its bytes come from.
  struct Traced {
    const std::vector<size_t>* cuts = nullptr;
    std::vector<size_t> origins;
  };
  absl::Status Add(const Json& value, const std::string& field);
  std::string Made(std::string_view text, bool starts, Traced* traced) const;
  static std::string Replaced(const Step& step, std::string_view text, bool starts, Traced* traced);
  static std::string Formed(UnicodeForm form, std::string_view text, Traced* traced);

  std::vector<Step> steps_;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_TOKENIZER_NORMALIZER_H_
