// Added tokens of a tokenizer.json: strings found in the text before anything else looks at it.
//
// Control tokens are those marked special, and those spelled <|...|> whatever their mark says: they
// steer the model. Where they may be found in a text is the caller's decision (TextRange), so that
// text of users stays text.
#ifndef LOLA_SERVICES_ENGINE_TOKENIZER_ADDED_TOKENS_H_
#define LOLA_SERVICES_ENGINE_TOKENIZER_ADDED_TOKENS_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "services/engine/json_reader.h"
#include "services/engine/tokenizer.h"

namespace lola::engine {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool control = false;      // steers the model; never found in text of users, shown as nothing
  bool normalized = false;   // found in the normalized text, else in the text as it came
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
  bool single_word = false;  // only between characters that are no part of a word
};

// The `added_tokens` array. INVALID_ARGUMENT naming entry, field and value.
absl::StatusOr<std::vector<AddedToken>> ParseAddedTokens(const Json& root);

// Leftmost-longest search for a fixed set of strings. Immutable: any thread may call.
class StringFinder {
 public:
  // Pattern i answers index `values[i]`. Of equal strings the last one counts; empty ones never
  // match.
  void Add(std::string_view pattern, size_t value);
  bool empty() const { return nodes_.empty(); }

  struct Match {
    size_t begin, end, value;
  };
  std::optional<Match> Find(std::string_view text, size_t from) const;

 private:
  static constexpr int64_t kNothing = -1;

  std::array<uint32_t, 256> first_{};              // node behind a first byte; 0 = none
  absl::flat_hash_map<uint64_t, uint32_t> nodes_;  // (node << 8 | byte) -> node
  std::vector<int64_t> ends_ = {kNothing};         // node -> value of the pattern that ends there
};

// One stretch of a text: an added token, or text between them.
struct TextPart {
  size_t begin = 0, end = 0;
  const AddedToken* token = nullptr;
};

// The added tokens, ready to be found.
class AddedTokens {
 public:
  // `spell(content)`: what the normalizer makes of the content of a normalized token.
  template <typename Spell>
  AddedTokens(std::vector<AddedToken> tokens, const Spell& spell) : tokens_(std::move(tokens)) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (tokens_[i].normalized) {
        normalized_.Add(spell(tokens_[i].content), i);
        normalized_control_ |= tokens_[i].control;
      } else {
        plain_.Add(tokens_[i].content, i);
      }
    }
  }

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  bool any_normalized() const { return !normalized_.empty(); }
  // Whether Split(..., normalized = true) looks at the ranges at all.
  bool normalized_control() const { return normalized_control_; }

  // Cuts `text` at its added tokens. Control tokens count only when they lie within one of
  // `control` (ascending, disjoint). Parts are not empty and in order; one may
  // begin within the white space that the token before it took.
  std::vector<TextPart> Split(std::string_view text, bool normalized,
                              const std::vector<TextRange>& control) const;

 private:
  std::vector<AddedToken> tokens_;
  StringFinder plain_, normalized_;
  bool normalized_control_ = false;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_TOKENIZER_ADDED_TOKENS_H_
