#include "services/evaluate/stream_recall.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "services/evaluate/runner.h"
#include "tests/services/evaluate/task_testing.h"

namespace lola::evaluate {
namespace {

using ::testing::HasSubstr;

TaskOptions Options(uint64_t length) {
  TaskOptions options;
  options.task = "stream_recall";
  options.length = length;
  options.samples = 2;
  options.bos = false;
  options.text_kind = std::string(LOLA_SOURCE_DIR) + "/models/passkey-1m/passkey_text.json";
  return options;
}

// Name asked for: the question is " The pass key of abc is ".
std::string Asked(const Question& question) {
  return question.text.substr(question.text.size() - 7, 3);
}

TEST(StreamRecall, StatementsStandAtTheirDistance) {
  TaskOptions options = Options(20'000);
  options.distances = {1024, 8192};
  options.checkpoints = 2;
  options.needles = 3;
  const Whole whole = ReadWhole(*Make(options), 1);
  ASSERT_EQ(whole.questions.size(), 12u);
  for (size_t i = 0; i < whole.questions.size(); ++i) {
    const Question& question = whole.questions[i];
    const std::string statement =
        "The pass key of " + Asked(question) + " is " + question.references[0].text + ". ";
    const size_t end = whole.marks.at(question.references[0].mark);
    EXPECT_EQ(whole.text.substr(end - statement.size(), statement.size()), statement);
    const size_t wanted = i % 6 < 3 ? 1024 : 8192;
    const size_t distance = whole.asked_at[i] - end;
    EXPECT_GE(distance, wanted);
    EXPECT_LE(distance, wanted + 512 + 2 * 128) << "told at the end of a sentence";
    EXPECT_NEAR(whole.asked_at[i], i < 6 ? 10'000 : 20'000, 128);
    EXPECT_TRUE(question.older.empty());
  }
}

// Many statements for one place take its room: the last ones end right before the questions.
TEST(StreamRecall, StatementsMayStandRightBeforeTheirQuestions) {
  TaskOptions options = Options(4'000);
  options.checkpoints = 1;
  for (uint64_t distance = 1; distance <= 60; ++distance) options.distances.push_back(distance);
  const auto task = Make(options);
  const auto script = task->Open(0);
  TokenPlaces places;
  uint64_t tokens = 0;
  size_t questions = 0;
  for (Step step = script->Next(); step.kind != Step::Kind::kEnd; step = script->Next()) {
    places.Add(step, tokens, [](std::string_view text) { return text.size(); });
    tokens += step.text.size();
    if (step.kind != Step::Kind::kQuestion) continue;
    ++questions;
    const Answer answer = places.Make(step.question, tokens, step.question.text.size());
    EXPECT_LE(answer.told.at(0), tokens);
  }
  EXPECT_EQ(questions, 60u);
}

TEST(StreamRecall, UpdatesReplaceAnOlderValueOfTheSameName) {
  TaskOptions options = Options(30'000);
  options.update_share = 1.0;
  const Whole whole = ReadWhole(*Make(options), 0);
  ASSERT_GE(whole.questions.size(), 4u);
  for (const Question& question : whole.questions) {
    ASSERT_EQ(question.older.size(), 1u);
    const std::string name = "The pass key of " + Asked(question) + " is ";
    const size_t older = whole.text.find(name + question.older[0] + ". ");
    const size_t newest = whole.text.find(name + question.references[0].text + ". ");
    ASSERT_NE(older, std::string::npos);
    ASSERT_NE(newest, std::string::npos);
    EXPECT_LT(older, newest);
  }
}

TEST(StreamRecall, FillerIsTheModelsTextOrProseWithNumbersAtTheirShare) {
  const auto digits = [](const Whole& whole) {
    return std::count_if(whole.text.begin(), whole.text.end(),
                         [](char c) { return c >= '0' && c <= '9'; });
  };
  TaskOptions options = Options(8'000);
  options.checkpoints = 1;
  options.distances = {2048};
  EXPECT_EQ(digits(ReadWhole(*Make(options), 0)), 5);
  options.number_share = 0.5;
  EXPECT_GT(digits(ReadWhole(*Make(options), 0)), 100);
  options.number_share = 0.0;
  options.haystack = WriteFile("prose.txt", "Rivers run to the sea. Hills stay. Who knows why?");
  const Whole whole = ReadWhole(*Make(options), 0);
  EXPECT_EQ(digits(whole), 5);
  EXPECT_THAT(whole.text, HasSubstr("Who knows why? Rivers run to the sea. Hills stay. "));
}

TEST(StreamRecall, LongStreamsComeInPiecesAndTheSeedDecidesThem) {
  TaskOptions options = Options(300'000);
  const Whole a = ReadWhole(*Make(options), 0), b = ReadWhole(*Make(options), 0);
  EXPECT_EQ(a.text, b.text);
  EXPECT_NE(a.text, ReadWhole(*Make(options), 1).text);
  for (const std::string& piece : a.pieces) EXPECT_LE(piece.size(), kPieceBytes + 1024);
}

TEST(StreamRecall, BadOptionsAreNamed) {
  const auto refusal = [](auto&& change) {
    TaskOptions options = Options(20'000);
    change(options);
    return Refusal(options);
  };
  EXPECT_EQ(refusal([](auto&) {}), "ok");
  EXPECT_THAT(refusal([](auto& o) { o.length = 1500; }), HasSubstr("length: 1500 has no place"));
  EXPECT_THAT(refusal([](auto& o) { o.checkpoints = 0; }), HasSubstr("checkpoints: 0"));
  EXPECT_THAT(refusal([](auto& o) { o.update_share = 1.5; }), HasSubstr("update_share: 1.5"));
  EXPECT_THAT(refusal([](auto& o) {
                o.length = 4'000'000;
                o.needles = 9000;
              }),
              HasSubstr("needles: 9000 make"));
  EXPECT_THAT(refusal([](auto& o) { o.text_kind = "no/such.json"; }), HasSubstr("no/such.json"));
  EXPECT_THAT(refusal([](auto& o) { o.text_kind.clear(); }), HasSubstr("text-kind"));
}

}  // namespace
}  // namespace lola::evaluate
