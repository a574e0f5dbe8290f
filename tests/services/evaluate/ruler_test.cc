// Prompts written out by hand from the published templates, with only the drawn keys, values and
// places filled in; and the sizing rule. Tokens are single bytes here.
#include "services/evaluate/ruler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <regex>
#include <set>

#include "absl/strings/str_cat.h"
#include "tests/services/evaluate/task_testing.h"

namespace lola::evaluate {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

const std::string kNoise =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

TaskOptions Small(const std::string& task, uint64_t length, uint64_t samples = 4) {
  TaskOptions options;
  options.task = task;
  options.length = length;
  options.samples = samples;
  options.bos = false;
  return options;
}

// The key in a question such as "... for smooth-rabbit mentioned in ...".
std::string Key(const Whole& whole) {
  std::smatch match;
  const std::string& text = whole.questions.at(0).text;
  EXPECT_TRUE(std::regex_search(text, match, std::regex(" for (.*) mentioned in"))) << text;
  return match[1];
}

// How many lines of `text` stand before the one that begins with `start`.
size_t LineOf(const std::string& text, const std::string& start) {
  const size_t at = text.find("\n" + start);
  EXPECT_NE(at, std::string::npos);
  return static_cast<size_t>(std::count(text.begin(), text.begin() + at, '\n'));
}

std::string Essay() {
  return WriteFile("essay.txt",
                   "Dr. Ada  wrote this.\nIt was\tlong! Was it \"good?\" Yes, it was. ");
}

TEST(Niah, SingleOneIsTheNoiseLineAndOneNumber) {
  const auto task = Make(Small("niah_single_1", 1100));
  const Whole whole = ReadWhole(*task, 0);
  const std::string key = Key(whole), value = whole.answer(0);
  EXPECT_THAT(key, MatchesRegex("[a-z]+-[a-z]+"));
  EXPECT_THAT(value, MatchesRegex("[1-9][0-9]{6}"));
  const std::string needle = "One of the special magic numbers for " + key + " is: " + value + ".";
  std::vector<std::string> lines(5, kNoise);
  const size_t place = LineOf(whole.text, "One of");
  ASSERT_LT(place, 5u) << "a needle stands before a line";
  lines.insert(lines.begin() + place, needle);
  std::string expected =
      "A special magic number is hidden within the following text. Make sure to memorize it. I "
      "will quiz you about the number afterwards.\n";
  for (const std::string& line : lines) expected += line + "\n";
  expected += "What is the special magic number for " + key +
              " mentioned in the provided text? The special magic number for " + key +
              " mentioned in the provided text is";
  EXPECT_EQ(whole.prompt(), expected);
  EXPECT_EQ(whole.questions[0].max_tokens, 128u);
  EXPECT_EQ(whole.questions[0].scoring, Scoring::kMatchAll);
  EXPECT_EQ(whole.text.substr(0, whole.marks.at(0)).substr(whole.marks.at(0) - needle.size()),
            needle);
}

TEST(Niah, SingleThreeAsksForAUuidInAnEssay) {
  TaskOptions options = Small("niah_single_3", 700);
  // One step of six short words fits; the next one does not.
  options.haystack = WriteFile("long_words.txt", "Dr. Ada  wrote this.\nIt was\t" +
                                                     std::string(300, 'x') + " y y y y y y y y y");
  options.haystack_step = 6;
  const auto task = Make(options);
  std::set<size_t> places;
  for (uint64_t i = 0; i < 4; ++i) {
    const Whole whole = ReadWhole(*task, i);
    const std::string key = Key(whole), value = whole.answer(0);
    EXPECT_THAT(value, MatchesRegex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-"
                                    "[0-9a-f]{12}"));
    const std::string needle = "One of the special magic uuids for " + key + " is: " + value + ".";
    // Six words: a sentence of four and half of the next.
    const std::string cut = "It was";
    const std::string context[] = {" " + needle + " Dr. Ada wrote this. " + cut,
                                   "Dr. Ada wrote this. " + needle + " " + cut,
                                   "Dr. Ada wrote this. " + cut + " " + needle + " "};
    const std::string head =
        "A special magic uuid is hidden within the following text. Make sure to memorize it. I "
        "will quiz you about the uuid afterwards.\n";
    const std::string tail = "\nWhat is the special magic uuid for " + key +
                             " mentioned in the provided text? The special magic uuid for " + key +
                             " mentioned in the provided text is";
    size_t which = 3;
    for (size_t c = 0; c < 3; ++c) {
      if (whole.prompt() == head + context[c] + tail) which = c;
    }
    EXPECT_LT(which, 3u) << whole.prompt();
    places.insert(which);
  }
  EXPECT_GE(places.size(), 2u) << "depth is spread over samples";
}

