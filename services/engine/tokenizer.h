// Text <-> token ids. The model directory's tokenizer.json decides the kind; kinds this build does
// not know are refused by name. Immutable after loading: any thread may call.
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
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lola::engine {

// OK when `text` is valid UTF-8 (no overlong forms, surrogates or values above U+10FFFF);
// INVALID_ARGUMENT naming `field` and the byte offset of the first bad byte otherwise.
absl::Status CheckUtf8(std::string_view text, std::string_view field);

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // One more than the largest id that has a meaning; the model's vocabulary may be larger.
  virtual size_t size() const = 0;
  // Appends nothing of its own: no <bos>. INVALID_ARGUMENT for invalid UTF-8.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text) const = 0;
  // The bytes a token stands for; empty for specials and for ids without a meaning.
  virtual std::string_view TokenBytes(int32_t id) const = 0;
  // The id of a special token such as "<bos>"; nothing when the vocabulary has none.
  virtual std::optional<int32_t> SpecialId(std::string_view name) const = 0;
  virtual std::string_view kind() const = 0;
};

// Parses the text of a tokenizer.json. Known kind: "byte-level" (a BPE model over the 256 bytes
// without merges). UNIMPLEMENTED naming the field and its value for any other.
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizer(std::string_view json);
// Reads `<model_dir>/tokenizer.json`.
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

 private:
  char held_[4];
  size_t size_ = 0;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_TOKENIZER_H_
