// The front's end of one session with a stage: writes operations, sorts what comes back. Private to
// services/worker.
//
// Threads: AwaitOpened, Pump and Finish on the link's thread; NextReply, Reason, StartCopy and
// StartLoad on the scheduler's; Write on either; WriteBehind on one more, Cancel and GiveUp on any.
#ifndef LOLA_SERVICES_WORKER_STAGE_CLIENT_SESSION_H_
#define LOLA_SERVICES_WORKER_STAGE_CLIENT_SESSION_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lola/v1/stage.grpc.pb.h"

namespace lola::worker {

// The sections of a copy on their way.
class IncomingCopy {
 public:
  explicit IncomingCopy(size_t bytes) : sections_(bytes) {}

  // True when it is whole, or was given too much and has failed.
  bool Add(std::string_view piece);
  void Fail(const absl::Status& status);
  // Blocks until it is whole or failed. `to` has its size.
  absl::Status Wait(std::span<std::byte> to);

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  std::vector<std::byte> sections_;  // guarded by mu_
  size_t have_ = 0;                  // guarded by mu_
  absl::Status status_;              // guarded by mu_
};

class StageClientSession {
 public:
  // Begins the call; nothing is sent yet.
  explicit StageClientSession(v1::Stage::Stub& stub);

  bool Write(const v1::StageRequest& request);
  // While one of these lives, nothing is written behind: between the messages of one payload must
  // be no other, and a step goes before parts of loads.
  class Hurry {
   public:
    explicit Hurry(StageClientSession& session) : session_(session) { ++session_.hurried_; }
    ~Hurry();
    Hurry(const Hurry&) = delete;
    Hurry& operator=(const Hurry&) = delete;

   private:
    StageClientSession& session_;
  };
  // The same for what can wait.
  bool WriteBehind(const v1::StageRequest& request);
  // True when the stage accepts.
  bool AwaitOpened();
  // Delivers what the stage sends until the call is over.
  void Pump();
  // How the call ended. Whoever waits for a reply or a copy hears of it.
  absl::Status Finish();
  void Cancel() { context_.TryCancel(); }
  // The same; the call has ended with `why`.
  void GiveUp(const absl::Status& why);

  // The next message that is no copy's. CANCELLED when the call is over.
  absl::Status NextReply(v1::StageReply* reply);
  // Why the call ended, when `failed` came of that; else `failed`. Waits for Finish.
  absl::Status Reason(const absl::Status& failed);
  // Announces a copy. RESOURCE_EXHAUSTED: too many are under way.
  absl::StatusOr<std::shared_ptr<IncomingCopy>> StartCopy(uint64_t id, size_t bytes);
  // Announces a load: `done` is called once, when the stage has answered it or the session is over.
  using LoadDone = std::function<void(absl::Status)>;
  void StartLoad(uint64_t id, LoadDone done);

 private:
  bool Sort(v1::StageReply& reply);

  grpc::ClientContext context_;
  const std::unique_ptr<grpc::ClientReaderWriter<v1::StageRequest, v1::StageReply>> stream_;
  std::mutex write_mu_;                // one writer, and none while the call is finished
  std::condition_variable may_write_;  // nobody in a hurry any more
  std::atomic<int> hurried_ = 0;       // how many Hurry there are

  std::mutex mu_;
  std::condition_variable arrived_;
  std::deque<v1::StageReply> replies_;                        // guarded by mu_
  std::map<uint64_t, std::shared_ptr<IncomingCopy>> copies_;  // guarded by mu_
  std::map<uint64_t, LoadDone> loads_;                        // guarded by mu_
  bool over_ = false;                                         // guarded by mu_
  absl::Status ended_;                                        // guarded by mu_, once over_
  absl::Status given_up_;                                     // guarded by mu_
};

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_STAGE_CLIENT_SESSION_H_
