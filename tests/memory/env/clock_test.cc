#include "memory/env/clock.h"

#include <gtest/gtest.h>

namespace lola::memory {
namespace {

TEST(Clock, FakeStandsStillUntilAdvanced) {
  FakeClock clock(1000);
  const int64_t start = clock.MonotonicMs();
  EXPECT_EQ(clock.UnixMs(), 1000);
  clock.Advance(250);
  EXPECT_EQ(clock.UnixMs(), 1250);
  EXPECT_EQ(clock.MonotonicMs(), start + 250);
}

TEST(Clock, RealGrows) {
  const int64_t first = Clock::Real()->MonotonicMs();
  EXPECT_GE(Clock::Real()->MonotonicMs(), first);
  EXPECT_GT(Clock::Real()->UnixMs(), 1'700'000'000'000);
}

}  // namespace
}  // namespace lola::memory
