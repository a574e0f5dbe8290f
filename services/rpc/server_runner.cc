#include "services/rpc/server_runner.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <mutex>

#include "services/rpc/files.h"
#include "services/rpc/limits.h"
#include "services/rpc/logging.h"
#include "services/rpc/options.h"

namespace lola::rpc {
namespace {

struct HostPort {
  std::string host;
  std::string port;
};

absl::StatusOr<HostPort> SplitAddress(const std::string& bind) {
  const size_t colon = bind.rfind(':');
  const std::string port = colon == std::string::npos ? "" : bind.substr(colon + 1);
  const bool digits = !port.empty() && port.size() <= 5 &&
                      port.find_first_not_of("0123456789") == std::string::npos;
  if (colon == 0 || !digits || std::stoi(port) > 65535) {
    return absl::InvalidArgumentError("--bind: '" + bind + "' is not host:port");
  }
  HostPort result{bind.substr(0, colon), port};
  if (result.host.front() == '[' && result.host.back() == ']') {
    result.host = result.host.substr(1, result.host.size() - 2);
  }
  return result;
}

bool IsLoopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0;
}

// gRPC shares ports (SO_REUSEPORT) and names no address in its errors, so the port is tried first.
absl::Status CheckPortFree(const std::string& bind, const HostPort& at) {
  if (at.port == "0") return absl::OkStatus();
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(at.host.c_str(), at.port.c_str(), &hints, &found); error != 0) {
    return absl::InvalidArgumentError("--bind: '" + bind + "': " + gai_strerror(error));
  }
  absl::Status status;
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (fd < 0 || ::bind(fd, found->ai_addr, found->ai_addrlen) != 0) {
    status = absl::UnavailableError("cannot listen on " + bind + ": " + std::strerror(errno));
  }
  if (fd >= 0) close(fd);
  freeaddrinfo(found);
  return status;
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> Credentials(const ServerOptions& options) {
  if (options.tls_cert.empty()) return grpc::InsecureServerCredentials();
  auto cert = ReadPemFile("--tls-cert", options.tls_cert);
  if (!cert.ok()) return cert.status();
  auto key = ReadPemFile("--tls-key", options.tls_key);
  if (!key.ok()) return key.status();
  grpc::SslServerCredentialsOptions ssl(
      options.tls_client_ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                    : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  ssl.pem_key_cert_pairs.push_back({*std::move(key), *std::move(cert)});
  if (!options.tls_client_ca.empty()) {
    auto ca = ReadPemFile("--tls-client-ca", options.tls_client_ca);
    if (!ca.ok()) return ca.status();
    ssl.pem_root_certs = *std::move(ca);
  }
  return grpc::SslServerCredentials(ssl);
}

void Configure(grpc::ServerBuilder& builder, const std::vector<grpc::Service*>& services) {
  static std::once_flag once;
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
  // Our clients ping every second, also without calls.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 1000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 500);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(static_cast<int>(kMessageBytesMax));
  builder.SetMaxSendMessageSize(static_cast<int>(kMessageBytesMax));
  for (grpc::Service* service : services) builder.RegisterService(service);
}

// Written whole and renamed, so that a reader never sees half a number.
absl::Status WritePortFile(const std::string& path, int port) {
  const std::string staged = path + ".new";
  std::ofstream file(staged);
  file << port << "\n";
  file.close();
  if (!file || std::rename(staged.c_str(), path.c_str()) != 0) {
    return absl::UnavailableError("--port-file: cannot write '" + path + "'");
  }
  return absl::OkStatus();
}

}  // namespace

struct Server::Impl {
  ServerOptions options;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
  std::string address;
  std::once_flag shut_down;
};

void RegisterServerOptions(OptionSet& set, ServerOptions* options) {
  set.Add("bind", &options->bind, "host:port to serve gRPC on; port 0 takes a free one");
  set.Add("advertise", &options->advertise,
          "host:port others reach this process at; empty: where it is bound");
  set.Add("tls-cert", &options->tls_cert, "PEM certificate chain to serve TLS with");
  set.Add("tls-key", &options->tls_key, "PEM key of that certificate");
  set.Add("tls-client-ca", &options->tls_client_ca, "PEM file; clients must show a certificate");
  set.Add("insecure", &options->insecure, "allow plain text on an address that is not loopback");
  set.Add("port-file", &options->port_file, "write the bound port into this file");
  set.Add("drain-deadline", &options->drain_deadline, "longest graceful end after SIGTERM");
}

absl::Status CheckBind(const ServerOptions& options) {
  auto at = SplitAddress(options.bind);
  if (!at.ok()) return at.status();
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return absl::FailedPreconditionError("--tls-cert and --tls-key go together: cert '" +
                                         options.tls_cert + "', key '" + options.tls_key + "'");
  }
  if (!options.tls_client_ca.empty() && options.tls_cert.empty()) {
    return absl::FailedPreconditionError("--tls-client-ca: '" + options.tls_client_ca +
                                         "' needs --tls-cert and --tls-key: without them clients "
                                         "are served in plain text");
  }
  if (!IsLoopback(at->host) && options.tls_cert.empty() && !options.insecure) {
    return absl::FailedPreconditionError(
        "--bind: '" + options.bind +
        "' is not loopback: give --tls-cert and --tls-key, or --insecure to serve plain text");
  }
  return absl::OkStatus();
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() { Shutdown(std::chrono::milliseconds(0)); }

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      const std::vector<grpc::Service*>& services) {
  if (absl::Status status = CheckBind(options); !status.ok()) return status;
  const HostPort at = *SplitAddress(options.bind);
  if (absl::Status status = CheckPortFree(options.bind, at); !status.ok()) return status;
  auto credentials = Credentials(options);
  if (!credentials.ok()) return credentials.status();

  auto impl = std::make_unique<Impl>();
  impl->options = options;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.bind, *credentials, &impl->port);
  Configure(builder, services);
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr || impl->port == 0) {
    return absl::UnavailableError("cannot listen on " + options.bind +
                                  " (is the port in use, are the TLS files in order?)");
  }
  const std::string host = options.bind.substr(0, options.bind.rfind(':'));
  impl->address =
      options.advertise.empty() ? host + ":" + std::to_string(impl->port) : options.advertise;
  auto server = std::unique_ptr<Server>(new Server(std::move(impl)));
  server->SetServing(false);
  if (!options.port_file.empty()) {
    if (absl::Status s = WritePortFile(options.port_file, server->port()); !s.ok()) return s;
  }
  LogInfo("listening", {{"address", host + ":" + std::to_string(server->port())},
                        {"tls", options.tls_cert.empty() ? "off" : "on"}});
  return server;
}

