// fixtures_test.cc compares with Hugging Face tokenizers; here are places, limits and speed.
#include "services/engine/tokenizer/unicode_form.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "services/engine/tokenizer/normalizer.h"

namespace lola::engine {
namespace {

using ::testing::ElementsAre;

std::string Made(UnicodeForm form, std::string_view text) {
  std::string made;
  size_t at = 0;
  NormalizeUnicode(form, text, [&](std::string_view part, size_t begin, size_t end, bool same) {
    EXPECT_EQ(begin, at);
    EXPECT_LT(begin, end);
    EXPECT_EQ(same, part == text.substr(begin, end - begin));
    made += part;
    at = end;
  });
  EXPECT_EQ(at, text.size());
  return made;
}

Normalizer Parsed(const Json& value) {
  auto made = Normalizer::Parse({{"normalizer", value}});
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

TEST(UnicodeForm, TheFourForms) {
  const std::string text = "e\u0301 \uFB01x \u212B";  // e and acute, fi in one letter, Angstrom
  EXPECT_EQ(Made(UnicodeForm::kNfc, text), "\u00E9 \uFB01x \u00C5");
  EXPECT_EQ(Made(UnicodeForm::kNfd, text), "e\u0301 \uFB01x A\u030A");
  EXPECT_EQ(Made(UnicodeForm::kNfkc, text), "\u00E9 fix \u00C5");
  EXPECT_EQ(Made(UnicodeForm::kNfkd, text), "e\u0301 fix A\u030A");
  EXPECT_EQ(Made(UnicodeForm::kNfd, "\uAC01"), "\u1100\u1161\u11A8");
  EXPECT_EQ(Made(UnicodeForm::kNfc, "\u1100\u1161\u11A8"), "\uAC01");
  for (const UnicodeForm form : {UnicodeForm::kNfc, UnicodeForm::kNfkd}) {
    EXPECT_EQ(Made(form, ""), "");
    EXPECT_EQ(Made(form, "plain"), "plain");
  }
  EXPECT_EQ(ParseUnicodeForm("NFKC"), UnicodeForm::kNfkc);
  EXPECT_EQ(ParseUnicodeForm("nfc"), std::nullopt);
}

// A mark of Unicode 14 stands between two that would change places.
TEST(UnicodeForm, LaterCharactersPassAndPartTheirNeighbours) {
  const std::string text = "e\u0301\u0898\u0323";
  EXPECT_EQ(Made(UnicodeForm::kNfd, text), text);
  EXPECT_EQ(Made(UnicodeForm::kNfc, text), "\u00E9\u0898\u0323");
  EXPECT_EQ(Made(UnicodeForm::kNfkd, "\u32FF"), "\u32FF");  // the era of 2019
  EXPECT_EQ(Made(UnicodeForm::kNfd, "e\u0301\u0323"), "e\u0323\u0301");
}

TEST(UnicodeForm, TimeIsNotTheSquareOfARunOfMarks) {
  std::string text = "a";
  for (int i = 0; i < 500'000; ++i) text += i % 2 == 0 ? "\u0301" : "\u0323";
  const std::string made = Made(UnicodeForm::kNfd, text);
  ASSERT_EQ(made.size(), text.size());
  EXPECT_EQ(made.substr(0, 5), "a\u0323\u0323");
  EXPECT_EQ(made.substr(made.size() - 4), "\u0301\u0301");
}

TEST(Normalizer, OriginsOfWhatWasPutTogether) {
  const Normalizer nfc = Parsed({{"type", "NFC"}});
  std::vector<size_t> origins;
  EXPECT_EQ(nfc.Apply("xe\u0301y", true, {}, &origins), "x\u00E9y");
  EXPECT_THAT(origins, ElementsAre(0, 1, 1, 4));
  EXPECT_EQ(nfc.Apply("xe\u0301y", true, {2}, &origins), "xe\u0301y");
  EXPECT_THAT(origins, ElementsAre(0, 1, 2, 3, 4));
  const Normalizer all =
      Parsed({{"type", "Sequence"},
              {"normalizers",
               {{{"type", "Prepend"}, {"prepend", "__"}},
                {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}},
                {{"type", "NFKC"}}}}});
  EXPECT_EQ(all.Apply(" \uFF1E", true, {1}, &origins), "__\u2581>");
  EXPECT_THAT(origins, ElementsAre(0, 0, 0, 0, 0, 1));
  EXPECT_EQ(all.Apply(" \uFF1E", true), "__\u2581>");
  EXPECT_EQ(all.Apply(" \uFF1E", false), "\u2581>");
  EXPECT_TRUE(all.prepends());
  EXPECT_FALSE(nfc.prepends());
}

}  // namespace
}  // namespace lola::engine
