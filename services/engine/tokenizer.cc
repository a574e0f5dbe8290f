#include "services/engine/tokenizer.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "memory/text.h"
#include "services/engine/byte_tokenizer.h"
#include "services/engine/json_reader.h"
#include "services/engine/mapped_file.h"
#include "services/engine/tokenizer/bpe_tokenizer.h"
#include "services/engine/tokenizer/sequence_prefix.h"
#include "services/engine/utf8.h"

namespace lola::engine {
namespace {

constexpr size_t kTokenizerBytesMax = 256 << 20;
constexpr size_t kConfigBytesMax = 16 << 20;

// A BPE with merges is a vocabulary of its own; without any it can only be the bytes.
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseKind(const Json& root) {
  const auto model = root.find("model");
  const bool named = model != root.end() && model->is_object() && model->contains("type");
  if (named && (*model)["type"] != "BPE") {
    return absl::UnimplementedError(
        absl::StrCat("model.type: ", ShowJson((*model)["type"]),
                     " (known: BPE, byte-level or with byte fallback)"));
  }
  const bool merges = model != root.end() && model->is_object() &&
                      model->value("type", Json()) == "BPE" && model->contains("merges") &&
                      (*model)["merges"].is_array() && !(*model)["merges"].empty();
  if (merges) {
    absl::StatusOr<std::unique_ptr<BpeTokenizer>> tokenizer = BpeTokenizer::Parse(root);
    if (!tokenizer.ok()) return tokenizer.status();
    return std::unique_ptr<Tokenizer>(*std::move(tokenizer));
  }
  absl::StatusOr<std::unique_ptr<ByteTokenizer>> tokenizer = ByteTokenizer::Parse(root);
  if (!tokenizer.ok()) return tokenizer.status();
  return std::unique_ptr<Tokenizer>(*std::move(tokenizer));
}

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
  const absl::StatusOr<std::string> config =
      ReadTextFile(absl::StrCat(model_dir, "/tokenizer_config.json"), kConfigBytesMax);
  if (!config.ok() && !absl::IsNotFound(config.status())) return config.status();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      ParseTokenizer(*text, config.ok() ? *config : std::string_view());
  if (!tokenizer.ok()) {
    return absl::Status(tokenizer.status().code(),
                        absl::StrCat(path, ": ", tokenizer.status().message()));
  }
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizer(std::string_view json,
                                                          std::string_view config) {
  const absl::StatusOr<Json> root = ParseJsonObject(json);
  if (!root.ok()) return root.status();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = ParseKind(*root);
  if (!tokenizer.ok() || config.empty()) return tokenizer;
  const absl::StatusOr<Json> settings = ParseJsonObject(config);
  if (!settings.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer_config.json: ", settings.status().message()));
  }
  auto prefix = ReadConfiguredPrefix(*settings, **tokenizer);
  if (!prefix.ok()) {
    return absl::Status(prefix.status().code(),
                        absl::StrCat("tokenizer_config.json: ", prefix.status().message()));
  }
  if (*prefix) (*tokenizer)->set_prefix(**std::move(prefix));
  return tokenizer;
}

std::unique_ptr<Tokenizer> MakeByteTokenizer() { return ByteTokenizer::Standard(); }

std::string TextDecoder::Push(std::string_view bytes) {
  if (drop_space_ && !bytes.empty()) {
    if (bytes.front() == ' ') bytes.remove_prefix(1);
    drop_space_ = false;
  }
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

std::string DecodeAll(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  TextDecoder decoder;
  if (tokenizer.drops_leading_space()) decoder.DropLeadingSpace();
  std::string text;
  for (const int32_t id : ids) text += decoder.Push(tokenizer.TokenBytes(id));
  return text + decoder.Finish();
}

}  // namespace lola::engine
