#include "services/engine/stop_matcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lola::engine {
namespace {

using ::testing::HasSubstr;

struct Outcome {
  std::string text;
  FinishReason reason = FinishReason::kNone;
  uint64_t tokens = 0;
  bool operator==(const Outcome&) const = default;
};

// Pushes bytes as tokens until a verdict ends the generation.
Outcome Generate(StopRules rules, const std::string& bytes) {
  const auto tokenizer = MakeByteTokenizer();
  StopMatcher matcher(std::move(rules), *tokenizer);
  Outcome outcome;
  for (const char c : bytes) {
    const StopMatcher::Verdict verdict = matcher.Push(static_cast<uint8_t>(c));
    outcome.text += verdict.text;
    outcome.reason = verdict.reason;
    if (verdict.reason != FinishReason::kNone) break;
  }
  outcome.tokens = matcher.tokens();
  return outcome;
}

TEST(StopMatcher, EndsAtTheLimitWithAllText) {
  EXPECT_EQ(Generate({.max_tokens = 3}, "abcdef"), (Outcome{"abc", FinishReason::kLength, 3}));
}

TEST(StopMatcher, FindsStopStringsAcrossTokens) {
  EXPECT_EQ(Generate({.max_tokens = 99, .stops = {"END"}}, "say ENEND!"),
            (Outcome{"say EN", FinishReason::kStop, 9}));
  EXPECT_EQ(Generate({.max_tokens = 99, .stops = {"aab"}}, "aaaab"),
            (Outcome{"aa", FinishReason::kStop, 5}));
}

TEST(StopMatcher, TheStringCompleteFirstWins) {
  EXPECT_EQ(Generate({.max_tokens = 99, .stops = {"abcd", "bc"}}, "xabcd"),
            (Outcome{"xa", FinishReason::kStop, 4}));
  EXPECT_EQ(Generate({.max_tokens = 99, .stops = {"c", "abc"}}, "xabcd"),
            (Outcome{"x", FinishReason::kStop, 4}));
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBecomeAStop) {
  const auto tokenizer = MakeByteTokenizer();
  StopMatcher matcher({.max_tokens = 99, .stops = {"\n\n"}}, *tokenizer);
  EXPECT_EQ(matcher.Push('a').text, "a");
  EXPECT_EQ(matcher.Push('\n').text, "");
  EXPECT_EQ(matcher.Push('b').text, "\nb");
  EXPECT_EQ(matcher.Push('\n').text, "");
  EXPECT_EQ(matcher.Flush(), "\n");
}

TEST(StopMatcher, LimitShowsHeldText) {
  EXPECT_EQ(Generate({.max_tokens = 4, .stops = {"END"}}, "x EN"),
            (Outcome{"x EN", FinishReason::kLength, 4}));
}

TEST(StopMatcher, EosEndsUnlessIgnored) {
  const auto tokenizer = MakeByteTokenizer();
  StopMatcher matcher({.max_tokens = 9, .stops = {"ab"}, .eos = {257}}, *tokenizer);
  EXPECT_EQ(matcher.Push('a').text, "");
  const StopMatcher::Verdict verdict = matcher.Push(257);
  EXPECT_EQ(verdict.reason, FinishReason::kEos);
  EXPECT_EQ(verdict.text, "a");
  StopMatcher deaf({.max_tokens = 9, .eos = {257}, .ignore_eos = true}, *tokenizer);
  EXPECT_EQ(deaf.Push(257).reason, FinishReason::kNone);
}

TEST(StopMatcher, NeverShowsHalfACharacter) {
  EXPECT_EQ(Generate({.max_tokens = 99, .stops = {"\xE2\x82\xAC"}}, "a\xE2\x82\xAC"),
            (Outcome{"a", FinishReason::kStop, 4}));
  EXPECT_EQ(Generate({.max_tokens = 2}, "a\xE2"),
            (Outcome{"a\xEF\xBF\xBD", FinishReason::kLength, 2}));
}

TEST(StopRules, ValidationNamesTheField) {
  const auto error = [](StopRules rules) { return std::string(rules.Validate().message()); };
  EXPECT_THAT(error({}), HasSubstr("max_tokens: 0"));
  EXPECT_THAT(error({.max_tokens = 1, .stops = {"a", ""}}), HasSubstr("stop[1]: 0 bytes"));
  EXPECT_THAT(error({.max_tokens = 1, .stops = {std::string(257, 'a')}}), HasSubstr("257 bytes"));
  EXPECT_THAT(error({.max_tokens = 1, .stops = {"\xFF"}}), HasSubstr("stop[0]: not valid UTF-8"));
  EXPECT_THAT(error({.max_tokens = 1, .stops = std::vector<std::string>(17, "a")}),
              HasSubstr("17 strings"));
}

}  // namespace
}  // namespace lola::engine
