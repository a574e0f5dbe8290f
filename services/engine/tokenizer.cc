#include "services/engine/tokenizer.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "memory/text.h"
#include "services/engine/byte_tokenizer.h"
#include "services/engine/mapped_file.h"
#include "services/engine/utf8.h"

namespace lola::engine {
namespace {

constexpr size_t kTokenizerBytesMax = 256 << 20;

}  // namespace

absl::Status CheckUtf8(std::string_view text, std::string_view field) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text.substr(at));
    if (step.kind != Utf8Step::kCharacter) {
      return absl::InvalidArgumentError(absl::StrCat(
          ToAbsl(field), ": not valid UTF-8 at byte ", at, " (value 0x",
          absl::Hex(static_cast<uint8_t>(text[at]), absl::kZeroPad2), ") of ", text.size()));
    }
    at += step.size;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir) {
  const std::string path = absl::StrCat(model_dir, "/tokenizer.json");
  const absl::StatusOr<std::string> text = ReadTextFile(path, kTokenizerBytesMax);
  if (!text.ok()) return text.status();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = ParseTokenizer(*text);
  if (!tokenizer.ok()) {
    return absl::Status(tokenizer.status().code(),
                        absl::StrCat(path, ": ", tokenizer.status().message()));
  }
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizer(std::string_view json) {
  absl::StatusOr<std::unique_ptr<ByteTokenizer>> tokenizer = ByteTokenizer::Parse(json);
  if (!tokenizer.ok()) return tokenizer.status();
  return std::unique_ptr<Tokenizer>(*std::move(tokenizer));
}

std::unique_ptr<Tokenizer> MakeByteTokenizer() { return ByteTokenizer::Standard(); }

std::string TextDecoder::Push(std::string_view bytes) {
  std::string text(held_, size_);
  text.append(bytes);
  size_ = 0;
  std::string out;
  for (std::string_view rest = text; !rest.empty();) {
    const Utf8Step step = NextUtf8(rest);
    if (step.kind == Utf8Step::kUnfinished) {
      size_ = rest.size();
      std::memcpy(held_, rest.data(), size_);
      break;
    }
    out.append(step.kind == Utf8Step::kCharacter ? rest.substr(0, step.size)
                                                 : kReplacementCharacter);
    rest.remove_prefix(step.size);
  }
  return out;
}

std::string TextDecoder::Finish() {
  const bool unfinished = size_ > 0;
  size_ = 0;
  return unfinished ? std::string(kReplacementCharacter) : std::string();
}

}  // namespace lola::engine
