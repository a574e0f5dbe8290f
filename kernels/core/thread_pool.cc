#include "kernels/core/thread_pool.h"

#include <chrono>

#include "kernels/core/check.h"

namespace lola::kernels {
namespace {

constexpr std::chrono::microseconds kSpin{10};

// Fields of ThreadPool::state_.
constexpr uint64_t kInsideMask = 0xffff;
constexpr uint64_t kOpen = 0x10000;
constexpr int kJobShift = 17;

inline void CpuRelax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// True as soon as `ready()` holds; false when it did not within kSpin.
template <typename Ready>
bool SpinUntil(const Ready& ready) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      CpuRelax();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

}  // namespace

ThreadPool::ThreadPool(int threads) : threads_(threads) {
  LOLA_CHECK(threads >= 1 && threads <= 1024) << "threads " << threads;
  for (int worker = 1; worker < threads; ++worker) {
    workers_.emplace_back([this, worker] { WorkerLoop(worker); });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(wake_mu_);
    stopping_.store(true);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::RunPieces(int worker) {
  for (;;) {
    const size_t index = next_index_.fetch_add(1, std::memory_order_relaxed);
    if (index >= job_size_) return;
    (*job_)(index, worker);
  }
}

void ThreadPool::ParallelFor(size_t n, const std::function<void(size_t, int)>& fn) {
  if (n == 0) return;
  if (threads_ == 1) {
    // Calls from different threads must still not share worker number 0.
    std::lock_guard lock(caller_mu_);
    for (size_t i = 0; i < n; ++i) fn(i, 0);
    return;
  }
  std::lock_guard caller_lock(caller_mu_);
  if (n == 1) {
    fn(0, 0);
    return;
  }
  job_ = &fn;
  job_size_ = n;
  next_index_.store(0, std::memory_order_relaxed);
  {
    std::lock_guard lock(wake_mu_);
    ++jobs_;
    state_.store(jobs_ << kJobShift | kOpen, std::memory_order_release);
  }
  wake_.notify_all();
  RunPieces(0);
  // No piece is left to start. Workers that slept through the job need not be waited for.
  state_.fetch_and(~kOpen, std::memory_order_acq_rel);
  const auto finished = [this] {
    return (state_.load(std::memory_order_acquire) & kInsideMask) == 0;
  };
  if (SpinUntil(finished)) return;
  std::unique_lock lock(wake_mu_);
  done_.wait(lock, finished);
}

// Enters the open job, if it is not the one already seen; false when there is none.
bool ThreadPool::EnterJob(uint64_t& seen) {
  uint64_t state = state_.load(std::memory_order_acquire);
  while ((state & kOpen) != 0 && state >> kJobShift != seen) {
    if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) {
      seen = state >> kJobShift;
      return true;
    }
  }
  return false;
}

void ThreadPool::WorkerLoop(int worker) {
  uint64_t seen = 0;
  for (;;) {
    const auto has_work = [this, &seen] {
      const uint64_t state = state_.load(std::memory_order_acquire);
      return ((state & kOpen) != 0 && state >> kJobShift != seen) ||
             stopping_.load(std::memory_order_relaxed);
    };
    if (!SpinUntil(has_work)) {
      std::unique_lock lock(wake_mu_);
      wake_.wait(lock, has_work);
    }
    if (stopping_.load(std::memory_order_relaxed)) return;
    if (!EnterJob(seen)) continue;
    RunPieces(worker);
    const uint64_t before = state_.fetch_sub(1, std::memory_order_acq_rel);
    if ((before & kInsideMask) == 1 && (before & kOpen) == 0) {
      std::lock_guard lock(wake_mu_);  // the caller is either before its wait or inside it
      done_.notify_one();
    }
  }
}

}  // namespace lola::kernels
