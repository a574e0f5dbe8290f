#include "services/engine/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "services/engine/byte_tokenizer.h"
#include "services/engine/utf8.h"

namespace lola::engine {
namespace {

using ::testing::HasSubstr;

std::string Text(const absl::Status& status) { return std::string(status.message()); }

std::string TinyTokenizerJson() {
  std::ifstream in(LOLA_SOURCE_DIR "/tests/testdata/parity/tiny_model/tokenizer.json");
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

// Every split of the bytes into two pushes must give the same text.
std::string DecodeAllWays(const std::string& bytes) {
  TextDecoder whole;
  std::string expected = whole.Push(bytes);
  expected += whole.Finish();
  for (size_t cut = 0; cut <= bytes.size(); ++cut) {
    TextDecoder parts;
    std::string text = parts.Push(bytes.substr(0, cut));
    EXPECT_TRUE(CheckUtf8(text, "text").ok());
    text += parts.Push(bytes.substr(cut));
    text += parts.Finish();
    EXPECT_EQ(text, expected) << "cut at " << cut;
  }
  return expected;
}

TEST(CheckUtf8, AcceptsWhatUnicodeAllows) {
  EXPECT_TRUE(CheckUtf8("", "t").ok());
  EXPECT_TRUE(CheckUtf8("plain \x7f", "t").ok());
  EXPECT_TRUE(CheckUtf8("\xC2\x80 \xDF\xBF \xE0\xA0\x80 \xED\x9F\xBF \xEE\x80\x80", "t").ok());
  EXPECT_TRUE(CheckUtf8("\xF0\x90\x80\x80 \xF4\x8F\xBF\xBF", "t").ok());
}

TEST(CheckUtf8, NamesFieldAndOffsetOfTheFirstBadByte) {
  EXPECT_THAT(Text(CheckUtf8("ab\xFF", "append.text")), HasSubstr("append.text"));
  EXPECT_THAT(Text(CheckUtf8("ab\xFF", "append.text")), HasSubstr("byte 2 (value 0xff) of 3"));
  for (const char* bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xC2", "\xE0\x9F\xBF", "\xED\xA0\x80",
                          "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xE2\x82"}) {
    EXPECT_EQ(CheckUtf8(bad, "t").code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(TextDecoder, NeverShowsHalfACharacter) {
  TextDecoder decoder;
  EXPECT_EQ(decoder.Push("a\xE2"), "a");
  EXPECT_EQ(decoder.Push("\x82"), "");
  EXPECT_EQ(decoder.pending(), 2u);
  EXPECT_EQ(decoder.Push("\xAC!"), "\xE2\x82\xAC!");
  EXPECT_EQ(decoder.Finish(), "");
}

TEST(TextDecoder, ReplacesEachMaximalBadPartOnce) {
  const std::string r(kReplacementCharacter);
  EXPECT_EQ(DecodeAllWays("a\xFF"
                          "b"),
            "a" + r + "b");
  EXPECT_EQ(DecodeAllWays("\xE2\x82"
                          "x"),
            r + "x");
  EXPECT_EQ(DecodeAllWays("\xF0\x9F\x98"), r);
  EXPECT_EQ(DecodeAllWays("\xED\xA0\x80"), r + r + r);
  EXPECT_EQ(DecodeAllWays("\xF0\x9F\x98\x80\xC3\xA9"), "\xF0\x9F\x98\x80\xC3\xA9");
  EXPECT_EQ(DecodeAllWays("\xC3\xC3\xA9"), r + "\xC3\xA9");
}

TEST(ByteTokenizer, ReadsTheReferenceVocabulary) {
  const auto tokenizer = ParseTokenizer(TinyTokenizerJson());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->kind(), "byte-level");
  EXPECT_EQ((*tokenizer)->size(), 259u);
  EXPECT_EQ((*tokenizer)->SpecialId("<bos>"), 256);
  EXPECT_EQ((*tokenizer)->SpecialId("<eos>"), 257);
  EXPECT_EQ((*tokenizer)->SpecialId("<unk>"), std::nullopt);
  std::string all;
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ((*tokenizer)->TokenBytes(byte), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ((*tokenizer)->TokenBytes(256), "");
  EXPECT_EQ((*tokenizer)->TokenBytes(-1), "");
  EXPECT_EQ((*tokenizer)->TokenBytes(100000), "");
}

TEST(ByteTokenizer, EncodesBytesAndRefusesInvalidText) {
  const auto tokenizer = MakeByteTokenizer();
  const auto ids = tokenizer->Encode("h\xC3\xA9");
  ASSERT_TRUE(ids.ok());
  EXPECT_THAT(*ids, ::testing::ElementsAre('h', 0xC3, 0xA9));
  EXPECT_EQ(tokenizer->Encode("\xC3").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ByteTokenizer, RefusesOtherKindsByName) {
  const std::string good = TinyTokenizerJson();
  const auto error = [](const std::string& json) { return ParseTokenizer(json).status(); };
  EXPECT_THAT(Text(error(Replaced(good, "\"BPE\"", "\"Unigram\""))),
              HasSubstr("model.type: \"Unigram\" (known: BPE"));
  EXPECT_EQ(error(Replaced(good, "\"BPE\"", "\"Unigram\"")).code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_THAT(Text(error(Replaced(good, "\"merges\": []", "\"merges\": [\"a b\"]"))),
              HasSubstr("model.merges"));
  EXPECT_THAT(
      Text(error(Replaced(good, "\"normalizer\": null", "\"normalizer\": {\"type\":\"NFC\"}"))),
      HasSubstr("normalizer"));
  EXPECT_THAT(Text(error(Replaced(good, "\"type\": \"ByteLevel\"", "\"type\": \"Metaspace\""))),
              HasSubstr("Metaspace"));
}

TEST(ByteTokenizer, NamesWhatIsWrongWithAVocabulary) {
  const std::string good = TinyTokenizerJson();
  const auto error = [](const std::string& json) { return Text(ParseTokenizer(json).status()); };
  EXPECT_THAT(error("{"), HasSubstr("not a JSON object"));
  EXPECT_THAT(error("{}"), HasSubstr("model: missing"));
  const std::string nest = std::string(200'000, '[') + std::string(200'000, ']');
  EXPECT_THAT(error("{\"model\":{\"type\":" + nest + "}}"), HasSubstr("nested deeper than 128"));
  EXPECT_THAT(error(Replaced(good, "\"A\": 65", "\"A\": 66")), HasSubstr("id 66 stands twice"));
  EXPECT_THAT(error(Replaced(good, "\"A\": 65", "\"A\": -1")), HasSubstr("model.vocab.A: -1"));
  EXPECT_THAT(error(Replaced(good, "\"A\": 65", "\"ABC\": 65")), HasSubstr("no entry for byte 65"));
  EXPECT_THAT(error(Replaced(good, "\"A\": 65", "\"A\": 65, \"AB\": 300")),
              HasSubstr("260 entries"));
  EXPECT_THAT(error(Replaced(good, "\"id\": 257", "\"id\": 7")),
              HasSubstr("7 is the id of a byte"));
}

}  // namespace
}  // namespace lola::engine
