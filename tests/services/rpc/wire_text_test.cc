#include "services/rpc/wire_text.h"

#include <gtest/gtest.h>

#include "lola/v1/inference.pb.h"

namespace lola::rpc {
namespace {

TEST(Utf8, ValidTextPasses) {
  for (const char* text : {"", "plain", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x90\x88",
                           "\xf4\x8f\xbf\xbf", "\xed\x9f\xbf", "\xee\x80\x80"}) {
    EXPECT_EQ(InvalidUtf8Offset(text), std::nullopt) << text;
  }
}

TEST(Utf8, OffsetOfTheFirstBadByte) {
  EXPECT_EQ(InvalidUtf8Offset("ab\xff"), 2u);
  EXPECT_EQ(InvalidUtf8Offset("\x80"), 0u);
  EXPECT_EQ(InvalidUtf8Offset("a\xe2\x82"), 1u);         // cut
  EXPECT_EQ(InvalidUtf8Offset("a\xe2\x82 b"), 1u);       // broken
  EXPECT_EQ(InvalidUtf8Offset("\xc0\xaf"), 0u);          // overlong
  EXPECT_EQ(InvalidUtf8Offset("\xe0\x80\xaf"), 0u);      // overlong
  EXPECT_EQ(InvalidUtf8Offset("xy\xed\xa0\x80"), 2u);    // surrogate
  EXPECT_EQ(InvalidUtf8Offset("\xf4\x90\x80\x80"), 0u);  // above U+10FFFF
  EXPECT_EQ(InvalidUtf8Offset("\xf5\x80\x80\x80"), 0u);
}

// A valid message with one text byte replaced, as a careless client would send it.
std::string Broken(const std::string& from, const v1::StreamRequest& request) {
  std::string bytes = request.SerializeAsString();
  const size_t at = bytes.find(from);
  EXPECT_NE(at, std::string::npos);
  bytes[at + 2] = '\xff';
  return bytes;
}

TEST(FindInvalidText, NamesFieldAndOffset) {
  v1::StreamRequest request;
  request.mutable_append()->set_text("marker text");
  const std::string bytes = Broken("marker", request);
  v1::StreamRequest parsed;
  EXPECT_FALSE(parsed.ParseFromString(bytes)) << "proto3 refuses it without a reason";
  EXPECT_EQ(FindInvalidText(*v1::StreamRequest::descriptor(), bytes),
            "append.text: invalid UTF-8 at byte 2");
}

TEST(FindInvalidText, SeesMapsAndNestedMessages) {
  v1::StreamRequest request;
  (*request.mutable_open()->mutable_labels())["colour"] = "marker";
  EXPECT_EQ(FindInvalidText(*v1::StreamRequest::descriptor(), Broken("marker", request)),
            "open.labels.value: invalid UTF-8 at byte 2");
}

TEST(FindInvalidText, ValidMessagesAndGarbageGiveNothing) {
  v1::StreamRequest request;
  request.mutable_append()->set_text("fine");
  EXPECT_EQ(FindInvalidText(*v1::StreamRequest::descriptor(), request.SerializeAsString()), "");
  for (std::string bytes : {std::string("\xff\xff\xff\xff\xff"), std::string("\x1a\xff"),
                            std::string("\x1a\x05\x0a"), std::string(64, '\x0b')}) {
    EXPECT_EQ(FindInvalidText(*v1::StreamRequest::descriptor(), bytes), "");
  }
}

}  // namespace
}  // namespace lola::rpc