TEST(Niah, AnEssayOfNoStepIsEmpty) {
  TaskOptions options = Small("niah_single_2", 512);
  options.haystack = Essay();
  options.repeat_haystack = true;
  const Whole whole = ReadWhole(*Make(options), 0);
  EXPECT_THAT(whole.text, HasSubstr(absl::StrCat("afterwards.\n One of the special magic numbers "
                                                 "for ",
                                                 Key(whole), " is: ", whole.answer(0), ". \n")));
}

TEST(Niah, MultikeyOneHidesFourKeysAndAsksForOne) {
  TaskOptions options = Small("niah_multikey_1", 1000);
  options.haystack = Essay();
  options.repeat_haystack = true;
  options.haystack_step = 6;
  const Whole whole = ReadWhole(*Make(options), 1);
  const std::regex needle("One of the special magic numbers for ([a-z-]+) is: ([0-9]{7})\\.");
  std::map<std::string, std::string> told;
  for (std::sregex_iterator at(whole.text.begin(), whole.text.end(), needle), end; at != end; ++at)
    told[(*at)[1]] = (*at)[2];
  EXPECT_EQ(told.size(), 4u);
  EXPECT_EQ(told[Key(whole)], whole.answer(0));
  EXPECT_EQ(whole.questions[0].references.size(), 1u);
  EXPECT_THAT(whole.prompt(), HasSubstr("A special magic number is hidden"));
}

TEST(Niah, MultikeyTwoAndThreeAreNeedlesAmongNeedles) {
  for (const auto& [name, type, key_pattern, value_pattern] :
       {std::tuple("niah_multikey_2", "number", "[a-z]+-[a-z]+", "[0-9]{7}"),
        std::tuple("niah_multikey_3", "uuid", "[0-9a-f-]{36}", "[0-9a-f-]{36}")}) {
    const Whole whole = ReadWhole(*Make(Small(name, 2048)), 0);
    const std::string key = Key(whole);
    const std::string body = whole.text.substr(whole.text.find('\n') + 1);
    const std::regex line(absl::StrCat("One of the special magic ", type, "s for (", key_pattern,
                                       ") is: (", value_pattern, ")\\.\n"));
    size_t lines = 0, asked = 0, matched = 0;
    for (std::sregex_iterator at(body.begin(), body.end(), line), end; at != end; ++at) {
      ++lines;
      matched += (*at)[0].length();
      if ((*at)[1] != key) continue;
      ++asked;
      EXPECT_EQ((*at)[2], whole.answer(0));
    }
    EXPECT_EQ(matched, body.size()) << body;
    EXPECT_EQ(lines % 5, 1u) << "steps of five lines and the needle";
    EXPECT_EQ(asked, 1u);
  }
}

