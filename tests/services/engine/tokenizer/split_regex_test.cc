#include "services/engine/tokenizer/split_regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/engine/tokenizer/characters.h"
#include "services/engine/tokenizer/regex_dialect.h"

namespace lola::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> Pieces(const std::string& pattern, std::string_view text) {
  auto regex = SplitRegex::Compile("p", pattern);
  EXPECT_TRUE(regex.ok()) << regex.status();
  std::vector<std::string> pieces;
  if (!regex.ok()) return pieces;
  const absl::Status status = regex->ForEach(text, [&](size_t begin, size_t end, bool matched) {
    pieces.push_back((matched ? "+" : "-") + std::string(text.substr(begin, end - begin)));
  });
  EXPECT_TRUE(status.ok()) << status;
  return pieces;
}

std::string Error(const std::string& pattern) {
  return std::string(SplitRegex::Compile("p", pattern).status().message());
}

TEST(SplitRegex, CoversTheTextWithMatchesAndGaps) {
  EXPECT_THAT(Pieces(R"(\p{L}+)", "ab, \xC3\xA9!"), ElementsAre("+ab", "-, ", "+\xC3\xA9", "-!"));
  EXPECT_THAT(Pieces(R"(\s+(?!\S)|\s+)", "a  b "), ElementsAre("-a", "+ ", "+ ", "-b", "+ "));
  EXPECT_THAT(Pieces("(?i:'s)x?", "'S's\xC5\xBF'\xC5\xBFx"),
              ElementsAre("+'S", "+'s", "-\xC5\xBF", "+'\xC5\xBFx"));
  EXPECT_THAT(Pieces("x", ""), ElementsAre());
}

TEST(SplitRegex, WhiteSpaceIsTheUnicodeProperty) {
  for (uint32_t code = 1; code < 0x3100; ++code) {
    std::string text;
    if (code < 0x80) {
      text = {char(code)};
    } else if (code < 0x800) {
      text = {char(0xC0 | code >> 6), char(0x80 | (code & 63))};
    } else {
      text = {char(0xE0 | code >> 12), char(0x80 | (code >> 6 & 63)), char(0x80 | (code & 63))};
    }
    EXPECT_EQ(CodePointAt(text, 0).code, code);
    EXPECT_EQ(Pieces(R"(\s)", text).front()[0] == '+', IsWhiteSpace(code)) << code;
  }
}

TEST(SplitRegex, ScriptsAreScriptsNotTheirExtensions) {
  // U+3001 is used with Han, and its script is Common.
  EXPECT_THAT(Pieces(R"(\p{Han}+)", "\xE4\xB8\x80\xE3\x80\x81"),
              ElementsAre("+\xE4\xB8\x80", "-\xE3\x80\x81"));
}

TEST(SplitRegex, RefusesWhatItDoesNotReadAlike) {
  EXPECT_THAT(Error(R"(\w+)"), HasSubstr("p: the escape \\w at byte 0"));
  EXPECT_THAT(Error("^a"), HasSubstr("an anchor at byte 0"));
  EXPECT_THAT(Error("a$"), HasSubstr("an anchor at byte 1"));
  EXPECT_THAT(Error(R"((a)\1)"), HasSubstr("the escape \\1"));
  EXPECT_THAT(Error("[a[b]]"), HasSubstr("a class inside a class at byte 2"));
  EXPECT_THAT(Error("[a&&b]"), HasSubstr("an intersection"));
  EXPECT_THAT(Error("[]a]"), HasSubstr("an empty class"));
  EXPECT_THAT(Error("[a"), HasSubstr("a class without an end"));
  EXPECT_THAT(Error("a{2}+"), HasSubstr("a possessive or lazy"));
  EXPECT_THAT(Error("a{,2}"), HasSubstr("braces"));
  EXPECT_THAT(Error("(*UCP)a"), HasSubstr("the group (*UC"));
  EXPECT_THAT(Error(R"(\p{Lx}a)"), HasSubstr("the property Lx"));
  EXPECT_THAT(Error(R"(\pLa)"), HasSubstr("a property without braces"));
  EXPECT_THAT(Error(R"(\p{Nowhere}a)"), HasSubstr("p: unknown property"));
  EXPECT_THAT(Error("(a"), HasSubstr("missing closing parenthesis"));
  EXPECT_THAT(Error("a*"), HasSubstr("can match nothing"));
  EXPECT_THAT(Error(""), HasSubstr("0 bytes"));
  EXPECT_THAT(Error(std::string(20000, 'a')), HasSubstr("20000 bytes"));
}

TEST(SplitRegex, APatternThatExplodesIsEnded) {
  const auto regex = SplitRegex::Compile("p", "(?:a|aa|aaa)+[bc]");
  ASSERT_TRUE(regex.ok()) << regex.status();
  const absl::Status status = regex->ForEach(std::string(5000, 'a'), [](size_t, size_t, bool) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("at byte 0 of 5000"));
}

TEST(Characters, WordsAsTheAddedTokensRuleSeesThem) {
  for (const char* yes : {"a", "_", "5", "\xC3\xA9", "\xCC\x81", "\xE2\x80\x8D"}) {
    EXPECT_TRUE(IsWordCharacter(yes)) << yes;
  }
  for (const char* no : {" ", "-", "\xC2\xBD", "\xF0\x9F\x98\x80"}) {
    EXPECT_FALSE(IsWordCharacter(no)) << no;
  }
}

}  // namespace
}  // namespace lola::engine
