// States on their way to a stage: sent part by part on a thread of their own, in front of which
// whoever drives steps goes. Private to services/worker. Thread-safe.
#ifndef LOLA_SERVICES_WORKER_LOAD_SENDER_H_
#define LOLA_SERVICES_WORKER_LOAD_SENDER_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <thread>

#include "lola/v1/stage.pb.h"
#include "services/worker/stage_client_session.h"

namespace lola::worker {

class LoadSender {
 public:
  LoadSender() : thread_([this] { Loop(); }) {}
  // Drops what is not sent yet.
  ~LoadSender();

  struct Load {
    std::shared_ptr<StageClientSession> session;
    v1::StageLoad head;  // with an id
    std::shared_ptr<void> owner;
    std::span<const std::byte> sections;
  };
  // The session's loads of that id hear what became of it.
  void Send(Load load);

 private:
  void Loop();
  bool stopping() {
    std::lock_guard lock(mu_);
    return stopping_;
  }
  void SendNow(const Load& load);

  std::mutex mu_;
  std::condition_variable wake_;
  std::deque<Load> queue_;  // guarded by mu_
  bool stopping_ = false;   // guarded by mu_
  std::thread thread_;      // last: starts when all else exists
};

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_LOAD_SENDER_H_
