// A fixed set of threads that run numbered pieces of one job at a time.
//
// ParallelFor may be called from any thread; concurrent calls take turns. The caller takes part, so
// a pool of one thread starts no thread and calls the function directly. Pieces are handed out by a
// shared counter in ascending order: which worker runs a piece is arbitrary, therefore a piece must
// write only what belongs to its index (or to its worker number).
//
// Idle workers spin for a few microseconds and then sleep: the machine may be shared.
#ifndef LOLA_KERNELS_CORE_THREAD_POOL_H_
#define LOLA_KERNELS_CORE_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace lola::kernels {

class ThreadPool {
 public:
  // REQUIRES: 1 <= threads <= 1024. `threads` counts the caller of ParallelFor.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls fn(index, worker) once for every index in [0, n), worker in [0, threads()), and returns
  // when all calls have returned. `worker` is 0 for the caller; two calls running at the same time
  // never share a worker number. REQUIRES: fn does not throw and does not call ParallelFor on the
  // same pool.
  void ParallelFor(size_t n, const std::function<void(size_t index, int worker)>& fn);

 private:
  void WorkerLoop(int worker);
  bool EnterJob(uint64_t& seen);
  void RunPieces(int worker);

  const int threads_;
  std::mutex caller_mu_;  // one ParallelFor at a time

  // Written by the caller while no worker is inside, read by workers that entered the job.
  const std::function<void(size_t, int)>* job_ = nullptr;
  size_t job_size_ = 0;
  uint64_t jobs_ = 0;

  // Job number, a flag "open", and how many workers are inside. A worker enters only while the flag
  // is up; the caller takes it down when the pieces run out and waits for those inside.
  std::atomic<uint64_t> state_{0};
  std::atomic<size_t> next_index_{0};
  std::atomic<bool> stopping_{false};

  std::mutex wake_mu_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::vector<std::thread> workers_;
};

}  // namespace lola::kernels

#endif  // LOLA_KERNELS_CORE_THREAD_POOL_H_
