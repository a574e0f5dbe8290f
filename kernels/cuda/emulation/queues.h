// Queues of the emulated device. Nothing runs when it is enqueued: work waits until somebody waits
// for it, and then the queues advance in an order picked at random among those that waits allow. So
// a wait that is missing between queues, or host memory that changes too early, shows as a wrong
// result. Not thread-safe.
#ifndef LOLA_KERNELS_CUDA_EMULATION_QUEUES_H_
#define LOLA_KERNELS_CUDA_EMULATION_QUEUES_H_

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <random>
#include <set>

#include "kernels/cuda/device.h"

namespace lola::cuda::emulation {

class Queues {
 public:
  explicit Queues(uint64_t seed) : random_(seed) {}

  void Push(Queue queue, std::function<void()> work) { At(queue).push_back({std::move(work)}); }
  Mark Record(Queue queue) {
    pending_.insert(++last_);
    At(queue).push_back({[this, mark = last_] { pending_.erase(mark); }});
    return last_;
  }
  // REQUIRES: the mark was recorded before, as everywhere: so queues never wait for each other.
  void WaitFor(Queue queue, Mark mark) { At(queue).push_back({nullptr, mark}); }
  bool Done(Mark mark) const { return !pending_.contains(mark); }

  // Runs the next piece of work of some queue; false when all are empty.
  bool Advance();
  // Starts with any queue, not with the one that ran last.
  void AdvanceUntil(Mark mark) {
    running_ = random_() % kQueues;
    while (!Done(mark)) Advance();
  }
  void Finish() {
    while (Advance()) {
    }
  }

 private:
  struct Item {
    std::function<void()> work;
    Mark waits_for = 0;
  };
  std::deque<Item>& At(Queue queue) { return items_[size_t(queue)]; }
  bool Runnable(size_t queue) const {
    return !items_[queue].empty() && Done(items_[queue].front().waits_for);
  }

  std::array<std::deque<Item>, kQueues> items_;
  std::set<Mark> pending_;
  Mark last_ = 0;
  std::mt19937_64 random_;
  size_t running_ = 0;  // the queue that ran last: it tends to run on
};

}  // namespace lola::cuda::emulation

#endif  // LOLA_KERNELS_CUDA_EMULATION_QUEUES_H_
