// The command line's way to an endpoint. Blocking calls, one thread at a time unless said.
#ifndef LOLA_SERVICES_CLI_CONNECTION_H_
#define LOLA_SERVICES_CLI_CONNECTION_H_

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lola/v1/cluster.grpc.pb.h"
#include "lola/v1/inference.grpc.pb.h"
#include "services/rpc/channel.h"
#include "services/rpc/status_map.h"

namespace lola::cli {

struct Connection {
  std::string endpoint;
  std::chrono::milliseconds timeout{0};
  std::unique_ptr<v1::Inference::Stub> inference;
  std::unique_ptr<v1::Cluster::Stub> cluster;
};

// Connects within `timeout` or fails with UNAVAILABLE naming the endpoint.
absl::StatusOr<Connection> Connect(const std::string& endpoint, std::chrono::milliseconds timeout,
                                   const rpc::ChannelOptions& tls);

// One unary call with the connection's timeout, or a longer one. UNAVAILABLE names the endpoint.
template <typename Stub, typename Request, typename Reply>
absl::StatusOr<Reply> Call(const Connection& connection, Stub& stub,
                           grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                        Reply*),
                           const Request& request,
                           std::chrono::milliseconds at_least = std::chrono::milliseconds(0)) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::max(connection.timeout, at_least));
  Reply reply;
  const absl::Status status = rpc::FromGrpc((stub.*method)(&context, request, &reply));
  if (status.ok()) return reply;
  if (absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) {
    return rpc::Annotate(status, "endpoint " + connection.endpoint);
  }
  return status;
}

}  // namespace lola::cli

#endif  // LOLA_SERVICES_CLI_CONNECTION_H_
