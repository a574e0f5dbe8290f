// Reading the `model` object of a tokenizer.json.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "memory/text.h"
#include "services/engine/byte_tokenizer.h"
#include "services/engine/tokenizer/bpe_model.h"
#include "services/engine/tokenizer/characters.h"

namespace lola::engine {
namespace {

// Spelled bytes -> bytes; nothing when a character spells none.
std::optional<std::string> UnspellBytes(std::string_view spelling) {
  static const auto* const bytes = [] {
    auto* table = new absl::flat_hash_map<std::string, char>;
    for (int byte = 0; byte < 256; ++byte) {
      (*table)[PrintableByte(static_cast<uint8_t>(byte))] = static_cast<char>(byte);
    }
    return table;
  }();
  std::string text;
  for (size_t at = 0; at < spelling.size();) {
    const size_t size = CodePointAt(spelling, at).size;
    const auto found = bytes->find(ToAbsl(spelling.substr(at, size)));
    if (found == bytes->end()) return std::nullopt;
    text += found->second;
    at += size;
  }
  return text;
}

// Settings this build does not carry out.
absl::Status CheckSettings(JsonReader& reader) {
  reader.Number("dropout", 0, 0, 0);
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const std::string value = reader.Text(name, "");
    if (!value.empty()) reader.Unsupported(name, value, "none");
  }
  return reader.status();
}

}  // namespace

absl::StatusOr<BpeModel> BpeModel::Parse(const Json& model, bool byte_level,
                                         const std::set<int32_t>& control) {
  JsonReader reader(model, "model.");
  if (absl::Status status = CheckSettings(reader); !status.ok()) return status;
  BpeModel bpe;
  bpe.byte_level_ = byte_level;
  bpe.byte_fallback_ = reader.Bool("byte_fallback", false);
  bpe.fuse_unknown_ = reader.Bool("fuse_unk", false);
  bpe.ignore_merges_ = reader.Bool("ignore_merges", false);
  const std::string unknown = reader.Text("unk_token", "");
  const Json* vocab = reader.Object("vocab");
  const Json* merges = reader.Find("merges");
  if (vocab == nullptr) reader.Fail(absl::InvalidArgumentError("model.vocab: missing"));
  if (merges == nullptr || !merges->is_array()) {
    reader.Fail(absl::InvalidArgumentError("model.merges: missing or not an array"));
  }
  if (!reader.status().ok()) return reader.status();
  if (byte_level && bpe.byte_fallback_) {
    return absl::UnimplementedError(
        "model.byte_fallback: true beside a ByteLevel pre_tokenizer (known: one of the two)");
  }
  if (absl::Status status = bpe.ReadVocabulary(*vocab, byte_level); !status.ok()) return status;
  if (!unknown.empty()) {
    bpe.unknown_ = bpe.Find(unknown);
    if (!bpe.unknown_) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.unk_token: \"", unknown, "\" is not in model.vocab"));
    }
  }
  bpe.IndexWords(control);
  if (absl::Status status = bpe.FindFirstSymbols(); !status.ok()) return status;
  if (absl::Status status = bpe.ReadMerges(*merges, control); !status.ok()) return status;
  return bpe;
}

absl::Status BpeModel::ReadVocabulary(const Json& vocab, bool byte_level) {
  ids_.reserve(vocab.size());
  for (const auto& [spelling, value] : vocab.items()) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > kTokenIdMax) {
      return absl::InvalidArgumentError(absl::StrCat(
          "model.vocab.", spelling, ": ", ShowJson(value), " (an id from 0 to ", kTokenIdMax, ")"));
    }
    const auto id = value.get<size_t>();
    if (id >= spellings_.size()) spellings_.resize(id + 1);
    if (!spellings_[id].empty()) {
      return absl::InvalidArgumentError(absl::StrCat("model.vocab: id ", id, " stands twice: \"",
                                                     spellings_[id], "\" and \"", spelling, "\""));
    }
    spellings_[id] = spelling;
    ids_[spelling] = static_cast<int32_t>(id);
  }
  pieces_.resize(spellings_.size());
  for (size_t id = 0; id < spellings_.size(); ++id) {
    // An entry that is no spelling of bytes cannot come out of a word.
    pieces_[id] = byte_level ? UnspellBytes(spellings_[id]).value_or("") : spellings_[id];
  }
  return absl::OkStatus();
}

void BpeModel::IndexWords(const std::set<int32_t>& control) {
  words_.reserve(pieces_.size());
  for (size_t id = 0; id < pieces_.size(); ++id) {
    if (pieces_[id].empty() || control.contains(static_cast<int32_t>(id))) continue;
    words_.emplace(pieces_[id], static_cast<int32_t>(id));
  }
}

// What a word starts from must exist for every text.
absl::Status BpeModel::FindFirstSymbols() {
  bytes_.fill(-1);
  for (int byte = 0; byte < 256; ++byte) {
    const std::string spelling =
        byte_level_ ? PrintableByte(static_cast<uint8_t>(byte)) : absl::StrFormat("<0x%02X>", byte);
    if (byte_level_ || byte_fallback_) bytes_[byte] = Find(spelling).value_or(-1);
    const bool never_in_text = byte == 0xC0 || byte == 0xC1 || byte > 0xF4;
    const bool other_way = !byte_level_ && unknown_.has_value();
    if (bytes_[byte] >= 0 || never_in_text || other_way) continue;
    return absl::InvalidArgumentError(absl::StrCat("model.vocab: no entry for byte ", byte, " (\"",
                                                   spelling, "\"): some texts have no tokens"));
  }
  return absl::OkStatus();
}

absl::Status BpeModel::ReadMerges(const Json& merges, const std::set<int32_t>& control) {
  merges_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const Json& entry = merges[rank];
    std::string left, right;
    if (entry.is_string()) {
      const auto& text = entry.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
        left = text.substr(0, space);
        right = text.substr(space + 1);
      }
    } else if (entry.is_array() && entry.size() == 2 && entry[0].is_string() &&
               entry[1].is_string()) {
      left = entry[0].get_ref<const std::string&>();
      right = entry[1].get_ref<const std::string&>();
    }
    if (left.empty() || right.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.merges[", rank, "]: ", ShowJson(entry), ", must be two tokens"));
    }
    absl::Status status = ReadMerge(rank, left, right, control);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status BpeModel::ReadMerge(size_t rank, const std::string& left, const std::string& right,
                                 const std::set<int32_t>& control) {
  const std::optional<int32_t> a = Find(left), b = Find(right), both = Find(left + right);
  if (!a || !b || !both) {
    const std::string& lost = !a ? left : !b ? right : left + right;
    return absl::InvalidArgumentError(absl::StrCat("model.merges[", rank, "]: \"", left, "\" + \"",
                                                   right, "\": no \"", lost, "\" in model.vocab"));
  }
  if (control.contains(*both)) return absl::OkStatus();
  // Of equal pairs the last one counts, as in Hugging Face tokenizers.
  merges_[uint64_t(uint32_t(*a)) << 32 | uint32_t(*b)] = {static_cast<uint32_t>(rank), *both};
  return absl::OkStatus();
}

}  // namespace lola::engine
