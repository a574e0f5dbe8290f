// lola-standalone: wiring only.
#include "services/metrics/serve.h"
#include "services/rpc/logging.h"
#include "services/rpc/options.h"
#include "services/rpc/server_runner.h"
#include "services/standalone/standalone.h"
#include "services/worker/worker_flags.h"

namespace {

constexpr char kProgram[] = "lola-standalone";

struct Flags {
  lola::rpc::ServerOptions server;
  lola::rpc::LogOptions log;
  std::string metrics_bind = "127.0.0.1:9400";
  lola::worker::WorkerFlags worker;
  lola::standalone::StandaloneOptions system;
};

void Register(lola::rpc::OptionSet& set, Flags& flags) {
  flags.server.bind = "127.0.0.1:50051";
  flags.system.data = "lola-data";
  lola::rpc::RegisterServerOptions(set, &flags.server);
  lola::rpc::RegisterLogOptions(set, &flags.log);
  set.Add("metrics-bind", &flags.metrics_bind, "host:port of /metrics; empty: off");
  set.Add("data", &flags.system.data, "folder of everything; made when missing");
  set.Add("workers", &flags.system.workers, "workers in this process");
  set.Add("shards", &flags.system.shards, "memory shards; fixed when the folder is made");
  lola::worker::RegisterWorkerFlags(set, &flags.worker);
  set.SetExamples(
      "Example:\n  lola-standalone --data ./my-data --model models/passkey-1m\n"
      "  lola chat my-stream");
}

}  // namespace

int main(int argc, char** argv) {
  lola::rpc::PrepareProcess();
  Flags flags;
  lola::rpc::OptionSet set(
      kProgram, "Gateway, workers and memory shards in one process, one folder on disk.");
  Register(set, flags);
  auto outcome = set.Parse(argc, argv);
  if (!outcome.ok()) return lola::rpc::ReportFatal(kProgram, outcome.status());
  if (*outcome == lola::rpc::OptionSet::Outcome::kHelpShown) return 0;
  absl::Status status = lola::rpc::InitLogging(flags.log, kProgram);
  if (status.ok()) status = lola::rpc::CheckBind(flags.server);
  if (status.ok()) status = lola::worker::ApplyInstructions(flags.worker.instructions);
  flags.system.worker = lola::worker::ToOptions(flags.worker);
  if (status.ok()) status = flags.system.worker.engine.Validate();
  if (!status.ok()) return lola::rpc::ReportFatal(kProgram, status);

  auto served = lola::worker::LoadServedModel(flags.worker.model, flags.worker.dtype);
  if (!served.ok()) return lola::rpc::ReportFatal(kProgram, served.status());
  auto system = lola::standalone::Standalone::Create(flags.system, *served);
  if (!system.ok()) return lola::rpc::ReportFatal(kProgram, system.status());
  return lola::metrics::Serve({
      .program = kProgram,
      .server = flags.server,
      .metrics_bind = flags.metrics_bind,
      .services = (*system)->services(),
      .series = [&](auto& page) { (*system)->WriteSeries(page); },
      .health = [&] { return (*system)->Health(); },
      .ends_when_unwell = true,
      .listening = nullptr,
      .drain = [&](std::chrono::milliseconds deadline) { (*system)->Drain(deadline); },
  });
}
