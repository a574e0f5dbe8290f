// Threads for work that blocks, so that gRPC's own threads never do. Any thread.
#ifndef LOLA_SERVICES_MEMORY_EXECUTOR_H_
#define LOLA_SERVICES_MEMORY_EXECUTOR_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace lola::shard {

class Executor {
 public:
  Executor(size_t threads, size_t queue_max);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // A new call's work. False when `queue_max` tasks wait already, or after Stop: it will not run.
  bool TrySubmit(std::function<void()> task);
  // The next step of a call that was admitted: never refused, so that a stream of messages does not
  // break off in the middle. Bounded by the number of admitted calls. After Stop it runs here.
  void Continue(std::function<void()> task);

  size_t queued() const;
  // Runs what waits, then ends the threads. Idempotent.
  void Stop();

 private:
  void Work();

  const size_t queue_max_;
  mutable std::mutex mu_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;  // guarded by mu_
  bool stopped_ = false;                     // guarded by mu_
  std::vector<std::thread> threads_;
};

}  // namespace lola::shard

#endif  // LOLA_SERVICES_MEMORY_EXECUTOR_H_
