#include "services/evaluate/score.h"

#include <gtest/gtest.h>

namespace lola::evaluate {
namespace {

Question Asking(Scoring scoring, std::vector<std::string> references,
                std::vector<std::string> older = {}) {
  Question question;
  question.scoring = scoring;
  for (std::string& text : references) question.references.push_back({std::move(text), 0});
  question.older = std::move(older);
  return question;
}

TEST(MatchAll, IsTheShareOfReferencesFoundAnywhereIgnoringCase) {
  const Question question = Asking(Scoring::kMatchAll, {"ABC", "def", "123", "9"});
  EXPECT_EQ(Judge(question, "xabcx, DEF").score, 0.5);
  EXPECT_EQ(Judge(question, "abc def 51234 9").score, 1.0);
  EXPECT_EQ(Judge(question, "").score, 0.0);
  EXPECT_EQ(Judge(question, "ab c\x01 de f").score, 0.0);
  EXPECT_EQ(Judge(question, "1 2 abc").found, (std::vector<bool>{true, false, false, false}));
}

TEST(FirstInteger, MustEqualTheKey) {
  const Question question = Asking(Scoring::kFirstInteger, {"4123"});
  EXPECT_EQ(Judge(question, " 4123. Remember 77").score, 1.0);
  EXPECT_EQ(Judge(question, "is 04123").score, 1.0);
  EXPECT_EQ(Judge(question, " 77, 4123").score, 0.0);
  EXPECT_EQ(Judge(question, " 41234").score, 0.0);
  EXPECT_EQ(Judge(question, "none").score, 0.0);
  EXPECT_EQ(Judge(Asking(Scoring::kFirstInteger, {"0"}), "000").score, 1.0);
}

TEST(Beginning, TakesNoLongerNumber) {
  const Question question = Asking(Scoring::kBeginning, {"12345"});
  EXPECT_EQ(Judge(question, " 12345").score, 1.0);
  EXPECT_EQ(Judge(question, "12345. The").score, 1.0);
  EXPECT_EQ(Judge(question, "123456").score, 0.0);
  EXPECT_EQ(Judge(question, "x12345").score, 0.0);
}

TEST(Updates, AreNewestOlderOrOther) {
  const Question question = Asking(Scoring::kBeginning, {"33333"}, {"11111", "22222"});
  EXPECT_EQ(Judge(question, "33333").which, "newest");
  EXPECT_EQ(Judge(question, "22222").which, "older");
  EXPECT_EQ(Judge(question, "22222").score, 0.0);
  EXPECT_EQ(Judge(question, "44444").which, "other");
  EXPECT_EQ(Judge(Asking(Scoring::kBeginning, {"1"}), "2").which, "");
}

TEST(CleanAnswer, StripsAndReplacesControlCharacters) {
  EXPECT_EQ(CleanAnswer(" \x02 a\tb\x1f \n"), "a\nb");
  EXPECT_EQ(CleanAnswer(""), "");
}

}  // namespace
}  // namespace lola::evaluate
