// lola-worker: wiring only.
#include <grpcpp/channel.h>

#include "memory/cluster/partition_map.h"
#include "services/metrics/serve.h"
#include "services/rpc/channel.h"
#include "services/rpc/logging.h"
#include "services/rpc/options.h"
#include "services/rpc/server_runner.h"
#include "services/rpc/status_map.h"
#include "services/worker/worker_flags.h"
#include "services/worker/worker_series.h"
#include "services/worker/worker_service.h"

namespace {

constexpr char kProgram[] = "lola-worker";

struct Flags {
  lola::rpc::ServerOptions server;
  lola::rpc::ChannelOptions peers;
  lola::rpc::LogOptions log;
  std::string metrics_bind = "127.0.0.1:9401";
  std::string map;
  lola::worker::WorkerFlags worker;
};

void Register(lola::rpc::OptionSet& set, Flags& flags) {
  flags.server.bind = "127.0.0.1:50061";
  lola::rpc::RegisterServerOptions(set, &flags.server);
  lola::rpc::RegisterChannelOptions(set, &flags.peers);
  lola::rpc::RegisterLogOptions(set, &flags.log);
  set.Add("metrics-bind", &flags.metrics_bind, "host:port of /metrics; empty: off");
  set.Add("map", &flags.map, "JSON file: which memory shard serves which partitions; required");
  lola::worker::RegisterWorkerFlags(set, &flags.worker);
  lola::worker::RegisterPipelineFlags(set, &flags.worker);
  set.SetExamples(
      "Examples:\n  lola-worker --bind 127.0.0.1:50061 --map map.json --model models/passkey-1m\n"
      "  lola-stage --bind 127.0.0.1:50081 --layers 1-2 --model models/passkey-1m\n"
      "  lola-worker --layers 0 --stages 127.0.0.1:50081 --map map.json "
      "--model models/passkey-1m");
}

absl::Status Connect(const Flags& flags, lola::worker::WorkerOptions& options) {
  options.front = flags.server.advertise.empty() ? flags.server.bind : flags.server.advertise;
  for (const std::string& address : flags.worker.stages) {
    auto channel = lola::rpc::MakeChannel(address, flags.peers);
    if (!channel.ok()) return lola::rpc::Annotate(channel.status(), "--stages");
    options.stages.push_back({address, *std::move(channel), lola::rpc::UnreachableHint(flags.peers),
                              flags.worker.stage_deadline});
  }
  if (flags.map.empty()) return absl::InvalidArgumentError("--map: is required");
  auto map = lola::memory::PartitionMap::LoadFile(flags.map);
  if (!map.ok()) return map.status();
  options.map = *std::move(map);
  for (const auto& shard : options.map.shards()) {
    auto channel = lola::rpc::MakeChannel(shard.address, flags.peers);
    if (!channel.ok()) return channel.status();
    options.shards[shard.shard_id] = *std::move(channel);
  }
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  lola::rpc::PrepareProcess();
  Flags flags;
  lola::rpc::OptionSet set(kProgram, "Runs the model on token streams.");
  Register(set, flags);
  auto outcome = set.Parse(argc, argv);
  if (!outcome.ok()) return lola::rpc::ReportFatal(kProgram, outcome.status());
  if (*outcome == lola::rpc::OptionSet::Outcome::kHelpShown) return 0;
  absl::Status status = lola::rpc::InitLogging(flags.log, kProgram);
  if (status.ok()) status = lola::rpc::CheckBind(flags.server);
  if (status.ok()) status = lola::worker::ApplyInstructions(flags.worker.instructions);
  lola::worker::WorkerOptions options = lola::worker::ToOptions(flags.worker);
  if (status.ok()) status = options.engine.Validate();
  if (status.ok()) status = lola::worker::CheckPipelineFlags(flags.worker);
  if (status.ok()) status = Connect(flags, options);
  if (!status.ok()) return lola::rpc::ReportFatal(kProgram, status);

  auto served =
      lola::worker::LoadServedModel(flags.worker.model, flags.worker.dtype, flags.worker.layers);
  if (!served.ok()) return lola::rpc::ReportFatal(kProgram, served.status());
  auto worker = lola::worker::WorkerService::Create(options, *served);
  if (!worker.ok()) return lola::rpc::ReportFatal(kProgram, worker.status());
  // Known before anybody can ask; Serve says it once more, with the port where that was 0.
  (*worker)->SetAddress(options.front);
  return lola::metrics::Serve({
      .program = kProgram,
      .server = flags.server,
      .metrics_bind = flags.metrics_bind,
      .services = {(*worker)->service()},
      .series =
          [&](auto& page) {
            lola::worker::WriteWorker((*worker)->Stats(), {}, page);
            lola::worker::WriteStageLinks((*worker)->StageStats(), {}, page);
          },
      .health = [&] { return (*worker)->Health(); },
      .listening = [&](const auto& server) { (*worker)->SetAddress(server.address()); },
      .drain =
          [&](std::chrono::milliseconds deadline) {
            const uint32_t released = (*worker)->Drain(deadline);
            lola::rpc::LogInfo("drained", {{"streams", released}});
          },
  });
}
