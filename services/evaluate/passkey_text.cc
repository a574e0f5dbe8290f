#include "services/evaluate/passkey_text.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/core/check.h"
#include "services/engine/json_reader.h"
#include "services/engine/mapped_file.h"

namespace lola::evaluate {
namespace {

using engine::Json;
using engine::JsonReader;

constexpr size_t kFileBytesMax = 1 << 20;
constexpr size_t kSentenceBytesMax = 128;

void ReadLetters(JsonReader& reader, const char* name, std::string& alphabet, uint32_t& length) {
  const Json* rule = reader.Object(name);
  if (rule == nullptr) {
    reader.Fail(absl::InvalidArgumentError(absl::StrCat(name, ": missing")));
    return;
  }
  JsonReader inner(*rule, absl::StrCat(name, "."));
  alphabet = inner.Text("alphabet");
  // Words are drawn until two differ: there must be two letters, and each is one byte.
  const std::set<char> letters(alphabet.begin(), alphabet.end());
  const bool ascii = std::all_of(letters.begin(), letters.end(), [](char c) { return c > ' '; });
  if (letters.size() < 2 || letters.size() != alphabet.size() || !ascii) {
    inner.Refuse("alphabet", alphabet, "at least two different ASCII letters, each once");
  }
  length = inner.Unsigned("length", 1, 64);
  reader.Fail(inner.status());
}

// Every {slot} of a sentence must be known, the longest filling must stay short, and the shortest
// one must say something: documents are filled up with sentences.
absl::Status CheckSentence(const PasskeyText& text, const std::string& sentence) {
  size_t longest = sentence.size(), shortest = sentence.size();
  for (size_t at = sentence.find('{'); at != std::string::npos; at = sentence.find('{', at + 1)) {
    const size_t end = sentence.find('}', at);
    const std::string slot = sentence.substr(at + 1, end - at - 1);
    const auto found = text.slots.find(slot);
    if (end == std::string::npos || (found == text.slots.end() && slot != "number")) {
      return absl::InvalidArgumentError(
          absl::StrCat("sentences: \"", sentence, "\" has an unknown slot"));
    }
    size_t widest = 20, narrowest = 1;
    if (found != text.slots.end()) {
      widest = 0;
      narrowest = found->second.front().size();
      for (const std::string& word : found->second) {
        widest = std::max(widest, word.size());
        narrowest = std::min(narrowest, word.size());
      }
    }
    longest += widest;
    shortest = shortest - (end + 1 - at) + narrowest;
  }
  if (shortest == 0 || longest > kSentenceBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("sentences: \"", sentence, "\" may have ",
                                                   shortest, " to ", longest,
                                                   " bytes, must be 1 to ", kSentenceBytesMax));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PasskeyText> PasskeyText::Parse(std::string_view json) {
  const absl::StatusOr<Json> root = engine::ParseJsonObject(json);
  if (!root.ok()) return root.status();
  JsonReader reader(*root, "");
  PasskeyText text;
  reader.Unsigned("format_version", 1, 1);
  text.statement = reader.Text("statement");
  text.question = reader.Text("question");
  ReadLetters(reader, "name", text.name_alphabet, text.name_length);
  ReadLetters(reader, "digits", text.digits_alphabet, text.digits_length);
  text.sentences = reader.Texts("sentences", 1);
  text.number_sentences = reader.Texts("number_sentences", 1);
  if (const Json* number = reader.Object("number")) {
    JsonReader inner(*number, "number.");
    text.number_min = inner.Unsigned("min", 0, UINT32_MAX);
    text.number_max = inner.Unsigned("max", text.number_min, UINT32_MAX);
    reader.Fail(inner.status());
  }
  if (const Json* slots = reader.Object("slots")) {
    JsonReader inner(*slots, "slots.");
    for (const auto& [name, words] : slots->items())
      text.slots[name] = inner.Texts(name.c_str(), 1);
    reader.Fail(inner.status());
  }
  if (!reader.status().ok()) return reader.status();
  if (!text.statement.starts_with(text.question) ||
      text.question.find("{name}") == std::string::npos ||
      !text.statement.substr(text.question.size()).starts_with("{digits}")) {
    return absl::InvalidArgumentError(
        absl::StrCat("question: \"", text.question, "\" must be the statement up to {digits}"));
  }
  for (const auto* list : {&text.sentences, &text.number_sentences}) {
    for (const std::string& sentence : *list) {
      const absl::Status good = CheckSentence(text, sentence);
      if (!good.ok()) return good;
    }
  }
  return text;
}

absl::StatusOr<PasskeyText> PasskeyText::Load(const std::string& path) {
  const absl::StatusOr<std::string> json = engine::ReadTextFile(path, kFileBytesMax);
  if (!json.ok()) return json.status();
  absl::StatusOr<PasskeyText> text = Parse(*json);
  if (!text.ok()) {
    return absl::Status(text.status().code(), absl::StrCat(path, ": ", text.status().message()));
  }
  return text;
}

std::string PasskeyText::Statement(std::string_view name, std::string_view digits) const {
  return absl::StrReplaceAll(statement,
                             {{"{name}", std::string(name)}, {"{digits}", std::string(digits)}});
}

std::string PasskeyText::Question(std::string_view name) const {
  return absl::StrReplaceAll(question, {{"{name}", std::string(name)}});
}

uint64_t PasskeyWriter::Below(uint64_t bound) {
  state_ += 0x9E3779B97F4A7C15ull;
  uint64_t x = state_;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  x ^= x >> 31;
  // The bias of the multiply-shift is far below anything measured here.
  return static_cast<uint64_t>((static_cast<unsigned __int128>(x) * bound) >> 64);
}

double PasskeyWriter::Uniform() { return static_cast<double>(Below(uint64_t{1} << 53)) * 0x1p-53; }

std::string PasskeyWriter::Letters(const std::string& alphabet, uint32_t length) {
  std::string letters;
  for (uint32_t i = 0; i < length; ++i) letters.push_back(alphabet[Below(alphabet.size())]);
  return letters;
}

std::string PasskeyWriter::FillSlots(const std::string& pattern) {
  std::string out;
  for (size_t at = 0; at < pattern.size(); ++at) {
    if (pattern[at] != '{') {
      out.push_back(pattern[at]);
      continue;
    }
    const size_t end = pattern.find('}', at);
    const std::string_view slot = std::string_view(pattern).substr(at + 1, end - at - 1);
    if (slot == "number") {
      absl::StrAppend(&out, text_.number_min + Below(text_.number_max - text_.number_min + 1));
    } else {
      const std::vector<std::string>& words = text_.slots.find(slot)->second;
      out += words[Below(words.size())];
    }
    at = end;
  }
  return out;
}

std::string PasskeyWriter::Sentence(double number_share) {
  const bool numeric = number_share > 0.0 && Uniform() < number_share;
  const std::vector<std::string>& list = numeric ? text_.number_sentences : text_.sentences;
  return FillSlots(list[Below(list.size())]);
}

std::vector<Needle> PasskeyWriter::MakeNeedles(size_t count) {
  std::set<std::string> names;
  std::vector<Needle> needles;
  while (needles.size() < count) {
    Needle needle;
    needle.name = Letters(text_.name_alphabet, text_.name_length);
    needle.digits = Letters(text_.digits_alphabet, text_.digits_length);
    if (names.insert(needle.name).second) needles.push_back(std::move(needle));
  }
  return needles;
}

double PasskeyText::names() const {
  return std::pow(static_cast<double>(name_alphabet.size()), name_length);
}

uint64_t PasskeyWriter::RoomFor(const PasskeyText& text, size_t needles, uint64_t margin) {
  return needles * text.statement_bytes() + margin + 2 * kSentenceBytesMax;
}

Document PasskeyWriter::Write(uint64_t bytes, std::vector<double> depths, uint64_t margin,
                              double number_share) {
  LOLA_CHECK_GE(bytes, RoomFor(text_, depths.size(), margin));
  std::sort(depths.begin(), depths.end());
  Document document;
  document.needles = MakeNeedles(depths.size());
  const uint64_t filler = bytes - depths.size() * text_.statement_bytes();
  const uint64_t stretch = filler - margin - kSentenceBytesMax;
  // Sentences first, so that the cut piece at the front makes the size exact.
  std::vector<std::string> sentences;
  uint64_t used = 0;
  for (;;) {
    std::string sentence = Sentence(number_share);
    if (used + sentence.size() > filler) break;
    used += sentence.size();
    sentences.push_back(std::move(sentence));
  }
  std::string front;
  while (front.size() < filler - used) front = Sentence(0.0) + front;
  document.text = front.substr(front.size() - (filler - used));
  // Blanks for what is left of a character that was cut.
  for (size_t i = 0; i < document.text.size() && (document.text[i] & 0xC0) == 0x80; ++i) {
    document.text[i] = ' ';
  }
  uint64_t shown = document.text.size();  // filler bytes so far
  size_t next = 0;
  for (const std::string& sentence : sentences) {
    while (next < depths.size() &&
           static_cast<double>(shown) >= depths[next] * static_cast<double>(stretch)) {
      Needle& needle = document.needles[next++];
      needle.offset = document.text.size();
      document.text += text_.Statement(needle.name, needle.digits);
    }
    document.text += sentence;
    shown += sentence.size();
  }
  LOLA_CHECK_EQ(next, depths.size());
  LOLA_CHECK_EQ(document.text.size(), bytes);
  return document;
}

}  // namespace lola::evaluate
