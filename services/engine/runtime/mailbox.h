// How other threads talk to the scheduler thread: closures, run there in the order posted. Closures
// hold the mailbox by shared_ptr, so an answer that arrives after the engine is gone is dropped.
#ifndef LOLA_SERVICES_ENGINE_RUNTIME_MAILBOX_H_
#define LOLA_SERVICES_ENGINE_RUNTIME_MAILBOX_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

namespace lola::engine {

class Mailbox {
 public:
  using Task = std::function<void()>;
  using Time = std::chrono::steady_clock::time_point;

  // Any thread. Dropped after Close.
  void Post(Task task) {
    {
      std::lock_guard lock(mu_);
      if (closed_) return;
      tasks_.push_back(std::move(task));
    }
    wake_.notify_one();
  }

  // Takes everything posted, in order; waits until `deadline` when there is nothing. False once
  // closed.
  bool Take(std::vector<Task>* out, Time deadline) {
    std::unique_lock lock(mu_);
    wake_.wait_until(lock, deadline, [this] { return closed_ || !tasks_.empty(); });
    out->swap(tasks_);
    return !closed_;
  }

  // Drops what is posted and wakes the taker.
  void Close() {
    std::vector<Task> dropped;  // destroyed outside the lock: tasks own callers' objects
    {
      std::lock_guard lock(mu_);
      closed_ = true;
      dropped.swap(tasks_);
    }
    wake_.notify_all();
  }

 private:
  std::mutex mu_;
  std::condition_variable wake_;
  std::vector<Task> tasks_;  // guarded by mu_
  bool closed_ = false;      // guarded by mu_
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_RUNTIME_MAILBOX_H_
