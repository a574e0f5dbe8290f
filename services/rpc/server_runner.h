// Runs gRPC services the project's way: loopback by default, TLS or an explicit --insecure anywhere
// else, health service, reflection, the bound port told, graceful end on SIGTERM and SIGINT.
//
//   int main(int argc, char** argv) {
//     rpc::PrepareProcess();                       // first: before any thread exists
//     rpc::OptionSet set("lola-memory", "..."); rpc::ServerOptions server_options; ...
//     auto server = rpc::Server::Start(server_options, {service.get()});
//     (*server)->SetServing(true);
//     return rpc::RunUntilSignal(**server, [&](auto deadline) { service->Drain(deadline); });
//   }
#ifndef LOLA_SERVICES_RPC_SERVER_RUNNER_H_
#define LOLA_SERVICES_RPC_SERVER_RUNNER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace grpc {
class Channel;
class Service;
}  // namespace grpc

namespace lola::rpc {

class OptionSet;

struct ServerOptions {
  std::string bind = "127.0.0.1:50051";  // host:port; port 0 = any free one
  std::string advertise;                 // address others reach us at; empty = host and bound port
  std::string tls_cert;                  // PEM files; cert and key together
  std::string tls_key;
  std::string tls_client_ca;  // ask clients for a certificate signed by it
  bool insecure = false;      // allow plain text on a bind that is not loopback
  std::string port_file;      // the bound port is written here once the server listens
  std::chrono::milliseconds drain_deadline{10000};
};

// --bind --advertise --tls-cert --tls-key --tls-client-ca --insecure --port-file --drain-deadline.
void RegisterServerOptions(OptionSet& set, ServerOptions* options);

// OK when `options` may be started: a loopback bind, or TLS, or insecure. Otherwise
// FAILED_PRECONDITION that says what to do; INVALID_ARGUMENT for a malformed host:port.
absl::Status CheckBind(const ServerOptions& options);

// A listening server. Thread-safe. Destruction shuts down with no grace.
class Server {
 public:
  // Services must outlive the server. All are NOT_SERVING until SetServing(true).
  // Errors: see CheckBind; UNAVAILABLE naming the address when the port is in use.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                       const std::vector<grpc::Service*>& services);
  // No listening address: reached by InProcessChannel only (tests, standalone).
  static absl::StatusOr<std::unique_ptr<Server>> StartInProcess(
      const std::vector<grpc::Service*>& services);
  ~Server();

  int port() const;                    // 0 when in-process only
  const std::string& address() const;  // advertised; empty when in-process only
  std::shared_ptr<grpc::Channel> InProcessChannel();
  void SetServing(bool serving);  // the health service's answer, "" and every service
  // New calls are refused at once; running ones are cancelled after `grace`. Idempotent.
  void Shutdown(std::chrono::milliseconds grace);
  const ServerOptions& options() const;

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Blocks SIGTERM and SIGINT for all threads, ignores SIGPIPE, sets the malloc thresholds (large
// message buffers are kept instead of mapped anew). REQUIRES: no other thread runs yet.
void PrepareProcess();

// Waits for SIGTERM or SIGINT, then: health NOT_SERVING, `drain(deadline)` (may be null), Shutdown.
// A second signal ends the process at once. Returns the exit code, 0. REQUIRES: PrepareProcess.
int RunUntilSignal(Server& server, const std::function<void(std::chrono::milliseconds)>& drain);

// Prints "<program>: <message>" to stderr. Returns the exit code: 2 for INVALID_ARGUMENT, else 1.
int ReportFatal(const std::string& program, const absl::Status& status);

}  // namespace lola::rpc

#endif  // LOLA_SERVICES_RPC_SERVER_RUNNER_H_
