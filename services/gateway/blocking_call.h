// One unary call that blocks, with a deadline, retried while the peer is away. It ends with the
// call that it is made for: when that one's caller goes, or this gateway.
#ifndef LOLA_SERVICES_GATEWAY_BLOCKING_CALL_H_
#define LOLA_SERVICES_GATEWAY_BLOCKING_CALL_H_

#include <grpcpp/client_context.h>
#include <grpcpp/server_context.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/rpc/status_map.h"

namespace lola::gateway {

// The call that is being answered; null: nobody's.
using Caller = grpc::CallbackServerContext*;

// A context for what is done on behalf of `caller`.
inline std::unique_ptr<grpc::ClientContext> ContextFor(Caller caller) {
  return caller == nullptr ? std::make_unique<grpc::ClientContext>()
                           : grpc::ClientContext::FromCallbackServerContext(*caller);
}

// `peer` is put in front of errors that mean it could not be reached. `retry`: again on UNAVAILABLE
// until the deadline; only for calls that may be repeated.
template <typename Stub, typename Request, typename Reply>
absl::StatusOr<Reply> BlockingCall(Caller caller, Stub& stub,
                                   grpc::Status (Stub::*method)(grpc::ClientContext*,
                                                                const Request&, Reply*),
                                   const Request& request, std::chrono::milliseconds within,
                                   const std::string& peer, bool retry) {
  const auto deadline = std::chrono::system_clock::now() + within;
  while (true) {
    const auto context = ContextFor(caller);
    context->set_deadline(deadline);
    Reply reply;
    const absl::Status status = rpc::FromGrpc((stub.*method)(context.get(), request, &reply));
    if (status.ok()) return reply;
    const bool away = status.code() == absl::StatusCode::kUnavailable;
    if (!away && status.code() != absl::StatusCode::kDeadlineExceeded) return status;
    if (!away || !retry || std::chrono::system_clock::now() >= deadline) {
      return absl::UnavailableError(peer + ": " + std::string(status.message()));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

}  // namespace lola::gateway

#endif  // LOLA_SERVICES_GATEWAY_BLOCKING_CALL_H_
