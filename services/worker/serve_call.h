// Worker.Serve: one attachment of the engine behind one bidirectional call. Callbacks only convert
// and hand over. Private to services/worker.
//
// Replies wait in a queue, one write is in flight. The queue is bounded by the engine asking
// Writable() before it produces more; what was under way still fits. Tokens that wait in it are
// joined to one reply.
#ifndef LOLA_SERVICES_WORKER_SERVE_CALL_H_
#define LOLA_SERVICES_WORKER_SERVE_CALL_H_

#include <grpcpp/support/server_callback.h>

#include <deque>
#include <memory>
#include <mutex>
#include <optional>

#include "lola/v1/worker.grpc.pb.h"
#include "services/engine/runtime/engine.h"
#include "services/worker/worker_state.h"

namespace lola::worker {

class ServeCall;

// The side the engine knows: it may outlive the call. Thread-safe.
class ServeSink : public engine::EventSink {
 public:
  // `worker` owns the engine that holds this sink, and calls hold the worker: it is always there.
  ServeSink(WorkerState* worker, ServeCall* call) : worker_(worker), call_(call) {}

  void OnOpened(engine::OpenedEvent event) override;
  void OnTokens(engine::TokensEvent event) override;
  void OnDurable(uint64_t position) override;
  void OnDone(engine::DoneEvent event) override;
  void OnReleased(std::string target) override;
  void OnError(absl::Status status) override;
  bool Writable() const override;

  // From the call's reactions.
  void Written(bool ok);
  void Finish(const absl::Status& status, bool now);  // `now`: drop what is queued
  void OpBegun();                                     // an operation was taken
  void NoMoreOps();                                   // the client has said all
  void CallGone();

 private:
  static constexpr int kJoinedTokensMax = 64;

  void Send(v1::ServeReply reply);
  bool JoinWaiting(const v1::ServeReply& reply);  // mu_ held
  void WriteNext();                               // mu_ held
  void MaybeFinish();                             // mu_ held

  WorkerState* const worker_;
  mutable std::mutex mu_;
  ServeCall* call_;                   // guarded by mu_, as all below; null when over
  std::deque<v1::ServeReply> queue_;  // the front one is being written when writing_
  bool writing_ = false;
  std::optional<absl::Status> end_;  // finish with it when the queue is empty
  bool finished_ = false;
  size_t ops_ = 0;  // begun and not done
  bool no_more_ops_ = false;
};

class ServeCall final : public grpc::ServerBidiReactor<v1::ServeRequest, v1::ServeReply> {
 public:
  explicit ServeCall(std::shared_ptr<WorkerState> worker);
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  absl::Status Take();

  const std::shared_ptr<WorkerState> worker_;
  const std::shared_ptr<ServeSink> sink_;
  v1::ServeRequest request_;
  std::mutex mu_;
  engine::AttachmentId attachment_ = 0;  // guarded by mu_
};

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_SERVE_CALL_H_
