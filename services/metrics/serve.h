// The second half of every server's main: listen, export metrics, serve until a signal, drain.
#ifndef LOLA_SERVICES_METRICS_SERVE_H_
#define LOLA_SERVICES_METRICS_SERVE_H_

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/metrics/exporter.h"
#include "services/rpc/server_runner.h"

namespace lola::metrics {

struct ServedProcess {
  std::string program;  // for messages and the process series
  rpc::ServerOptions server;
  std::string metrics_bind;  // host:port of /metrics; empty: off
  std::vector<grpc::Service*> services;
  Source series;
  // What the health service answers, asked ten times a second; null: always well. Any thread.
  std::function<absl::Status()> health;
  // Who is not well by `health` never gets well again: the process ends as at a SIGTERM, with exit
  // code 1, and whoever started it starts another.
  bool ends_when_unwell = false;
  std::function<void(const rpc::Server&)> listening;     // before clients come; may be null
  std::function<void(std::chrono::milliseconds)> drain;  // with the deadline; see RunUntilSignal
};

// Returns the exit code. On return nothing calls the services or the series any more.
// REQUIRES: rpc::PrepareProcess.
int Serve(const ServedProcess& process);

}  // namespace lola::metrics

#endif  // LOLA_SERVICES_METRICS_SERVE_H_
