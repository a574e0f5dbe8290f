#include "services/cli/connection.h"

#include <grpcpp/channel.h>

#include "services/cli/exit_codes.h"

namespace lola::cli {

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
    return absl::UnavailableError("endpoint " + endpoint +
                                  " does not answer (is it running? --endpoint, LOLA_ENDPOINT)");
  }
  Connection connection;
  connection.endpoint = endpoint;
  connection.timeout = timeout;
  connection.inference = v1::Inference::NewStub(*channel);
  connection.cluster = v1::Cluster::NewStub(*channel);
  return connection;
}

}  // namespace lola::cli
