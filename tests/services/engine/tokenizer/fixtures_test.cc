// What Hugging Face tokenizers makes of 2400 texts with small vocabularies of every supported form;
// written by tools/tokenizer_check/fixtures.py.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "services/engine/tokenizer.h"

namespace lola::engine {
namespace {

using Json = nlohmann::json;

const std::string kFolder = LOLA_SOURCE_DIR "/tests/testdata/tokenizer/";

std::string ReadFile(const std::string& name) {
  std::ifstream in(kFolder + name);
  EXPECT_TRUE(in) << name;
  return {std::istreambuf_iterator<char>(in), {}};
}

const std::vector<std::string>& Texts() {
  static const auto* const texts = [] {
    auto* read = new std::vector<std::string>;
    std::ifstream in(kFolder + "texts.jsonl");
    for (std::string line; std::getline(in, line);) read->push_back(Json::parse(line));
    return read;
  }();
  return *texts;
}

const Json& Expected() {
  static const auto* const expected = new Json(Json::parse(ReadFile("expected.json")));
  return *expected;
}

// The low 16 bits of an FNV-1a over the ids as four bytes each.
std::string Digest(const std::vector<int32_t>& ids) {
  uint32_t value = 0x811C9DC5;
  for (const int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      value = (value ^ (static_cast<uint32_t>(id) >> shift & 0xFF)) * 0x01000193;
    }
  }
  return absl::StrFormat("%04x", value & 0xFFFF);
}

// The patch of fixtures.py: fields replace fields; those of "model" one by one.
Json Patched(Json data, const Json& patch) {
  for (const auto& [name, value] : patch.items()) {
    if (name == "model") {
      data[name].update(value);
    } else {
      data[name] = value;
    }
  }
  return data;
}

std::vector<int32_t> Encoded(const Tokenizer& tokenizer, const std::string& text, bool control) {
  EncodeOptions options;
  if (control) options.control = {{0, text.size()}};
  auto ids = tokenizer.Encode(text, options);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.ok() ? *std::move(ids) : std::vector<int32_t>();
}

class HuggingFace : public ::testing::TestWithParam<size_t> {
 protected:
  const Json& expected() const { return Expected()["cases"][GetParam()]; }
  Json File() const {
    return Patched(Json::parse(ReadFile(expected()["file"])), expected()["patch"]);
  }
  std::unique_ptr<Tokenizer> Load(const Json& file) const {
    auto tokenizer = ParseTokenizer(file.dump());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
  }
  void ExpectDigests(const Tokenizer& tokenizer, const char* mode) const {
    const auto digests = expected()[mode].get<std::string>();
    ASSERT_EQ(digests.size(), 4 * Texts().size());
    int wrong = 0;
    for (size_t i = 0; i < Texts().size(); ++i) {
      const auto ids = Encoded(tokenizer, Texts()[i], mode == std::string("control"));
      if (Digest(ids) == digests.substr(4 * i, 4)) continue;
      if (++wrong <= 5) ADD_FAILURE() << mode << " " << i << ": " << Json(Texts()[i]) << Json(ids);
    }
    EXPECT_EQ(wrong, 0);
  }
};

TEST_P(HuggingFace, TextsAndControlTokensGetTheSameIds) {
  const auto tokenizer = Load(File());
  ASSERT_NE(tokenizer, nullptr);
  const Json& full = expected()["ids"];
  for (size_t i = 0; i < full.size(); ++i) {
    EXPECT_EQ(Encoded(*tokenizer, Texts()[200 + i], false), full[i].get<std::vector<int32_t>>());
  }
  ExpectDigests(*tokenizer, "text");
  ExpectDigests(*tokenizer, "control");
}

TEST_P(HuggingFace, DecodesToTheSameText) {
  const auto tokenizer = Load(File());
  ASSERT_NE(tokenizer, nullptr);
  const auto same = expected()["decoded"].get<std::string>();
  for (size_t i = 0; i < Texts().size(); ++i) {
    if (same[i] == '-') continue;
    const auto ids = Encoded(*tokenizer, Texts()[i], false);
    const std::string decoded = DecodeAll(*tokenizer, ids);
    EXPECT_EQ(decoded == Texts()[i], same[i] == '=') << i << ": " << Json(decoded);
  }
}

// Files of newer writers hold merges as arrays of two.
TEST_P(HuggingFace, MergesMayBeArraysOrStrings) {
  Json file = File();
  for (Json& merge : file["model"]["merges"]) {
    if (merge.is_string()) {
      const auto text = merge.get<std::string>();
      const size_t space = text.find(' ');
      merge = {text.substr(0, space), text.substr(space + 1)};
    } else {
      merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
    }
  }
  const auto tokenizer = Load(file);
  ASSERT_NE(tokenizer, nullptr);
  ExpectDigests(*tokenizer, "text");
}

INSTANTIATE_TEST_SUITE_P(
    Cases, HuggingFace, ::testing::Range(size_t{0}, Expected()["cases"].size()),
    [](const auto& info) {
      return Expected()["cases"][info.param]["name"].template get<std::string>();
    });

}  // namespace
}  // namespace lola::engine
