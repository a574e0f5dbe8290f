#include "services/engine/tokenizer/bpe_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <random>

namespace lola::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Json File(const std::string& name) {
  std::ifstream in(LOLA_SOURCE_DIR "/tests/testdata/tokenizer/" + name);
  return Json::parse(std::string(std::istreambuf_iterator<char>(in), {}));
}

std::unique_ptr<Tokenizer> Load(const Json& file, std::string_view config = {}) {
  auto tokenizer = ParseTokenizer(file.dump(), config);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::vector<int32_t> Ids(const Tokenizer& tokenizer, std::string_view text,
                         const EncodeOptions& options = {}) {
  auto ids = tokenizer.Encode(text, options);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.ok() ? *std::move(ids) : std::vector<int32_t>();
}

std::string Refusal(const Json& file, std::string_view config = {}) {
  return std::string(ParseTokenizer(file.dump(), config).status().message());
}

TEST(BpeTokenizer, ControlTokensAreTextUnlessTheCallerWroteThem) {
  const auto tokenizer = Load(File("byte_level.json"));
  const int32_t end = *tokenizer->SpecialId("<|eot_id|>");
  const std::string text = "a<|eot_id|>b<|eot_id|>";
  EXPECT_THAT(Ids(*tokenizer, text), ::testing::Not(::testing::Contains(end)));
  EXPECT_EQ(DecodeAll(*tokenizer, Ids(*tokenizer, text)), text);
  const auto trusted = Ids(*tokenizer, text, {true, {{12, 22}}});
  EXPECT_EQ(std::count(trusted.begin(), trusted.end(), end), 1);
  EXPECT_EQ(trusted.back(), end);
  // A range that ends inside the spelling does not count, nor does one that begins there.
  EXPECT_THAT(Ids(*tokenizer, text, {true, {{12, 21}}}), ::testing::Not(::testing::Contains(end)));
  EXPECT_THAT(Ids(*tokenizer, text, {true, {{13, 22}}}), ::testing::Not(::testing::Contains(end)));
  // Spelled like one: steers the model, though its file forgot the mark.
  EXPECT_THAT(Ids(*tokenizer, "<|im_start|>"),
              ::testing::Not(::testing::Contains(*tokenizer->SpecialId("<|im_start|>"))));
}

TEST(BpeTokenizer, NoMergeAndNoWholeWordIsAControlToken) {
  Json file = File("sentencepiece.json");
  Json& model = file["model"];
  const auto id = model["vocab"].size();
  model["vocab"]["</"] = id;
  model["merges"].push_back({"<", "/"});
  model["vocab"]["s>"] = id + 1;
  model["merges"].push_back({"s", ">"});
  model["merges"].push_back({"</", "s>"});
  file["normalizer"] = nullptr;
  for (const bool whole : {false, true}) {
    model["ignore_merges"] = whole;
    const auto tokenizer = Load(file);
    ASSERT_EQ(tokenizer->SpecialId("</s>"), 2);
    EXPECT_THAT(Ids(*tokenizer, "</s>"), ElementsAre(int(id), int(id) + 1));
    EXPECT_THAT(Ids(*tokenizer, "</s>", {true, {{0, 4}}}), ElementsAre(2));
  }
}

TEST(BpeTokenizer, NormalizedControlTokensKeepToTheirRange) {
  Json file = File("sentencepiece.json");
  for (Json& token : file["added_tokens"]) token["normalized"] = true;
  const auto tokenizer = Load(file);
  // The sign in front belongs to the pattern then: only one at the beginning is found.
  const std::string text = "<s> state </s>";
  EXPECT_EQ(Ids(*tokenizer, text, {true, {{0, 3}}}).front(), 1);
  EXPECT_NE(Ids(*tokenizer, text, {true, {{3, text.size()}}}).front(), 1);
  EXPECT_EQ(Ids(*tokenizer, text, {true, {{0, text.size()}}}).back(), 2);
  EXPECT_NE(Ids(*tokenizer, text, {true, {{0, 10}}}).back(), 2);
}

// Compatibility forms make ASCII of other characters: those of users make no control token, and
// marks behind a template's token do not change it.
TEST(BpeTokenizer, UnicodeFormsMakeNoControlToken) {
  Json file = File("sentencepiece.json");
  for (Json& token : file["added_tokens"]) token["normalized"] = true;
  file["normalizer"] = {{"type", "NFKC"}};
  const auto tokenizer = Load(file);
  const std::string wide = "\uFF1C\uFF0Fs\uFF1E";  // </s> in full width
  const std::string begin = "<s>";
  const std::string all = begin + wide;
  EXPECT_THAT(Ids(*tokenizer, all, {true, {{0, all.size()}}}), ElementsAre(1, 2));
  for (const size_t vouched : {begin.size(), begin.size() + 3, all.size() - 3, all.size() - 1}) {
    const auto ids = Ids(*tokenizer, all, {true, {{0, vouched}}});
    EXPECT_EQ(ids.front(), 1) << vouched;
    EXPECT_EQ(std::count(ids.begin(), ids.end(), 2), 0) << vouched;
  }
  const std::string marked = begin + "\u0338" + begin;  // > and the mark make one character
  const auto ids = Ids(*tokenizer, marked, {true, {{0, 3}, {5, 8}}});
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(ids.back(), 1);
}

// [/INST] takes the space behind it, in which another added token (three spaces) begins; ids are
// those of Hugging Face tokenizers 0.23.3.
TEST(BpeTokenizer, AddedTokensWithinSpaceThatAnotherTook) {
  const auto tokenizer = Load(File("byte_level.json"));
  EXPECT_THAT(Ids(*tokenizer, "0[/INST]\n    x"), ElementsAre(15, 1011, 1014, 569));
  EXPECT_THAT(Ids(*tokenizer, "0[/INST]     [/INST]x"), ElementsAre(15, 1011, 1014, 592, 1011, 87));
}

TEST(BpeTokenizer, AContinuationGetsNoSpaceInFront) {
  for (const char* scheme : {"", "always", "first", "never"}) {
    Json file = File("sentencepiece.json");
    if (*scheme != 0) {
      file["normalizer"] = nullptr;
      file["pre_tokenizer"] = {{"type", "Metaspace"},
                               {"replacement", "\u2581"},
                               {"prepend_scheme", scheme},
                               {"split", false}};
    }
    const auto tokenizer = Load(file);
    const bool marks = std::string_view(scheme) != "never";
    EXPECT_EQ(tokenizer->marks_start(), marks) << scheme;
    const auto whole = Ids(*tokenizer, "state of memory");
    auto parts = Ids(*tokenizer, "sta");
    for (const int32_t id : Ids(*tokenizer, "te of memory", {false, {}})) parts.push_back(id);
    EXPECT_EQ(DecodeAll(*tokenizer, parts), DecodeAll(*tokenizer, whole)) << scheme;
    EXPECT_EQ(Ids(*tokenizer, "state", {false, {}}) == Ids(*tokenizer, "state"), !marks) << scheme;
  }
  const auto bytes = Load(File("byte_level.json"));
  EXPECT_FALSE(bytes->marks_start());
  EXPECT_FALSE(bytes->drops_leading_space());
}

TEST(BpeTokenizer, TheFirstSpaceOfASequenceIsNotShown) {
  const auto tokenizer = Load(File("sentencepiece.json"));
  EXPECT_TRUE(tokenizer->drops_leading_space());
  for (const std::string text : {"state", " state", "  two", "", "\xE2\x82\xAC", "a\n"}) {
    EXPECT_EQ(DecodeAll(*tokenizer, Ids(*tokenizer, text)), text);
    // <s> shows nothing and does not use the rule up.
    auto ids = Ids(*tokenizer, text);
    ids.insert(ids.begin(), 1);
    EXPECT_EQ(DecodeAll(*tokenizer, ids), text);
  }
  TextDecoder middle;
  EXPECT_EQ(middle.Push(tokenizer->TokenBytes(Ids(*tokenizer, "state").front())).front(), ' ');
}

TEST(BpeTokenizer, ByteTokensWaitForTheirCharacter) {
  const auto tokenizer = Load(File("sentencepiece.json"));
  const auto ids = Ids(*tokenizer, "\xF0\x90\x8D\x88", {false, {}});  // no token of its own
  ASSERT_EQ(ids.size(), 4u);
  TextDecoder decoder;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(decoder.Push(tokenizer->TokenBytes(ids[i])), "");
  EXPECT_EQ(decoder.Push(tokenizer->TokenBytes(ids[3])), "\xF0\x90\x8D\x88");
}

TEST(BpeTokenizer, IdsWithoutAMeaningAreEmpty) {
  const auto tokenizer = Load(File("byte_level.json"));
  EXPECT_EQ(tokenizer->kind(), "byte-level-bpe");
  for (const int32_t id : {-1, 1 << 30, int32_t(tokenizer->size())}) {
    EXPECT_EQ(tokenizer->TokenBytes(id), "");
  }
  EXPECT_EQ(tokenizer->TokenBytes(*tokenizer->SpecialId("<|eot_id|>")), "");
  EXPECT_EQ(tokenizer->SpecialId("state"), std::nullopt);
}

TEST(BpeTokenizer, RefusesTextThatIsNotUtf8) {
  for (const char* name : {"byte_level.json", "sentencepiece.json"}) {
    const auto tokenizer = Load(File(name));
    for (const char* bad : {"\xFF", "a\xC3", "\xED\xA0\x80", "\xC0\x80", "\xF4\x90\x80\x80"}) {
      EXPECT_THAT(std::string(tokenizer->Encode(bad).status().message()),
                  HasSubstr("not valid UTF-8"));
    }
  }
}

TEST(BpeTokenizer, PrefixComesFromThePostProcessorOrTheConfiguration) {
  const Json file = File("byte_level.json");
  const int32_t bos = *Load(file)->SpecialId("<|begin_of_text|>");
  EXPECT_THAT(Load(file)->prefix(), ElementsAre(bos));
  EXPECT_THAT(Load(file, R"({"bos_token":"<|eot_id|>"})")->prefix(), ElementsAre(bos));
  EXPECT_THAT(Load(file, R"({"add_bos_token":false})")->prefix(), ElementsAre());
  Json without = file;
  without["post_processor"] = nullptr;
  EXPECT_THAT(Load(without)->prefix(), ElementsAre());
  EXPECT_THAT(Load(without, R"({"add_bos_token":true,"bos_token":{"content":"<|begin_of_text|>"}})")
                  ->prefix(),
              ElementsAre(bos));
  EXPECT_THAT(Refusal(file, R"({"add_bos_token":true,"bos_token":"<none>"})"),
              HasSubstr("bos_token: \"<none>\""));
  EXPECT_THAT(Refusal(file, R"({"add_bos_token":"yes"})"), HasSubstr("add_bos_token: \"yes\""));
  Json other = file;
  other["post_processor"] = {{"type", "RobertaProcessing"}};
  EXPECT_THAT(Refusal(other), HasSubstr("post_processor.type: \"RobertaProcessing\""));
}

// Merging by definition: the best rank anywhere, leftmost first, until none is left.
std::vector<int32_t> MergeByDefinition(const Json& model, const std::string& word) {
  std::map<std::pair<std::string, std::string>, int> ranks;
  for (size_t i = 0; i < model["merges"].size(); ++i) {
    const auto text = model["merges"][i].get<std::string>();
    ranks[{text.substr(0, text.find(' ')), text.substr(text.find(' ') + 1)}] = int(i);
  }
  std::vector<std::string> parts;
  for (const char c : word) parts.emplace_back(1, c);
  while (true) {
    int best = 1 << 30;
    size_t at = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = ranks.find({parts[i], parts[i + 1]});
      if (found != ranks.end() && found->second < best) best = found->second, at = i;
    }
    if (best == 1 << 30) break;
    parts[at] += parts[at + 1];
    parts.erase(parts.begin() + int64_t(at) + 1);
  }
  std::vector<int32_t> ids;
  for (const std::string& part : parts) ids.push_back(model["vocab"][part]);
  return ids;
}

