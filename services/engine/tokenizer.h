// Text <-> token ids. The model directory's tokenizer.json decides the kind; kinds this build does
// not know are refused by name. Immutable after loading: any thread may call.
//
// Control tokens (<s>, <|eot_id|>, ...) steer a model. Their spelling inside a text is text like
// any other unless the caller says that it wrote that part itself (EncodeOptions::control): what
// users send can never become one.
//
// Text enters the service as valid UTF-8 only (CheckUtf8). Text leaves it as valid UTF-8 only
// (TextDecoder): a model may produce any bytes, half a character is held back until it is whole.
#ifndef LOLA_SERVICES_ENGINE_TOKENIZER_H_
#define LOLA_SERVICES_ENGINE_TOKENIZER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lola::engine {

// OK when `text` is valid UTF-8 (no overlong forms, surrogates or values above U+10FFFF);
// INVALID_ARGUMENT naming `field` and the byte offset of the first bad byte otherwise.
absl::Status CheckUtf8(std::string_view text, std::string_view field);

// A part of a text, in bytes.
struct TextRange {
  size_t begin = 0, end = 0;
};

struct EncodeOptions {
  // True: the text begins a sequence, as Hugging Face's libraries take every text. False: it goes
  // on in the middle of one, so that SentencePiece-style vocabularies put no space in front of it.
  bool starts_text = true;
  // Parts in which control tokens are recognised; ascending, disjoint. Never text of users.
  std::vector<TextRange> control;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // One more than the largest id that has a meaning; the model's vocabulary may be larger.
  virtual size_t size() const = 0;
  // Appends nothing of its own: no <bos>, see prefix(). INVALID_ARGUMENT for invalid UTF-8,
  // RESOURCE_EXHAUSTED when a pattern of the file needs too many steps for the text.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                                      const EncodeOptions& options) const = 0;
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text) const {
    return Encode(text, EncodeOptions());
  }
  // The bytes a token stands for; empty for specials and for ids without a meaning.
  virtual std::string_view TokenBytes(int32_t id) const = 0;
  // The id of a special token such as "<bos>"; nothing when the vocabulary has none.
  virtual std::optional<int32_t> SpecialId(std::string_view name) const = 0;
  virtual std::string_view kind() const = 0;
  // Whether `starts_text` makes a difference.
  virtual bool marks_start() const { return false; }
  // Whether the first space of a sequence's text was put there by Encode and is not shown.
  virtual bool drops_leading_space() const { return false; }

  // Ids that the model expects in front of a sequence (<bos>), by the post-processor or by
  // add_bos_token of tokenizer_config.json. A stream has no end, so nothing is put behind it.
  const std::vector<int32_t>& prefix() const { return prefix_; }
  void set_prefix(std::vector<int32_t> prefix) { prefix_ = std::move(prefix); }

 private:
  std::vector<int32_t> prefix_;
};

// Parses the text of a tokenizer.json, and of a tokenizer_config.json when there is one. Known
// kinds: "byte-level" (a BPE model over the 256 bytes without merges), "byte-level-bpe" and
// "sentencepiece-bpe" (tokenizer/bpe_tokenizer.h). UNIMPLEMENTED naming the field and its value for
// any other, INVALID_ARGUMENT for broken files.
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizer(std::string_view json,
                                                          std::string_view config = {});
// Reads `<model_dir>/tokenizer.json` and, when it is there, `tokenizer_config.json`.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir);
// The tokenizer of random-weight models: byte b is id b, then <bos>, <eos>, <pad>.
std::unique_ptr<Tokenizer> MakeByteTokenizer();

// Streaming bytes -> UTF-8. Not thread-safe: one per output stream.
// Bytes that can no longer become a character are replaced by U+FFFD, one per maximal bad part
// (the policy of the Unicode standard and of browsers).
class TextDecoder {
 public:
  // Adds one token's bytes and returns all text that is final now, possibly none.
  std::string Push(std::string_view bytes);
  // Text of an unfinished character at the end (U+FFFD or nothing); the decoder is empty
  // afterwards.
  std::string Finish();
  // Bytes held back, at most 3.
  size_t pending() const { return size_; }
  // Leaves out a space at the very beginning (Tokenizer::drops_leading_space). Call before Push,
  // for the beginning of a sequence only.
  void DropLeadingSpace() { drop_space_ = true; }

 private:
  char held_[4];
  size_t size_ = 0;
  bool drop_space_ = false;
};

// The text of a whole sequence.
std::string DecodeAll(const Tokenizer& tokenizer, const std::vector<int32_t>& ids);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_TOKENIZER_H_
