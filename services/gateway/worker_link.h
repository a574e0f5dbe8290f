// One Worker.Serve call of an attachment. Deletes itself when the call is over. Its methods are
// called under the attachment's lock; its reactions call the attachment without it.
#ifndef LOLA_SERVICES_GATEWAY_WORKER_LINK_H_
#define LOLA_SERVICES_GATEWAY_WORKER_LINK_H_

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <atomic>
#include <memory>

#include "lola/v1/worker.grpc.pb.h"
#include "services/gateway/attachment.h"

namespace lola::gateway {

class WorkerLink final : public grpc::ClientBidiReactor<v1::ServeRequest, v1::ServeReply> {
 public:
  // Starts the call, writes `attach` and reads the first reply.
  static WorkerLink* Open(std::shared_ptr<Attachment> attachment, v1::Worker::Stub& worker,
                          v1::ServeRequest attach);

  // REQUIRES: the last write was answered by OnLinkWritten.
  void Write(v1::ServeRequest request);
  // REQUIRES: the last read was answered by OnLinkReply.
  void Read();
  // No further use by the attachment; the call is cancelled.
  void Drop();

 private:
  explicit WorkerLink(std::shared_ptr<Attachment> attachment);
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;
  void LetGo();

  const std::shared_ptr<Attachment> attachment_;
  grpc::ClientContext context_;
  v1::ServeRequest request_;
  v1::ServeReply reply_;
  std::atomic<bool> held_{true};
};

}  // namespace lola::gateway

#endif  // LOLA_SERVICES_GATEWAY_WORKER_LINK_H_
