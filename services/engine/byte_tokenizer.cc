#include "services/engine/byte_tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "memory/text.h"

namespace lola::engine {
namespace {

using Json = nlohmann::json;

constexpr int64_t kIdMax = 1 << 20;

// Bytes that stand for themselves in the printable spelling; the others follow from U+0100 on.
bool IsPlain(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

absl::Status Refuse(std::string_view field, const Json& value) {
  return absl::UnimplementedError(
      absl::StrCat(ToAbsl(field), ": ", value.dump(-1, ' ', true, Json::error_handler_t::replace),
                   " (known: a byte-level BPE vocabulary without merges)"));
}

absl::StatusOr<int32_t> ReadId(std::string_view field, const Json& value) {
  if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() > kIdMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(ToAbsl(field), ": ", value.dump(-1, ' ', true, Json::error_handler_t::replace),
                     " (an id from 0 to ", kIdMax, ")"));
  }
  return value.get<int32_t>();
}

// The pre-tokenizer and the decoder must be the byte-level ones (or absent), without a leading
// space.
absl::Status CheckByteLevel(const Json& root, const char* field) {
  const auto part = root.find(field);
  if (part == root.end() || part->is_null()) return absl::OkStatus();
  const std::string type = part->is_object() ? part->value("type", Json()).dump() : part->dump();
  if (type != "\"ByteLevel\"") return Refuse(absl::StrCat(field, ".type"), type);
  const auto prefix = part->find("add_prefix_space");
  const bool adds = prefix != part->end() && prefix->is_boolean() && prefix->get<bool>();
  // A decoder states the flag without using it.
  if (adds && std::string_view(field) == "pre_tokenizer") {
    return Refuse("pre_tokenizer.add_prefix_space", *prefix);
  }
  return absl::OkStatus();
}

absl::Status CheckKind(const Json& root) {
  const auto model = root.find("model");
  if (model == root.end() || !model->is_object()) {
    return absl::InvalidArgumentError("model: missing or not an object");
  }
  const auto type = model->find("type");
  if (type == model->end() || *type != "BPE") {
    return Refuse("model.type", type == model->end() ? Json() : *type);
  }
  const auto merges = model->find("merges");
  if (merges != model->end() && !merges->empty()) {
    return Refuse("model.merges", absl::StrCat(merges->size(), " entries"));
  }
  const auto normalizer = root.find("normalizer");
  if (normalizer != root.end() && !normalizer->is_null()) return Refuse("normalizer", *normalizer);
  const absl::Status split = CheckByteLevel(root, "pre_tokenizer");
  if (!split.ok()) return split;
  return CheckByteLevel(root, "decoder");
}

}  // namespace

std::string PrintableByte(uint8_t byte) {
  int code = byte;
  if (!IsPlain(byte)) {
    code = 0x100;
    for (int other = 0; other < byte; ++other) code += IsPlain(other) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

absl::StatusOr<std::unique_ptr<ByteTokenizer>> ByteTokenizer::Parse(const Json& root) {
  const absl::Status kind = CheckKind(root);
  if (!kind.ok()) return kind;
  const auto vocab = root["model"].find("vocab");
  if (vocab == root["model"].end() || !vocab->is_object()) {
    return absl::InvalidArgumentError("model.vocab: missing or not an object");
  }
  auto tokenizer = std::make_unique<ByteTokenizer>();
  const auto place = [&](int32_t id) -> std::string& {
    tokenizer->bytes_.resize(std::max<size_t>(tokenizer->bytes_.size(), id + 1));
    return tokenizer->bytes_[id];
  };
  size_t known = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string spelling = PrintableByte(static_cast<uint8_t>(byte));
    const auto entry = vocab->find(spelling);
    if (entry == vocab->end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.vocab: no entry for byte ", byte, " (\"", spelling, "\")"));
    }
    const absl::StatusOr<int32_t> id = ReadId(absl::StrCat("model.vocab.", spelling), *entry);
    if (!id.ok()) return id.status();
    std::string& bytes = place(*id);
    if (!bytes.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("model.vocab: id ", *id, " stands twice"));
    }
    bytes = static_cast<char>(byte);
    tokenizer->ids_[byte] = *id;
    ++known;
  }
  const Json added = root.value("added_tokens", Json::array());
  for (const Json& token : added) {
    if (!token.is_object() || !token.contains("content") || !token["content"].is_string()) {
      return absl::InvalidArgumentError("added_tokens: an entry without content");
    }
    const std::string name = token["content"].get<std::string>();
    const absl::StatusOr<int32_t> id =
        ReadId(absl::StrCat("added_tokens.", name, ".id"), token.value("id", Json()));
    if (!id.ok()) return id.status();
    if (!place(*id).empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("added_tokens.", name, ".id: ", *id, " is the id of a byte"));
    }
    tokenizer->specials_[name] = *id;
    known += vocab->contains(name) ? 1 : 0;
  }
  if (known != vocab->size()) {
    return absl::UnimplementedError(
        absl::StrCat("model.vocab: ", vocab->size(), " entries, only ", known,
                     " are single bytes or added tokens (known: a byte-level vocabulary)"));
  }
  return tokenizer;
}

std::unique_ptr<ByteTokenizer> ByteTokenizer::Standard() {
  auto tokenizer = std::make_unique<ByteTokenizer>();
  for (int byte = 0; byte < 256; ++byte) {
    tokenizer->ids_[byte] = byte;
    tokenizer->bytes_.push_back(std::string(1, static_cast<char>(byte)));
  }
  for (const char* name : {"<bos>", "<eos>", "<pad>"}) {
    tokenizer->specials_[name] = static_cast<int32_t>(tokenizer->bytes_.size());
    tokenizer->bytes_.emplace_back();
  }
  return tokenizer;
}

absl::StatusOr<std::vector<int32_t>> ByteTokenizer::Encode(std::string_view text,
                                                           const EncodeOptions& options) const {
  const absl::Status valid = CheckUtf8(text, "text");
  if (!valid.ok()) return valid;
  std::vector<int32_t> ids;
  ids.reserve(text.size());
  for (const char c : text) ids.push_back(ids_[static_cast<uint8_t>(c)]);
  return ids;
}

std::string_view ByteTokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= bytes_.size()) return {};
  return bytes_[id];
}

std::optional<int32_t> ByteTokenizer::SpecialId(std::string_view name) const {
  const auto found = specials_.find(name);
  if (found == specials_.end()) return std::nullopt;
  return found->second;
}

}  // namespace lola::engine
