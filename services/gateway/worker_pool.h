// The workers this gateway knows: their channels, whether they answer, which one a stream without
// an owner goes to. Thread-safe. Workers are asked how they are now and then, more often while one
// does not answer; one answer that is late does not count, two in a row do. A caller that saw one
// fail says so at once.
#ifndef LOLA_SERVICES_GATEWAY_WORKER_POOL_H_
#define LOLA_SERVICES_GATEWAY_WORKER_POOL_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "lola/v1/cluster.pb.h"
#include "lola/v1/inference.pb.h"
#include "lola/v1/worker.grpc.pb.h"

namespace lola::gateway {

struct WorkerEndpoint {
  std::string address;
  std::shared_ptr<grpc::Channel> channel;
};

class WorkerPool {
 public:
  // `hint` is added to the problem of a worker that does not answer.
  WorkerPool(std::vector<WorkerEndpoint> workers, std::chrono::milliseconds poll_every,
             std::string hint = "");
  ~WorkerPool();

  // Called from the pool's thread, without its lock, when a worker that was well says that it is
  // not any more. Before Start.
  using OnUnwell = std::function<void(const std::string& address, const absl::Status& why)>;
  void SetOnUnwell(OnUnwell on_unwell) { on_unwell_ = std::move(on_unwell); }

  // Begins to ask, on a thread of the pool's own: at once, then every `poll_every`.
  void Start();
  void Stop();

  // Null when no worker has this address.
  v1::Worker::Stub* stub(const std::string& address) const;
  bool Known(const std::string& address) const { return stub(address) != nullptr; }
  // Answers and is not draining, as far as known.
  bool Usable(const std::string& address) const;
  // The same, or nothing is known yet: a gateway that has just started overrules nobody.
  bool WorthAsking(const std::string& address) const;
  // The healthy worker with the highest hash for this stream that is not in `except`; when none is
  // healthy, nullopt.
  std::optional<std::string> Pick(std::string_view stream_id,
                                  const std::set<std::string>& except) const;
  // It counts as not healthy until it answers again.
  void ReportFailure(const std::string& address, const absl::Status& status);

  std::vector<v1::WorkerStatus> Statuses() const;
  // What the workers serve, from the first that told, and again when nobody serves that any more;
  // nullopt before.
  std::optional<v1::ModelInfo> Model() const;
  uint32_t Vocabulary() const;  // 0 = not known yet
  size_t size() const { return workers_.size(); }
  size_t healthy() const;

 private:
  struct Worker {
    std::unique_ptr<v1::Worker::Stub> stub;
    v1::WorkerStatus status;
    bool asked = false;  // `status` says something
    int late = 0;        // answers in a row that did not come in time
  };

  void Loop();
  void Poll();
  bool Note(Worker& worker, const grpc::Status& status, const std::string& problem,
            v1::WorkerInfo info);
  void KeepModel();

  const std::chrono::milliseconds poll_every_;
  const std::string hint_;
  OnUnwell on_unwell_;  // constant after Start
  mutable std::mutex mu_;
  std::condition_variable wake_;
  bool stopping_ = false;                  // guarded by mu_
  std::map<std::string, Worker> workers_;  // keys and stubs constant; status guarded by mu_
  std::optional<v1::ModelInfo> model_;     // guarded by mu_
  std::thread thread_;
};

}  // namespace lola::gateway

#endif  // LOLA_SERVICES_GATEWAY_WORKER_POOL_H_