absl::StatusOr<std::unique_ptr<Server>> Server::StartInProcess(
    const std::vector<grpc::Service*>& services) {
  auto impl = std::make_unique<Impl>();
  grpc::ServerBuilder builder;
  Configure(builder, services);
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr) return absl::InternalError("in-process server did not start");
  auto server = std::unique_ptr<Server>(new Server(std::move(impl)));
  server->SetServing(false);
  return server;
}

int Server::port() const { return impl_->port; }
const std::string& Server::address() const { return impl_->address; }
const ServerOptions& Server::options() const { return impl_->options; }

std::shared_ptr<grpc::Channel> Server::InProcessChannel() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(kMessageBytesMax));
  arguments.SetMaxSendMessageSize(static_cast<int>(kMessageBytesMax));
  return impl_->server->InProcessChannel(arguments);
}

void Server::SetServing(bool serving) {
  if (auto* health = impl_->server->GetHealthCheckService()) health->SetServingStatus(serving);
}

void Server::Shutdown(std::chrono::milliseconds grace) {
  std::call_once(impl_->shut_down, [&] {
    if (impl_->server == nullptr) return;
    impl_->server->Shutdown(std::chrono::system_clock::now() + grace);
    impl_->server->Wait();
  });
}

}  // namespace lola::rpc
