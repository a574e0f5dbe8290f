#include "services/cli/opening.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

namespace lola::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(Labels, KeyValuePairsOnly) {
  const auto labels = ParseLabels({"a=1", "b=", "c=x=y"});
  ASSERT_TRUE(labels.ok());
  EXPECT_EQ(labels->at("a"), "1");
  EXPECT_EQ(labels->at("b"), "");
  EXPECT_EQ(labels->at("c"), "x=y");
  EXPECT_THAT(std::string(ParseLabels({"novalue"}).status().message()), HasSubstr("novalue"));
  EXPECT_FALSE(ParseLabels({"=x"}).ok());
}

TEST(Open, OnlyGivenSettingsAreSent) {
  CliFlags flags;
  flags.stream = "s";
  auto open = OpenFromFlags(flags);
  ASSERT_TRUE(open.ok());
  EXPECT_FALSE(open->has_settings()) << "an existing stream's settings must not be questioned";
  EXPECT_TRUE(open->create_if_missing());
  flags.cache_pairs = 0;
  EXPECT_TRUE(OpenFromFlags(flags)->settings().has_cache_pairs());
  flags.durability = "perhaps";
  EXPECT_THAT(std::string(OpenFromFlags(flags).status().message()), HasSubstr("perhaps"));
}

TEST(ReadText, MissingFileAndInvalidUtf8AreNamed) {
  EXPECT_EQ(ReadText("no/such/file").status().code(), absl::StatusCode::kNotFound);
  const std::string path = ::testing::TempDir() + "opening_test.txt";
  std::ofstream(path) << "good \xff bad";
  EXPECT_THAT(std::string(ReadText(path).status().message()),
              AllOf(HasSubstr(path), HasSubstr("byte 5")));
  std::ofstream(path) << "good";
  EXPECT_EQ(*ReadText(path), "good");
}

}  // namespace
}  // namespace lola::cli
