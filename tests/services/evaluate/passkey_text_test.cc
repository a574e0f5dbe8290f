#include "services/evaluate/passkey_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "services/engine/tokenizer.h"

namespace lola::evaluate {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

const char kWordLists[] = LOLA_SOURCE_DIR "/models/passkey-1m/passkey_text.json";

PasskeyText Words() {
  const auto text = PasskeyText::Load(kWordLists);
  EXPECT_TRUE(text.ok()) << text.status();
  return *text;
}

TEST(PasskeyText, ReadsTheWordListsOfTheReferenceModel) {
  const PasskeyText text = Words();
  EXPECT_EQ(text.Statement("abc", "12345"), "The pass key of abc is 12345. ");
  EXPECT_EQ(text.Question("abc"), "The pass key of abc is ");
  EXPECT_EQ(text.digits_length, 5u);
}

TEST(PasskeyText, NamesWhatIsWrong) {
  const Json good = {{"format_version", 1},
                     {"statement", "k {name} is {digits}. "},
                     {"question", "k {name} is "},
                     {"name", {{"alphabet", "ab"}, {"length", 2}}},
                     {"digits", {{"alphabet", "01"}, {"length", 3}}},
                     {"number", {{"min", 1}, {"max", 9}}},
                     {"slots", {{"thing", {"house"}}}},
                     {"sentences", {"A {thing}. "}},
                     {"number_sentences", {"No {number}. "}}};
  const auto error = [&good](const char* pointer, const Json& value) {
    Json changed = good;
    changed[Json::json_pointer(pointer)] = value;
    const auto text = PasskeyText::Parse(changed.dump());
    return text.ok() ? "ok" : std::string(text.status().message());
  };
  EXPECT_EQ(error("/format_version", 1), "ok");
  EXPECT_THAT(error("/format_version", 2), HasSubstr("format_version: 2"));
  EXPECT_THAT(error("/question", "what"), HasSubstr("question: \"what\""));
  EXPECT_THAT(error("/name/length", 0), HasSubstr("name.length: 0"));
  // Fewer than two letters would be drawn for ever; bytes of one character are no letters.
  for (const char* alphabet : {"", "1", "11", "121", "\u00E9\u00E8", "1 "}) {
    EXPECT_THAT(error("/digits/alphabet", alphabet), HasSubstr("digits.alphabet"));
  }
  EXPECT_THAT(error("/number/max", 0), HasSubstr("number.max: 0"));
  EXPECT_THAT(error("/sentences", Json::array()), HasSubstr("sentences"));
  EXPECT_THAT(error("/sentences", {"A {thong}. "}), HasSubstr("unknown slot"));
  EXPECT_THAT(error("/sentences", {"A {thing. "}), HasSubstr("unknown slot"));
  EXPECT_THAT(error("/sentences", {""}), HasSubstr("may have 0 to 0 bytes"));
  EXPECT_EQ(error("/sentences", {"{thing}"}), "ok");
  Json silent = good;
  silent["sentences"] = {"{thing}{thing}"};
  silent["slots"]["thing"] = {"house", ""};
  EXPECT_THAT(std::string(PasskeyText::Parse(silent.dump()).status().message()),
              HasSubstr("may have 0 to "));
  EXPECT_THAT(error("/slots/thing", Json::array()), HasSubstr("slots.thing"));
  EXPECT_THAT(std::string(PasskeyText::Parse("[").status().message()), HasSubstr("not a JSON"));
}

TEST(PasskeyWriter, DocumentsHaveExactlyTheBytesAskedFor) {
  const PasskeyText text = Words();
  for (uint64_t bytes = 900; bytes < 1000; bytes += 7) {
    PasskeyWriter writer(text, bytes);
    const Document document = writer.Write(bytes, {0.0, 0.5, 0.999}, 200, 0.3);
    EXPECT_EQ(document.text.size(), bytes);
    ASSERT_EQ(document.needles.size(), 3u);
    std::set<std::string> names;
    for (const Needle& needle : document.needles) {
      const std::string statement = text.Statement(needle.name, needle.digits);
      EXPECT_EQ(document.text.substr(needle.offset, statement.size()), statement);
      EXPECT_LE(needle.offset + statement.size() + 200, bytes);
      names.insert(needle.name);
    }
    EXPECT_EQ(names.size(), 3u);
    EXPECT_LT(document.needles[0].offset, 128u);
    EXPECT_LT(document.needles[0].offset, document.needles[1].offset);
  }
}

// The front is cut anywhere, but what is left is text.
TEST(PasskeyWriter, DocumentsOfOtherLettersAreUtf8) {
  PasskeyText text = Words();
  text.sentences = {"\u5C71\u306F\u9752\u3044\u3002", "\u00E9\u00E9\u00E9. "};
  for (uint64_t bytes = 900; bytes < 912; ++bytes) {
    PasskeyWriter writer(text, bytes);
    const Document document = writer.Write(bytes, {0.5}, 200, 0.0);
    EXPECT_EQ(document.text.size(), bytes);
    EXPECT_TRUE(engine::CheckUtf8(document.text, "text").ok());
  }
}

TEST(PasskeyWriter, DepthIsWhereTheStatementStands) {
  const PasskeyText text = Words();
  PasskeyWriter writer(text, 1);
  const Document document = writer.Write(100000, {0.25, 0.75}, 200, 0.0);
  EXPECT_NEAR(document.needles[0].offset, 25000, 300);
  EXPECT_NEAR(document.needles[1].offset, 75000, 300);
}

TEST(PasskeyWriter, TheSeedDecidesEverything) {
  const PasskeyText text = Words();
  EXPECT_EQ(PasskeyWriter(text, 5).Write(2000, {0.5}, 200, 0.5).text,
            PasskeyWriter(text, 5).Write(2000, {0.5}, 200, 0.5).text);
  EXPECT_NE(PasskeyWriter(text, 5).Write(2000, {0.5}, 200, 0.5).text,
            PasskeyWriter(text, 6).Write(2000, {0.5}, 200, 0.5).text);
}

TEST(PasskeyWriter, OtherNumbersOnlyWhenAskedFor) {
  const PasskeyText text = Words();
  const auto digits = [](const std::string& document) {
    return std::count_if(document.begin(), document.end(),
                         [](char c) { return c >= '0' && c <= '9'; });
  };
  EXPECT_EQ(digits(PasskeyWriter(text, 5).Write(5000, {0.5}, 200, 0.0).text), 5);
  EXPECT_GT(digits(PasskeyWriter(text, 5).Write(5000, {0.5}, 200, 0.5).text), 50);
}

}  // namespace
}  // namespace lola::evaluate
