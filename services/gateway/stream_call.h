// The client's side of Inference.Stream and Inference.Generate: reads and checks requests, queues
// replies (bounded by the attachment), ends the call. Reactors delete themselves.
#ifndef LOLA_SERVICES_GATEWAY_STREAM_CALL_H_
#define LOLA_SERVICES_GATEWAY_STREAM_CALL_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <mutex>
#include <set>

#include "lola/v1/inference.pb.h"
#include "services/gateway/attachment.h"

namespace lola::gateway {

// The open calls of a gateway, so that a drain reaches them. Thread-safe.
class CallRegistry {
 public:
  // False: draining, the call must be refused.
  bool Add(const std::shared_ptr<Attachment>& attachment);
  void Remove(const std::shared_ptr<Attachment>& attachment);
  // Calls without a running operation end at once, others when it is done.
  void Drain();
  void Abandon(const absl::Status& status);
  void WorkerUnwell(const std::string& worker, const absl::Status& why);
  size_t size() const;

 private:
  mutable std::mutex mu_;
  bool draining_ = false;
  std::set<std::shared_ptr<Attachment>> calls_;
};

// Raw bytes come in, so that a field that is not UTF-8 can be named.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* NewStreamCall(
    const AttachmentWorld& world, CallRegistry* registry);
grpc::ServerWriteReactor<grpc::ByteBuffer>* NewGenerateCall(const AttachmentWorld& world,
                                                            CallRegistry* registry,
                                                            const grpc::ByteBuffer& request);

}  // namespace lola::gateway

#endif  // LOLA_SERVICES_GATEWAY_STREAM_CALL_H_
