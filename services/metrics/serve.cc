#include "services/metrics/serve.h"

namespace lola::metrics {

int Serve(const ServedProcess& process) {
  auto server = rpc::Server::Start(process.server, process.services);
  if (!server.ok()) return rpc::ReportFatal(process.program, server.status());
  if (process.listening) process.listening(**server);
  auto exporter = Exporter::Start(process.metrics_bind, process.program, {process.series},
                                  process.server.insecure);
  if (!exporter.ok()) return rpc::ReportFatal(process.program, exporter.status());
  (*server)->SetServing(true);
  return rpc::RunUntilSignal(**server, process.drain);
}

}  // namespace lola::metrics
