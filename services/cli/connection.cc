#include "services/cli/connection.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include "services/cli/exit_codes.h"

namespace lola::cli {
namespace {

// What is wrong with the connection is told by a call only.
absl::Status WhyNot(const std::string& endpoint, const std::shared_ptr<grpc::Channel>& channel,
                    const rpc::ChannelOptions& tls) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(1));
  v1::PartitionMap map;
  const grpc::Status status = v1::Cluster::NewStub(channel)->GetMap(&context, {}, &map);
  if (status.ok()) return absl::OkStatus();  // it came up just now
  return absl::UnavailableError("endpoint " + endpoint +
                                " does not answer (is it running? --endpoint, LOLA_ENDPOINT; " +
                                rpc::UnreachableHint(tls) + "): " + status.error_message());
}

}  // namespace

int ExitCode(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return kUsage;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kUnreachable;
    case absl::StatusCode::kNotFound:
      return kNotFound;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return kRefused;
    case absl::StatusCode::kCancelled:
      return kInterrupted;
    default:
      return kFailed;
  }
}

absl::StatusOr<Connection> Connect(const std::string& endpoint, std::chrono::milliseconds timeout,
                                   const rpc::ChannelOptions& tls) {
  auto channel = rpc::MakeChannel(endpoint, tls);
  if (!channel.ok()) return channel.status();
  const auto patience = std::min<std::chrono::milliseconds>(timeout, std::chrono::seconds(3));
  if (!(*channel)->WaitForConnected(std::chrono::system_clock::now() + patience)) {
    if (absl::Status why = WhyNot(endpoint, *channel, tls); !why.ok()) return why;
  }
  Connection connection;
  connection.endpoint = endpoint;
  connection.timeout = timeout;
  connection.inference = v1::Inference::NewStub(*channel);
  connection.cluster = v1::Cluster::NewStub(*channel);
  return connection;
}

}  // namespace lola::cli