TEST(BpeModel, LongAndShortWordsFollowTheDefinition) {
  const Json file = File("byte_level.json");
  const auto bpe = BpeModel::Parse(file["model"], true, {});
  ASSERT_TRUE(bpe.ok()) << bpe.status();
  std::mt19937 random(5);
  for (int i = 0; i < 400; ++i) {
    std::string word;
    const size_t size = 1 + random() % (i % 2 == 0 ? 60 : 300);
    while (word.size() < size) word += "aehinorstdlm"[random() % 12];
    std::vector<int32_t> ids;
    bpe->Encode(word, &ids);
    EXPECT_EQ(ids, MergeByDefinition(file["model"], word)) << word;
  }
}

// A quadratic merge would need hours for these; the test's own time limit is minutes.
TEST(BpeTokenizer, AWordOfAMillionLettersIsNoProblem) {
  for (const char* name : {"byte_level.json", "sentencepiece.json", "sentencepiece_cross.json"}) {
    const auto tokenizer = Load(File(name));
    for (const std::string letter : {"a", "state", " ", "\xE2\x96\x81", "\n", "<|eot_id|", "!"}) {
      std::string text;
      while (text.size() < 1 << 20) text += letter;
      EXPECT_EQ(DecodeAll(*tokenizer, Ids(*tokenizer, text)).size() > text.size() / 4, true);
    }
  }
}