TEST(Niah, MultivalueAndMultiqueryAskForFourInThePlural) {
  for (const std::string name : {"niah_multivalue", "niah_multiquery"}) {
    TaskOptions options = Small(name, 1100);
    options.haystack = Essay();
    options.repeat_haystack = true;
    options.haystack_step = 3;
    const Whole whole = ReadWhole(*Make(options), 2);
    const std::string keys = Key(whole);
    EXPECT_EQ(whole.text.find("Some special magic numbers are hidden within the following text. "
                              "Make sure to memorize it. I will quiz you about the numbers "
                              "afterwards.\n"),
              0u);
    EXPECT_EQ(whole.questions[0].text, "What are all the special magic numbers for " + keys +
                                           " mentioned in the provided text?");
    EXPECT_EQ(whole.questions[0].answer_prefix,
              " The special magic numbers for " + keys + " mentioned in the provided text are");
    EXPECT_THAT(keys, MatchesRegex(name == "niah_multivalue"
                                       ? "[a-z]+-[a-z]+"
                                       : "[a-z]+-[a-z]+, [a-z]+-[a-z]+, [a-z]+-[a-z]+, and "
                                         "[a-z]+-[a-z]+"));
    ASSERT_EQ(whole.questions[0].references.size(), 4u);
    for (const Reference& reference : whole.questions[0].references) {
      const std::string before = whole.text.substr(0, whole.marks.at(reference.mark));
      EXPECT_TRUE(before.ends_with(" is: " + reference.text + ".")) << before;
    }
  }
}

TEST(VariableTracking, OneExampleThenTheChain) {
  const auto task = Make(Small("variable_tracking", 3000));
  const Whole whole = ReadWhole(*task, 0);
  const std::string instruction =
      "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n";
  const std::string prompt = whole.prompt();
  const size_t second = prompt.find(instruction, 1);
  ASSERT_EQ(prompt.find(instruction), 0u);
  ASSERT_NE(second, std::string::npos);
  const std::string example = prompt.substr(0, second), own = prompt.substr(second);
  EXPECT_TRUE(std::regex_search(
      example, std::regex("\nQuestion: Find all variables that are assigned the value ([0-9]{5}) "
                          "in the text above\\. Answer: According to the chain\\(s\\) of variable "
                          "assignment in the text above, 5 variables are assgined the value \\1, "
                          "they are:  [A-Z]{3} [A-Z]{3} [A-Z]{3} [A-Z]{3} [A-Z]{3}\n\n\n\n$")))
      << example;
  // The prompt itself, put together from its chain: noise lines and assignments joined by blanks.
  ASSERT_EQ(whole.questions[0].references.size(), 5u);
  std::smatch match;
  ASSERT_TRUE(std::regex_search(own, match, std::regex("VAR ([A-Z]{5}) = ([0-9]{5}) ")));
  const std::string value = match[2];
  std::vector<std::string> assignments = {"VAR " + whole.answer(0) + " = " + value};
  for (size_t i = 1; i < 5; ++i) {
    assignments.push_back("VAR " + whole.answer(i) + " = VAR " + whole.answer(i - 1) + " ");
  }
  std::string expected = instruction, context = own.substr(instruction.size());
  context = context.substr(0, context.find("\nQuestion:"));
  size_t next = 0, noise = 0;
  std::string joined;
  while (joined.size() < context.size()) {
    if (!joined.empty()) joined += " ";
    const bool chain = next < 5 && context.substr(joined.size()).starts_with(assignments[next]);
    joined += chain ? assignments[next++] : kNoise + "\n";
    noise += chain ? 0 : 1;
  }
  EXPECT_EQ(joined, context);
  EXPECT_EQ(next, 5u);
  EXPECT_EQ(noise, 10u);
  expected += context + "\nQuestion: Find all variables that are assigned the value " + value +
              " in the text above. Answer: According to the chain(s) of variable assignment in "
              "the text above, 5 variables are assgined the value " +
              value + ", they are:";
  EXPECT_EQ(own, expected);
  EXPECT_EQ(whole.questions[0].max_tokens, 30u);
}

TEST(LandmarkPasskey, IsOneKeyInTheNoiseLine) {
  const auto task = Make(Small("passkey", 700));
  const Whole whole = ReadWhole(*task, 3);
  const std::string key = whole.answer(0);
  EXPECT_THAT(key, MatchesRegex("[1-9][0-9]{0,4}"));
  EXPECT_LE(std::stoul(key), 50000u);
  // 700 - 16 generated - 150 task - 59 key (five digits, line feed) - 21 question leave 454 bytes:
  // five lines of 90.
  ASSERT_EQ(key.size(), 5u) << "choose another sample";
  std::vector<std::string> lines(5, kNoise);
  const size_t place = LineOf(whole.text, "The pass key is ");
  lines.insert(lines.begin() + place,
               "The pass key is " + key + ". Remember it. " + key + " is the pass key.");
  std::string expected =
      "There is an important info hidden inside a lot of irrelevant text. Find it and memorize "
      "them. I will quiz you about the important information there.\n";
  for (const std::string& line : lines) expected += line + "\n";
  expected += "What is the pass key? The pass key is";
  EXPECT_EQ(whole.prompt(), expected);
  EXPECT_EQ(whole.questions[0].scoring, Scoring::kFirstInteger);
}

