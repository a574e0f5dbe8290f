#include "kernels/cuda/emulation/queues.h"

#include <utility>

#include "kernels/core/check.h"

namespace lola::cuda::emulation {

bool Queues::Advance() {
  std::array<size_t, kQueues> runnable;
  size_t count = 0;
  bool any = false;
  for (size_t queue = 0; queue < kQueues; ++queue) {
    any = any || !items_[queue].empty();
    if (Runnable(queue)) runnable[count++] = queue;
  }
  LOLA_CHECK(count > 0 || !any) << "queues wait for each other";
  if (count == 0) return false;
  // Long runs of one queue: what it should have waited for is then far behind.
  constexpr uint64_t kRun = 64;
  if (!Runnable(running_) || random_() % kRun == 0) running_ = runnable[random_() % count];
  const Item item = std::move(items_[running_].front());
  items_[running_].pop_front();
  if (item.work) item.work();
  return true;
}

}  // namespace lola::cuda::emulation
