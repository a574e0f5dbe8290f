#include "services/rpc/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include "services/rpc/files.h"
#include "services/rpc/limits.h"
#include "services/rpc/options.h"

namespace lola::rpc {
namespace {

grpc::ChannelArguments Arguments() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 1000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 500);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // In truth the time that one attempt to connect gets, handshakes included: with less a far or
  // busy peer is never reached. A refused attempt is repeated after the pauses above and below.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // A container that is started anew has another address behind the same name; 30 s is the default.
  arguments.SetInt(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, 1000);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetMaxReceiveMessageSize(static_cast<int>(kMessageBytesMax));
  arguments.SetMaxSendMessageSize(static_cast<int>(kMessageBytesMax));
  return arguments;
}

// What is given must be used: half of it would silently mean plain text, or no certificate.
absl::Status CheckTls(const ChannelOptions& options) {
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError("--peer-tls-cert and --peer-tls-key go together: cert '" +
                                      options.tls_cert + "', key '" + options.tls_key + "'");
  }
  if (options.tls_ca.empty() && !options.tls_cert.empty()) {
    return absl::InvalidArgumentError("--peer-tls-cert: '" + options.tls_cert +
                                      "' needs --peer-tls-ca, without it connections are in "
                                      "plain text");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(
    const ChannelOptions& options) {
  if (absl::Status status = CheckTls(options); !status.ok()) return status;
  if (options.tls_ca.empty()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions ssl;
  auto ca = ReadPemFile("--peer-tls-ca", options.tls_ca);
  if (!ca.ok()) return ca.status();
  ssl.pem_root_certs = *std::move(ca);
  if (!options.tls_cert.empty()) {
    auto cert = ReadPemFile("--peer-tls-cert", options.tls_cert);
    if (!cert.ok()) return cert.status();
    auto key = ReadPemFile("--peer-tls-key", options.tls_key);
    if (!key.ok()) return key.status();
    ssl.pem_cert_chain = *std::move(cert);
    ssl.pem_private_key = *std::move(key);
  }
  return grpc::SslCredentials(ssl);
}

}  // namespace

void RegisterChannelOptions(OptionSet& set, ChannelOptions* options) {
  set.Add("peer-tls-ca", &options->tls_ca, "PEM file to verify servers with; empty: plain text");
  set.Add("peer-tls-cert", &options->tls_cert, "PEM certificate to show to servers");
  set.Add("peer-tls-key", &options->tls_key, "PEM key of that certificate");
}

std::string UnreachableHint(const ChannelOptions& options) {
  if (options.tls_ca.empty()) return "connection in plain text: does it want TLS, --peer-tls-ca?";
  if (options.tls_cert.empty()) {
    return "TLS without a certificate of ours: does it want one, --peer-tls-cert?";
  }
  return "TLS with certificate '" + options.tls_cert + "': does it accept that one?";
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& address,
                                                           const ChannelOptions& options) {
  const bool has_scheme = address.rfind("unix:", 0) == 0 || address.rfind("dns:", 0) == 0;
  const size_t colon = address.rfind(':');
  if (!has_scheme && (colon == std::string::npos || colon == 0 || colon + 1 == address.size())) {
    return absl::InvalidArgumentError("address '" + address + "' is not host:port");
  }
  auto credentials = Credentials(options);
  if (!credentials.ok()) return credentials.status();
  return grpc::CreateCustomChannel(address, *credentials, Arguments());
}

}  // namespace lola::rpc
