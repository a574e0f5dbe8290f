// The emulated queues: in order inside, any order between them, but for waits.
#include "kernels/cuda/emulation/queues.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace lola::cuda::emulation {
namespace {

// Letters of two queues, in the order they ran.
std::string Ran(uint64_t seed, bool waits) {
  Queues queues(seed);
  std::string order;
  for (int i = 0; i < 80; ++i) queues.Push(Queue::kCompute, [&order] { order += 'a'; });
  const Mark mark = queues.Record(Queue::kCompute);
  if (waits) queues.WaitFor(Queue::kScan, mark);
  for (int i = 0; i < 80; ++i) queues.Push(Queue::kScan, [&order] { order += 'b'; });
  EXPECT_EQ(order, "") << "nothing runs before somebody waits";
  EXPECT_FALSE(queues.Done(mark));
  queues.Finish();
  EXPECT_TRUE(queues.Done(mark));
  EXPECT_TRUE(queues.Done(0));
  return order;
}

TEST(EmulatedQueues, ShowEveryOrderThatWaitsAllow) {
  std::set<char> first;
  std::set<std::string> orders;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    orders.insert(Ran(seed, false));
    first.insert(Ran(seed, false)[0]);
    EXPECT_EQ(Ran(seed, true), std::string(80, 'a') + std::string(80, 'b'));
  }
  EXPECT_EQ(first.size(), 2u);
  EXPECT_GT(orders.size(), 5u);
}

TEST(EmulatedQueues, RunInOrderInside) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    Queues queues(seed);
    int next[kQueues] = {};
    for (int i = 0; i < 50; ++i) {
      for (const Queue queue : {Queue::kCompute, Queue::kScan, Queue::kCopy}) {
        queues.Push(queue, [&next, queue, i] { EXPECT_EQ(next[size_t(queue)]++, i); });
      }
    }
    queues.Finish();
    for (const int count : next) EXPECT_EQ(count, 50);
  }
}

}  // namespace
}  // namespace lola::cuda::emulation
