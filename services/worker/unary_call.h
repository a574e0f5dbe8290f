// A unary call answered later from another thread: whoever comes first, the answer or the caller's
// cancel, finishes it; the other one finds it finished. Private to services/worker.
#ifndef LOLA_SERVICES_WORKER_UNARY_CALL_H_
#define LOLA_SERVICES_WORKER_UNARY_CALL_H_

#include <grpcpp/support/server_callback.h>

#include <memory>
#include <mutex>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/rpc/status_map.h"
#include "services/worker/worker_state.h"

namespace lola::worker {

template <typename Reply>
class UnaryCall {
 public:
  static std::shared_ptr<UnaryCall> Make(Reply* reply, const engine::EngineOptions& options) {
    std::shared_ptr<UnaryCall> call(new UnaryCall(reply, options));
    call->reactor_ = new Reactor(call);
    return call;
  }
  // Valid until the handler returned it to gRPC.
  grpc::ServerUnaryReactor* reactor() const { return reactor_; }

  // Fills the reply by `fill(Reply*)` when the status is OK.
  template <typename Fill>
  void Finish(const absl::Status& status, Fill fill) {
    std::lock_guard lock(mu_);
    if (finished_) return;
    finished_ = true;
    if (status.ok()) fill(reply_);
    reactor_->Finish(rpc::ToGrpc(WithHint(status, options_)));
  }
  template <typename T, typename Fill>
  void Finish(const absl::StatusOr<T>& result, Fill fill) {
    Finish(result.status(), std::move(fill));
  }

 private:
  class Reactor final : public grpc::ServerUnaryReactor {
   public:
    explicit Reactor(std::shared_ptr<UnaryCall> call) : call_(std::move(call)) {}
    void OnCancel() override {
      call_->Finish(absl::CancelledError("the call was cancelled"), [](Reply*) {});
    }
    void OnDone() override { delete this; }

   private:
    const std::shared_ptr<UnaryCall> call_;
  };

  UnaryCall(Reply* reply, const engine::EngineOptions& options)
      : options_(options), reply_(reply) {}

  const engine::EngineOptions options_;
  Reactor* reactor_ = nullptr;  // deletes itself after it finished
  std::mutex mu_;
  Reply* const reply_;     // guarded by mu_; gRPC's until finished
  bool finished_ = false;  // guarded by mu_
};

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_UNARY_CALL_H_