TEST(BpeTokenizer, NamesWhatIsWrongWithAFile) {
  const Json good = File("byte_level.json");
  const auto with = [&](const char* pointer, const Json& value) {
    Json file = good;
    file[Json::json_pointer(pointer)] = value;
    return Refusal(file);
  };
  EXPECT_THAT(with("/model/vocab", 7), HasSubstr("model.vocab: 7, must be an object"));
  EXPECT_THAT(with("/model/vocab/e", -3), HasSubstr("model.vocab.e: -3"));
  EXPECT_THAT(with("/model/vocab/e", 1 << 30), HasSubstr("model.vocab.e: 1073741824"));
  EXPECT_THAT(with("/model/vocab/e", good["model"]["vocab"]["f"]), HasSubstr("stands twice"));
  EXPECT_THAT(with("/model/merges/3", "x"), HasSubstr("model.merges[3]: \"x\""));
  EXPECT_THAT(with("/model/merges/3", {"e", 5}), HasSubstr("model.merges[3]"));
  EXPECT_THAT(with("/model/merges/3", "zz qq"), HasSubstr("no \"zz\" in model.vocab"));
  EXPECT_THAT(with("/model/dropout", 0.1), HasSubstr("model.dropout: 0.1"));
  EXPECT_THAT(with("/model/unk_token", "none"), HasSubstr("model.unk_token: \"none\""));
  EXPECT_THAT(with("/model/end_of_word_suffix", "</w>"), HasSubstr("end_of_word_suffix: \"</w>\""));
  EXPECT_THAT(with("/model/byte_fallback", true), HasSubstr("model.byte_fallback: true"));
  EXPECT_THAT(with("/model/ignore_merges", 1), HasSubstr("model.ignore_merges: 1"));
  EXPECT_THAT(with("/added_tokens/0/id", 5), HasSubstr("has the id 5"));
  EXPECT_THAT(with("/added_tokens/0/id", "x"), HasSubstr("added_tokens[0].id: \"x\""));
  EXPECT_THAT(with("/added_tokens/1", 5), HasSubstr("added_tokens[1].: not an object"));
  EXPECT_THAT(with("/normalizer", {{"type", "Lowercase"}}),
              HasSubstr("normalizer.type: \"Lowercase\""));
  EXPECT_THAT(with("/decoder", {{"type", "WordPiece"}}), HasSubstr("WordPiece"));
  EXPECT_THAT(with("/pre_tokenizer/pretokenizers/0/behavior", "MergedWithNext"),
              HasSubstr("pretokenizers[0].behavior: \"MergedWithNext\""));
  EXPECT_THAT(with("/pre_tokenizer/pretokenizers/0/pattern/Regex", "a(?<n>b)"),
              HasSubstr("pretokenizers[0].pattern: the group (?<n at byte 1"));
  EXPECT_THAT(with("/pre_tokenizer/pretokenizers/1/type", "Whitespace"),
              HasSubstr("pretokenizers[1].type: \"Whitespace\""));
  Json no_byte = good;
  no_byte["model"]["vocab"].erase("!");
  EXPECT_THAT(Refusal(no_byte), HasSubstr("model.vocab: no entry for byte 33 (\"!\")"));
}

}  // namespace
}  // namespace lola::engine
