#include "services/cli/output.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lola/v1/inference.pb.h"
#include "services/cli/exit_codes.h"

namespace lola::cli {
namespace {

using ::testing::HasSubstr;

TEST(Numbers, AreGroupedAndGivenUnits) {
  EXPECT_EQ(Grouped(0), "0");
  EXPECT_EQ(Grouped(999), "999");
  EXPECT_EQ(Grouped(1234567), "1,234,567");
  EXPECT_EQ(HumanBytes(512), "512 B");
  EXPECT_EQ(HumanBytes(1887437), "1.8 MiB");
  EXPECT_EQ(HumanSeconds(0.0000123), "12 us");
  EXPECT_EQ(HumanSeconds(0.0034), "3.4 ms");
  EXPECT_EQ(HumanSeconds(12.34), "12.3 s");
  EXPECT_EQ(HumanTime(0), "-");
  EXPECT_EQ(HumanTime(86400000), "1970-01-02 00:00:00 UTC");
}

TEST(Text, DigestsAndControlCharactersAreReadable) {
  EXPECT_EQ(Hex(std::string("\x00\xff\x1a", 3)), "00ff1a");
  EXPECT_EQ(OneLine("a\nb\tc\x01"), "a\\nb\\tc?");
}

TEST(Table, ColumnsAreAlignedByCharacters) {
  EXPECT_EQ(Table({{"A", "B"}, {"long", "x"}, {"\xc3\xa4", "y"}}),
            "A     B\nlong  x\n\xc3\xa4     y\n");
}

TEST(Json, KeepsNamesAndZeroFields) {
  v1::DeleteRequest request;
  EXPECT_THAT(ToJson(request), HasSubstr("\"stream_id\": \"\""));
}

TEST(ExitCodes, AreTheDocumentedOnes) {
  EXPECT_EQ(ExitCode(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCode(absl::InternalError("")), 1);
  EXPECT_EQ(ExitCode(absl::DataLossError("")), 1);
  EXPECT_EQ(ExitCode(absl::InvalidArgumentError("")), 2);
  EXPECT_EQ(ExitCode(absl::UnavailableError("")), 3);
  EXPECT_EQ(ExitCode(absl::DeadlineExceededError("")), 3);
  EXPECT_EQ(ExitCode(absl::NotFoundError("")), 4);
  EXPECT_EQ(ExitCode(absl::AlreadyExistsError("")), 5);
  EXPECT_EQ(ExitCode(absl::FailedPreconditionError("")), 5);
}

}  // namespace
}  // namespace lola::cli