// Tokens of the prompt without answer prefix, plus those generated; one step more would not fit
// with the answer.
TEST(Sizing, TheLargestHaystackThatLeavesRoomToAnswer) {
  for (const uint64_t length : {1100u, 1499u, 1500u, 4095u, 4096u, 9000u}) {
    const uint64_t step = length < 4096 ? 5 : 25;
    const auto task = Make(Small("niah_single_1", length, 40));
    for (uint64_t i = 0; i < 40; ++i) {
      const Whole whole = ReadWhole(*task, i);
      const uint64_t used = whole.text.size() + whole.questions[0].text.size() + 128;
      EXPECT_LE(used, length);
      // A sample may have been shrunk by one step; keys differ by at most 20 bytes, told twice.
      EXPECT_GT(used + 2 * step * 90 + 7 + 40, length);
      const uint64_t lines = std::count(whole.text.begin(), whole.text.end(), '\n') - 2;
      EXPECT_EQ(lines % step, 0u);
    }
  }
}

TEST(Sizing, BosCountsAndALengthTooSmallIsRefusedWithTheLengthNeeded) {
  TaskOptions options = Small("niah_single_1", 100);
  const std::string refusal = Refusal(options);
  EXPECT_THAT(refusal, HasSubstr("length: 100 tokens are too few for niah_single_1"));
  std::smatch match;
  ASSERT_TRUE(std::regex_search(refusal, match, std::regex("it takes ([0-9]+)")));
  options.length = std::stoul(match[1]);
  EXPECT_EQ(Refusal(options), "ok");
  options.bos = true;
  EXPECT_THAT(Refusal(options), HasSubstr("too few"));
  EXPECT_THAT(Refusal(Small("variable_tracking", 1500)), HasSubstr("length: 1500"));
  EXPECT_THAT(Refusal(Small("passkey", 50)), HasSubstr("length: 50"));
}

TEST(Sizing, AnEssayThatEndsTooEarlyIsRefusedUnlessRepeated) {
  TaskOptions options = Small("niah_single_2", 3000);
  options.haystack = Essay();
  options.haystack_step = 5;
  EXPECT_THAT(Refusal(options), HasSubstr("haystack: 13 words are too few"));
  options.repeat_haystack = true;
  const Whole whole = ReadWhole(*Make(options), 0);
  EXPECT_GT(whole.text.size(), 2000u);
  EXPECT_THAT(whole.text, HasSubstr("Yes, it was. Dr. Ada wrote this. It was long!"));
}

TEST(Tasks, TheSeedDecidesEveryTextAndDepthsCoverAll) {
  for (const std::string name :
       {"passkey", "niah_single_1", "niah_multikey_2", "niah_multikey_3", "variable_tracking"}) {
    TaskOptions options = Small(name, 4096, 20);
    const auto a = Make(options), b = Make(options);
    options.seed = 43;
    const auto c = Make(options);
    std::set<size_t> deciles;
    for (uint64_t i = 0; i < 20; ++i) {
      const Whole whole = ReadWhole(*a, i);
      EXPECT_EQ(whole.prompt(), ReadWhole(*b, i).prompt());
      EXPECT_NE(whole.prompt(), ReadWhole(*c, i).prompt());
      deciles.insert(10 * whole.marks.at(0) / whole.text.size());
    }
    if (name == "passkey") {
      EXPECT_EQ(deciles.size(), 10u);
    }
  }
}

