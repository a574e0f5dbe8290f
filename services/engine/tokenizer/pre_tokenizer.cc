#include "services/engine/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace lola::engine {
namespace {

// The pattern ByteLevel uses when it is not told otherwise (published with GPT-2).
constexpr char kByteLevelPattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::Parse(const Json& root) {
  PreTokenizer cutter;
  const auto value = root.find("pre_tokenizer");
  if (value == root.end() || value->is_null()) return cutter;
  if (absl::Status status = cutter.Add(*value, "pre_tokenizer"); !status.ok()) return status;
  return cutter;
}

absl::Status PreTokenizer::Add(const Json& value, const std::string& field) {
  JsonReader reader(value, field + ".");
  const std::string type = reader.Text("type");
  if (!reader.status().ok()) return reader.status();
  if (byte_level_) {
    reader.Unsupported("type", type, "nothing behind ByteLevel");
    return reader.status();
  }
  if (type == "Sequence") {
    const Json* parts = reader.Find("pretokenizers");
    if (parts == nullptr || !parts->is_array()) {
      return absl::InvalidArgumentError(field + ".pretokenizers: missing or not an array");
    }
    for (size_t i = 0; i < parts->size(); ++i) {
      absl::Status status = Add((*parts)[i], absl::StrCat(field, ".pretokenizers[", i, "]"));
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  if (type == "Split") return AddSplit(reader);
  if (type == "ByteLevel") return AddByteLevel(reader);
  if (type == "Metaspace") return AddMetaspace(reader);
  if (type == "Digits") {
    return AddPattern(field, reader.Bool("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)");
  }
  reader.Unsupported("type", type, "Sequence, Split, ByteLevel, Digits, Metaspace");
  return reader.status();
}

absl::Status PreTokenizer::AddPattern(const std::string& field, const char* pattern) {
  absl::StatusOr<SplitRegex> regex = SplitRegex::Compile(field, pattern);
  if (!regex.ok()) return regex.status();
  Step step;
  step.regex = *std::move(regex);
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status PreTokenizer::AddSplit(JsonReader& reader) {
  const std::string behavior = reader.Text("behavior");
  Step step;
  step.invert = reader.Bool("invert", false);
  step.removed = behavior == "Removed";
  if (behavior != "Isolated" && behavior != "Removed") {
    reader.Unsupported("behavior", behavior, "Isolated, Removed");
  }
  const Json* pattern = reader.Object("pattern");
  if (!reader.status().ok()) return reader.status();
  const std::string field = reader.prefix() + "pattern";
  for (const char* kind : {"Regex", "String"}) {
    if (pattern == nullptr || !pattern->contains(kind)) continue;
    const Json& text = (*pattern)[kind];
    if (!text.is_string() || text.get_ref<const std::string&>().empty()) break;
    absl::StatusOr<SplitRegex> regex =
        kind == std::string_view("Regex")
            ? SplitRegex::Compile(field, text.get_ref<const std::string&>())
            : SplitRegex::Literal(field, text.get_ref<const std::string&>());
    if (!regex.ok()) return regex.status();
    step.regex = *std::move(regex);
    steps_.push_back(std::move(step));
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(field, ": ",
                                                 pattern == nullptr ? "null" : ShowJson(*pattern),
                                                 ", must hold a Regex or a String"));
}

absl::Status PreTokenizer::AddByteLevel(JsonReader& reader) {
  const bool prefix = reader.Bool("add_prefix_space", true);
  const bool regex = reader.Bool("use_regex", true);
  if (!reader.status().ok()) return reader.status();
  if (prefix) {
    Step step;
    step.kind = Step::kPrefixSpace;
    steps_.push_back(std::move(step));
  }
  byte_level_ = true;
  return regex ? AddPattern(reader.prefix() + "use_regex", kByteLevelPattern) : absl::OkStatus();
}

absl::Status PreTokenizer::AddMetaspace(JsonReader& reader) {
  Step step;
  step.kind = Step::kMetaspace;
  step.sign = reader.Text("replacement");
  // Older files say add_prefix_space, newer ones prepend_scheme.
  const bool prefix = reader.Bool("add_prefix_space", true);
  const std::string scheme = reader.Text("prepend_scheme", prefix ? "always" : "never");
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    reader.Unsupported("prepend_scheme", scheme, "always, first, never");
  }
  step.prepend = scheme == "always"  ? Step::kAlways
                 : scheme == "first" ? Step::kFirst
                                     : Step::kNever;
  step.split = reader.Bool("split", true);
  if (!reader.status().ok()) return reader.status();
  if (step.sign.empty()) return absl::InvalidArgumentError(reader.prefix() + "replacement: empty");
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

bool PreTokenizer::prepends() const {
  return std::any_of(steps_.begin(), steps_.end(), [](const Step& s) {
    return s.kind == Step::kPrefixSpace ||
           (s.kind == Step::kMetaspace && s.prepend != Step::kNever);
  });
}

std::string_view PreTokenizer::space_sign() const {
  for (const Step& step : steps_) {
    if (step.kind == Step::kMetaspace) return step.sign;
  }
  return {};
}

absl::Status PreTokenizer::Cut(std::string_view text, Place place, Words* out) const {
  if (!text.empty()) out->words.push_back(text);
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Step::kPattern:
        if (absl::Status status = Match(step, &out->words); !status.ok()) return status;
        break;
      case Step::kPrefixSpace:
        PrefixSpace(place, out);
        break;
      case Step::kMetaspace:
        Metaspace(step, place, out);
        break;
    }
  }
  return absl::OkStatus();
}

absl::Status PreTokenizer::Match(const Step& step, std::vector<std::string_view>* words) {
  std::vector<std::string_view> cut;
  cut.reserve(words->size());
  for (const std::string_view word : *words) {
    const absl::Status status =
        step.regex->ForEach(word, [&](size_t begin, size_t end, bool matched) {
          if (step.removed && matched != step.invert) return;
          cut.push_back(word.substr(begin, end - begin));
        });
    if (!status.ok()) return status;
  }
  *words = std::move(cut);
  return absl::OkStatus();
}

void PreTokenizer::PrefixSpace(Place place, Words* words) {
  for (size_t i = 0; i < words->words.size(); ++i) {
    std::string_view& word = words->words[i];
    if (word.starts_with(' ') || (i == 0 && !place.starts)) continue;
    word = words->made.emplace_back(absl::StrCat(" ", std::string(word)));
  }
}

void PreTokenizer::Metaspace(const Step& step, Place place, Words* words) {
  std::vector<std::string_view> cut;
  for (size_t i = 0; i < words->words.size(); ++i) {
    std::string text;
    for (const char c : words->words[i]) {
      if (c == ' ') {
        text += step.sign;
      } else {
        text += c;
      }
    }
    const bool here = step.prepend == Step::kAlways  ? (i > 0 || place.starts)
                      : step.prepend == Step::kFirst ? (i == 0 && place.starts && place.first)
                                                     : false;
    if (here && !text.starts_with(step.sign)) text.insert(0, step.sign);
    const std::string& kept = words->made.emplace_back(std::move(text));
    size_t begin = 0;
    while (step.split && begin < kept.size()) {
      const size_t next = kept.find(step.sign, begin + 1);
      if (next == std::string::npos) break;
      cut.push_back(std::string_view(kept).substr(begin, next - begin));
      begin = next;
    }
    cut.push_back(std::string_view(kept).substr(begin));
  }
  words->words = std::move(cut);
}

}  // namespace lola::engine
