#include "memory/env/failpoint.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "memory/env/clock.h"

namespace lola::memory {
namespace {

absl::Status Step() {
  LOLA_FAILPOINT("test.step");
  return absl::OkStatus();
}

class FailpointTest : public ::testing::Test {
 protected:
  void TearDown() override { ASSERT_TRUE(ArmFailpoints("").ok()); }
};

TEST_F(FailpointTest, UnarmedDoesNothingAndIsListed) {
  EXPECT_TRUE(Step().ok());
  const auto names = ReachedFailpoints();
  EXPECT_NE(std::find(names.begin(), names.end(), "test.step"), names.end());
}

TEST_F(FailpointTest, ErrorNamesThePlace) {
  ASSERT_TRUE(ArmFailpoints("test.step=error").ok());
  EXPECT_EQ(Step().message(), "failpoint test.step");
  ASSERT_TRUE(ArmFailpoints("").ok());
  EXPECT_TRUE(Step().ok());
}

TEST_F(FailpointTest, ActsFromTheNthPassageOn) {
  ASSERT_TRUE(ArmFailpoints("other=kill;test.step=error@3").ok());
  EXPECT_TRUE(Step().ok());
  EXPECT_TRUE(Step().ok());
  EXPECT_FALSE(Step().ok());
  EXPECT_FALSE(Step().ok());
}

TEST_F(FailpointTest, PassagesOfAnArmedPlaceAreCounted) {
  EXPECT_TRUE(Step().ok());
  EXPECT_EQ(FailpointPassages("test.step"), 0u);
  ASSERT_TRUE(ArmFailpoints("test.step=error@2").ok());
  EXPECT_EQ(FailpointPassages("test.step"), 0u);
  EXPECT_TRUE(Step().ok());
  EXPECT_FALSE(Step().ok());
  EXPECT_EQ(FailpointPassages("test.step"), 2u);
}

TEST_F(FailpointTest, SleepHoldsThePlace) {
  ASSERT_TRUE(ArmFailpoints("test.step=sleep:30").ok());
  const int64_t start = Clock::Real()->MonotonicMs();
  EXPECT_TRUE(Step().ok());
  EXPECT_GE(Clock::Real()->MonotonicMs() - start, 29);
}

TEST_F(FailpointTest, KillEndsTheProcess) {
  ASSERT_TRUE(ArmFailpoints("test.step=kill").ok());
  EXPECT_EXIT((void)Step(), ::testing::KilledBySignal(SIGKILL), "");
}

TEST_F(FailpointTest, UnreadableTextIsRefusedByPart) {
  for (const char* text : {"x", "=kill", "x=explode", "x=kill@0", "x=kill@many", "x=sleep:soon"}) {
    const absl::Status status = ArmFailpoints(text);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(std::string(status.message()).find(text), std::string::npos) << status;
  }
}

}  // namespace
}  // namespace lola::memory
