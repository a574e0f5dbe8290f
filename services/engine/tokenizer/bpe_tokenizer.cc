#include "services/engine/tokenizer/bpe_tokenizer.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/engine/tokenizer/sequence_prefix.h"

namespace lola::engine {
namespace {

std::string Replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  size_t done = 0;
  for (size_t at; !from.empty() && (at = text.find(from, done)) != std::string_view::npos;) {
    out += text.substr(done, at - done);
    out += to;
    done = at + from.size();
  }
  out += text.substr(done);
  return out;
}

// The parts of `ranges` inside `text`, which begins at `begin`; whole characters only.
std::vector<TextRange> Inside(const std::vector<TextRange>& ranges, size_t begin,
                              std::string_view text) {
  const auto starts_character = [text](size_t at) {
    return at == text.size() || (static_cast<uint8_t>(text[at]) & 0xC0) != 0x80;
  };
  std::vector<TextRange> inside;
  for (const TextRange& range : ranges) {
    TextRange one{std::min(range.begin - std::min(range.begin, begin), text.size()),
                  std::min(range.end - std::min(range.end, begin), text.size())};
    while (!starts_character(one.begin)) ++one.begin;
    while (!starts_character(one.end)) --one.end;
    if (one.begin < one.end) inside.push_back(one);
  }
  return inside;
}

std::vector<size_t> Edges(const std::vector<TextRange>& ranges) {
  std::vector<size_t> edges;
  for (const TextRange& range : ranges) edges.insert(edges.end(), {range.begin, range.end});
  return edges;
}

// `ranges` of a text in bytes of its normalized form, whose bytes come from `origins`.
std::vector<TextRange> Mapped(const std::vector<TextRange>& ranges,
                              const std::vector<size_t>& origins) {
  std::vector<TextRange> mapped;
  for (const TextRange& range : ranges) {
    const auto place = [&](size_t at) {
      return static_cast<size_t>(std::lower_bound(origins.begin(), origins.end(), at) -
                                 origins.begin());
    };
    const TextRange one{place(range.begin), place(range.end)};
    if (one.begin < one.end) mapped.push_back(one);
  }
  return mapped;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BpeTokenizer>> BpeTokenizer::Parse(const Json& root) {
  absl::StatusOr<Normalizer> normalizer = Normalizer::Parse(root);
  if (!normalizer.ok()) return normalizer.status();
  absl::StatusOr<PreTokenizer> cutter = PreTokenizer::Parse(root);
  if (!cutter.ok()) return cutter.status();
  absl::StatusOr<std::vector<AddedToken>> tokens = ParseAddedTokens(root);
  if (!tokens.ok()) return tokens.status();
  std::set<int32_t> control;
  for (const AddedToken& token : *tokens) {
    if (token.control) control.insert(token.id);
  }
  absl::StatusOr<BpeModel> bpe = BpeModel::Parse(root["model"], cutter->byte_level(), control);
  if (!bpe.ok()) return bpe.status();
  AddedTokens added(*std::move(tokens), [&](const std::string& content) {
    return normalizer->Apply(content, /*starts=*/true);
  });
  auto tokenizer = std::unique_ptr<BpeTokenizer>(new BpeTokenizer(
      *std::move(normalizer), *std::move(cutter), *std::move(bpe), std::move(added)));
  if (absl::Status status = tokenizer->ReadDecoder(root); !status.ok()) return status;
  if (absl::Status status = tokenizer->FillBytes(); !status.ok()) return status;
  absl::StatusOr<std::vector<int32_t>> prefix = ReadSequencePrefix(root);
  if (!prefix.ok()) return prefix.status();
  tokenizer->set_prefix(*std::move(prefix));
  tokenizer->marks_start_ = tokenizer->normalizer_.prepends() || tokenizer->cutter_.prepends();
  tokenizer->cuts_at_sign_ =
      !tokenizer->space_sign_.empty() && tokenizer->bpe_.CutsBefore(tokenizer->space_sign_);
  return tokenizer;
}

absl::Status BpeTokenizer::ReadDecoder(const Json& root) {
  const auto value = root.find("decoder");
  const Json none;
  const Json& decoder = value == root.end() ? none : *value;
  const std::string type = decoder.is_object() ? decoder.value("type", Json()).dump() : "null";
  if (cutter_.byte_level()) {
    if (decoder.is_null() || type == "\"ByteLevel\"") return absl::OkStatus();
    return absl::UnimplementedError(
        absl::StrCat("decoder: ", ShowJson(decoder), " (known beside ByteLevel: ByteLevel)"));
  }
  const std::string known = "known: Sequence of Replace, ByteFallback, Fuse, Strip";
  if (type != "\"Sequence\"" || !decoder.contains("decoders") || !decoder["decoders"].is_array()) {
    return absl::UnimplementedError(absl::StrCat("decoder: ", ShowJson(decoder), " (", known, ")"));
  }
  for (size_t i = 0; i < decoder["decoders"].size(); ++i) {
    JsonReader step(decoder["decoders"][i], absl::StrCat("decoder.decoders[", i, "]."));
    const std::string kind = step.Text("type");
    if (kind == "Replace") {
      const Json* pattern = step.Object("pattern");
      const Json sign = pattern == nullptr ? Json() : pattern->value("String", Json());
      if (!sign.is_string() || sign.get<std::string>().empty() || step.Text("content") != " ") {
        step.Unsupported("pattern", pattern == nullptr ? Json() : *pattern, "a sign for one space");
      } else {
        space_sign_ = sign.get<std::string>();
      }
    } else if (kind == "Strip") {
      const uint64_t start = step.Unsigned("start", 0, 1, 0);
      drops_leading_space_ = start == 1;
      if (step.Text("content") != " " || step.Unsigned("stop", 0, 0, 0) != 0) {
        step.Unsupported("content", step.Text("content", ""), "one space");
      }
    } else if (kind != "ByteFallback" && kind != "Fuse") {
      step.Unsupported("type", kind, known);
    }
    if (!step.status().ok()) return step.status();
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::FillBytes() {
  bytes_.resize(bpe_.size());
  for (size_t i = 0; i < bytes_.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const auto byte = bpe_.FallbackByte(id);
    bytes_[i] = byte ? std::string(1, static_cast<char>(*byte))
                     : Replaced(bpe_.piece(id), space_sign_, " ");
  }
  for (const AddedToken& token : added_.tokens()) {
    const std::optional<int32_t> known = bpe_.Find(token.content);
    const auto id = static_cast<size_t>(token.id);
    const bool taken = id < bpe_.size() && !bpe_.spelling(token.id).empty() &&
                       bpe_.spelling(token.id) != token.content;
    if ((known && *known != token.id) || taken) {
      return absl::InvalidArgumentError(absl::StrCat(
          "added_tokens: \"", token.content, "\" has the id ", token.id, ", in model.vocab ",
          known ? absl::StrCat("it is ", *known) : "that is \"" + bpe_.spelling(token.id) + "\""));
    }
    if (id >= bytes_.size()) bytes_.resize(id + 1);
    bytes_[id] = token.control ? "" : Replaced(token.content, space_sign_, " ");
    if (token.control) specials_[token.content] = token.id;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> BpeTokenizer::Encode(std::string_view text,
                                                          const EncodeOptions& options) const {
  if (text.size() > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat("text: ", text.size(), " bytes, at most ",
                                                   std::numeric_limits<int32_t>::max()));
  }
  if (absl::Status valid = CheckUtf8(text, "text"); !valid.ok()) return valid;
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 1);
  for (const TextPart& part : added_.Split(text, /*normalized=*/false, options.control)) {
    if (part.token != nullptr) {
      ids.push_back(part.token->id);
      continue;
    }
    absl::Status status =
        EncodeRaw(text.substr(part.begin, part.end - part.begin), part.begin, options, &ids);
    if (!status.ok()) return status;
  }
  return ids;
}

absl::Status BpeTokenizer::EncodeRaw(std::string_view text, size_t offset,
                                     const EncodeOptions& options,
                                     std::vector<int32_t>* ids) const {
  PreTokenizer::Place place;
  place.starts = options.starts_text || offset > 0;
  place.first = options.starts_text && offset == 0;
  std::string made;
  std::vector<TextRange> control;
  if (!normalizer_.empty() || added_.normalized_control()) {
    if (added_.normalized_control() && !options.control.empty()) {
      std::vector<size_t> origins;
      const std::vector<TextRange> inside = Inside(options.control, offset, text);
      made = normalizer_.Apply(text, place.starts, Edges(inside), &origins);
      control = Mapped(inside, origins);
    } else {
      made = normalizer_.Apply(text, place.starts);
    }
    text = made;
  }
  if (!added_.any_normalized()) return EncodeWords(text, place, ids);
  for (const TextPart& part : added_.Split(text, /*normalized=*/true, control)) {
    if (part.token != nullptr) {
      ids->push_back(part.token->id);
      continue;
    }
    const bool behind = part.begin > 0;
    absl::Status status = EncodeWords(text.substr(part.begin, part.end - part.begin),
                                      {place.starts || behind, place.first && !behind}, ids);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::EncodeWords(std::string_view text, PreTokenizer::Place place,
                                       std::vector<int32_t>* ids) const {
  Words words;
  if (absl::Status status = cutter_.Cut(text, place, &words); !status.ok()) return status;
  for (const std::string_view word : words.words) {
    if (cuts_at_sign_) {
      EncodeCut(word, ids);
    } else {
      bpe_.Encode(word, ids);
    }
  }
  return absl::OkStatus();
}

// Cuts where a space sign follows something else: no merge reaches across, and short words are
// faster to merge.
void BpeTokenizer::EncodeCut(std::string_view word, std::vector<int32_t>* ids) const {
  const std::string_view sign = space_sign_;
  size_t begin = 0;
  size_t signs_end = word.starts_with(sign) ? sign.size() : 0;  // end of the run of signs before
  for (size_t at; (at = word.find(sign, signs_end)) != std::string_view::npos;) {
    if (at > signs_end || signs_end == 0) {
      if (at > begin) bpe_.Encode(word.substr(begin, at - begin), ids);
      begin = at;
    }
    signs_end = at + sign.size();
  }
  bpe_.Encode(word.substr(begin), ids);
}

std::string_view BpeTokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= bytes_.size()) return {};
  return bytes_[static_cast<size_t>(id)];
}

std::optional<int32_t> BpeTokenizer::SpecialId(std::string_view name) const {
  const auto found = specials_.find(name);
  if (found == specials_.end()) return std::nullopt;
  return found->second;
}

}  // namespace lola::engine