TEST(Tasks, LongTextsComeInPiecesThatEndWhereTokenizersSplit) {
  TaskOptions options = Small("niah_multikey_1", 200'000);
  options.haystack = Essay();
  options.repeat_haystack = true;
  const Whole whole = ReadWhole(*Make(options), 0);
  EXPECT_GT(whole.pieces.size(), 8u);
  for (size_t i = 0; i < whole.pieces.size(); ++i) {
    EXPECT_LE(whole.pieces[i].size(), kPieceBytes + 256);
    EXPECT_NE(whole.pieces[i].back(), ' ');
    if (i > 0) {
      EXPECT_EQ(whole.pieces[i].front(), ' ');
    }
  }
}

TEST(Tasks, BadInputIsRefusedByName) {
  EXPECT_THAT(Refusal(Small("niah_single_9", 4096)),
              HasSubstr("task: \"niah_single_9\" is unknown; known: passkey, "));
  EXPECT_THAT(Refusal(Small("niah_single_2", 4096)), HasSubstr("--haystack FILE"));
  TaskOptions options = Small("niah_single_2", 4096);
  options.haystack = "no/such/essay.txt";
  EXPECT_THAT(Refusal(options), HasSubstr("no/such/essay.txt"));
  options.haystack = WriteFile("blank.txt", " \n ");
  EXPECT_THAT(Refusal(options), HasSubstr("holds no word"));
  options = Small("niah_single_1", 4096);
  options.haystack = "essay.txt";
  EXPECT_THAT(Refusal(options), HasSubstr("has a haystack of its own"));
  options = Small("passkey", 4096);
  options.words = "words.json";
  EXPECT_THAT(Refusal(options), HasSubstr("draws no words"));
}

TEST(WordsFile, IsCheckedAndReplacesTheBuiltInList) {
  TaskOptions options = Small("niah_single_1", 2048);
  options.words = WriteFile("words.json", "");
  EXPECT_THAT(Refusal(options), HasSubstr("not a JSON object"));
  WriteFile("words.json", R"({"adjectives": [], "nouns": ["sea"]})");
  EXPECT_THAT(Refusal(options), HasSubstr("adjectives"));
  WriteFile("words.json", R"({"adjectives": ["a b"], "nouns": ["sea"]})");
  EXPECT_THAT(Refusal(options), HasSubstr("\"a b\""));
  WriteFile("words.json", R"({"adjectives": ["red", "red"], "nouns": ["sea"]})");
  EXPECT_THAT(Refusal(options), HasSubstr("adjectives: \"red\" stands twice"));
  WriteFile("words.json", R"({"adjectives": ["red"], "nouns": ["sea"]})");
  EXPECT_THAT(Refusal(options), HasSubstr("give 1 keys"));
  std::string nouns = "\"n0\"";
  for (int i = 1; i < 64; ++i) absl::StrAppend(&nouns, ",\"n", i, "\"");
  WriteFile("words.json", R"({"adjectives": ["red"], "nouns": [)" + nouns + "]}");
  EXPECT_THAT(Key(ReadWhole(*Make(options), 0)), MatchesRegex("red-n[0-9]+"));
}

TEST(Haystack, SplitsSentencesWhereTheyEnd) {
  const auto haystack = Haystack::Parse(
      "Mr. Fox met J. Doe at 3.5 km. \"Stop!\" he said. E.g. this (too.) Yes? no", "x");
  ASSERT_TRUE(haystack.ok());
  std::vector<std::string> sentences;
  for (uint64_t i = 0; i < haystack->sentences(); ++i) sentences.push_back(haystack->Sentence(i));
  EXPECT_THAT(sentences,
              ::testing::ElementsAre("Mr. Fox met J. Doe at 3.5 km.", "\"Stop!\" he said.",
                                     "E.g. this (too.)", "Yes? no"));
  EXPECT_EQ(haystack->SentencesIn(8), 1u);
  EXPECT_EQ(haystack->SentencesIn(9), 2u);
  EXPECT_EQ(haystack->Sentence(1, 9), "\"Stop!\"");
  EXPECT_EQ(haystack->SentencesIn(0), 0u);
}

}  // namespace
}  // namespace lola::evaluate
