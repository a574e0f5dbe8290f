#include "services/memory/executor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>

namespace lola::shard {
namespace {

TEST(Executor, RunsEverythingBeforeStopReturns) {
  Executor executor(3, 1000);
  std::atomic<int> done{0};
  for (int i = 0; i < 500; ++i) ASSERT_TRUE(executor.TrySubmit([&] { ++done; }));
  executor.Stop();
  EXPECT_EQ(done, 500);
  EXPECT_FALSE(executor.TrySubmit([&] { ++done; }));
  executor.Continue([&] { ++done; });
  EXPECT_EQ(done, 501);
}

TEST(Executor, RefusesNewCallsBeyondTheQueueButNotNextSteps) {
  Executor executor(1, 2);
  std::latch busy(1);
  std::latch release(1);
  std::atomic<int> done{0};
  ASSERT_TRUE(executor.TrySubmit([&] {
    busy.count_down();
    release.wait();
  }));
  busy.wait();
  EXPECT_TRUE(executor.TrySubmit([&] { ++done; }));
  EXPECT_TRUE(executor.TrySubmit([&] { ++done; }));
  EXPECT_FALSE(executor.TrySubmit([&] { ++done; }));
  executor.Continue([&] { ++done; });
  EXPECT_EQ(executor.queued(), 3u);
  release.count_down();
  executor.Stop();
  EXPECT_EQ(done, 3);
}

}  // namespace
}  // namespace lola::shard
