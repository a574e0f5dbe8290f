// The judge itself: it must see every kind of broken history.
#include "tests/e2e/chaos/history.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lola::testing {
namespace {

using ::testing::HasSubstr;

History Observed(std::vector<ReceivedToken> tokens) {
  History history;
  history.stream_id = "s";
  history.tokens = std::move(tokens);
  history.final_position = 12;
  return history;
}

const History kCalm = Observed({{10, 1}, {11, 2}});

TEST(HistoryTest, EqualHistoriesAreExplained) {
  EXPECT_EQ(CompareHistories(kCalm, Observed({{10, 1}, {11, 2}})), "");
}

TEST(HistoryTest, DuplicateIsNamedByPosition) {
  EXPECT_THAT(CompareHistories(kCalm, Observed({{10, 1}, {10, 1}, {11, 2}})),
              HasSubstr("position 10"));
}

TEST(HistoryTest, GapAndWrongTokenAreNamed) {
  EXPECT_THAT(CompareHistories(kCalm, Observed({{11, 2}})), HasSubstr("position 11"));
  EXPECT_THAT(CompareHistories(kCalm, Observed({{10, 1}, {11, 9}})), HasSubstr("is 9"));
}

TEST(HistoryTest, MissingTailAndFailureAreNamed) {
  EXPECT_THAT(CompareHistories(kCalm, Observed({{10, 1}})), HasSubstr("1 tokens, undisturbed 2"));
  History failed = kCalm;
  failed.failure = "code 14: gone";
  EXPECT_THAT(CompareHistories(kCalm, failed), HasSubstr("code 14"));
}

}  // namespace
}  // namespace lola::testing
