#include "memory/ids.h"

#include <gtest/gtest.h>

#include "memory/limits.h"

namespace lola::memory {
namespace {

// Computed with the reference xxhsum tool's algorithm: where data lies must never change.
TEST(PartitionOf, IsXxh64OfTheIdModuloPartitions) {
  EXPECT_EQ(PartitionOf("", 1u << 16), 0xef46db3751d8e999ull % (1u << 16));
  EXPECT_EQ(PartitionOf("a", 1u << 16), 0xd24ec4f1a98c6e5bull % (1u << 16));
  EXPECT_EQ(PartitionOf("abc", 64), 0x44bc2cf5ad770999ull % 64);
}

TEST(ValidateStreamId, TakesNamesPeopleUse) {
  for (const char* id : {"a", "agent-7", "tenant/session:12", "Grüße", "a b"}) {
    EXPECT_TRUE(ValidateStreamId("stream_id", id).ok()) << id;
  }
  EXPECT_TRUE(ValidateStreamId("stream_id", std::string(kStreamIdBytesMax, 'x')).ok());
}

TEST(ValidateStreamId, RefusesBadNamesNamingFieldAndValue) {
  const std::string too_long(kStreamIdBytesMax + 1, 'x');
  for (const std::string& id :
       {std::string(), too_long, std::string("a\nb"), std::string("a\0b", 3), std::string(" a"),
        std::string("a "), std::string("\x7f")}) {
    const absl::Status status = ValidateStreamId("new_stream_id", id);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << id;
    EXPECT_NE(std::string(status.message()).find("new_stream_id"), std::string::npos);
  }
}

TEST(Quoted, EscapesAndShortens) {
  EXPECT_EQ(Quoted("a\"b\\\n"), "\"a\\\"b\\\\\\x0a\"");
  EXPECT_EQ(Quoted(std::string(200, 'x')), "\"" + std::string(80, 'x') + "...\"");
}

// Protobuf refuses a whole message for half a character in one of its strings.
TEST(Quoted, CutsBetweenCharacters) {
  const std::string euro = "\xe2\x82\xac";
  for (size_t before = 0; before < 4; ++before) {
    std::string value(77 + before, 'x');
    for (int i = 0; i < 20; ++i) value += euro;
    const std::string wanted = std::string(77 + before, 'x') + (before == 0 ? euro : "");
    EXPECT_EQ(Quoted(value), "\"" + wanted + "...\"") << before;
  }
  EXPECT_EQ(Quoted(std::string(77, 'x') + euro), "\"" + std::string(77, 'x') + euro + "\"");
  EXPECT_EQ(Quoted(std::string(200, '\x80')).size(), 77u + 5) << "no character at all";
}

}  // namespace
}  // namespace lola::memory
