#include "memory/store/expiry_queue.h"

#include <gtest/gtest.h>

namespace lola::store {
namespace {

TEST(ExpiryQueueTest, GivesOutWhatIsDueInOrderOfTime) {
  ExpiryQueue queue;
  queue.Set("late", 300);
  queue.Set("early", 100);
  queue.Set("middle", 200);
  EXPECT_EQ(queue.PopDue(99), std::nullopt);
  EXPECT_EQ(queue.PopDue(200), "early");
  EXPECT_EQ(queue.PopDue(200), "middle");
  EXPECT_EQ(queue.PopDue(200), std::nullopt);
  EXPECT_EQ(queue.size(), 1u);
}

TEST(ExpiryQueueTest, AStreamHasOneTimeTheLastOneSet) {
  ExpiryQueue queue;
  for (int64_t at = 1; at <= 1000; ++at) queue.Set("s", at);
  EXPECT_EQ(queue.size(), 1u);
  EXPECT_EQ(queue.PopDue(999), std::nullopt);
  queue.Set("s", 5);
  EXPECT_EQ(queue.PopDue(999), "s");
  EXPECT_EQ(queue.PopDue(9999), std::nullopt);
}

TEST(ExpiryQueueTest, StreamsThatComeAndGoLeaveNothing) {
  ExpiryQueue queue;
  for (int i = 0; i < 1000; ++i) {
    queue.Set("s" + std::to_string(i % 7), i);
    queue.Remove("s" + std::to_string(i % 7));
  }
  queue.Remove("never set");
  EXPECT_EQ(queue.size(), 0u);
}

}  // namespace
}  // namespace lola::store
