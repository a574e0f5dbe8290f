// lola-gateway: wiring only.
#include <grpcpp/channel.h>

#include "memory/cluster/partition_map.h"
#include "services/gateway/gateway_service.h"
#include "services/metrics/gateway_series.h"
#include "services/metrics/serve.h"
#include "services/rpc/channel.h"
#include "services/rpc/logging.h"
#include "services/rpc/options.h"
#include "services/rpc/server_runner.h"

namespace {

constexpr char kProgram[] = "lola-gateway";

struct Flags {
  lola::rpc::ServerOptions server;
  lola::rpc::ChannelOptions peers;
  lola::rpc::LogOptions log;
  std::string metrics_bind = "127.0.0.1:9400";
  std::string map;
  std::vector<std::string> workers;
  lola::gateway::GatewayOptions gateway;
};

void Register(lola::rpc::OptionSet& set, Flags& flags) {
  flags.server.bind = "127.0.0.1:50051";
  lola::rpc::RegisterServerOptions(set, &flags.server);
  lola::rpc::RegisterChannelOptions(set, &flags.peers);
  lola::rpc::RegisterLogOptions(set, &flags.log);
  set.Add("metrics-bind", &flags.metrics_bind, "host:port of /metrics; empty: off");
  set.Add("map", &flags.map, "JSON file: which memory shard serves which partitions; required");
  set.Add("workers", &flags.workers,
          "worker addresses, comma separated, as workers advertise; required");
  set.Add("outage-max", &flags.gateway.outage_max,
          "a client call that finds no worker for so long ends with UNAVAILABLE");
  set.Add("calls-max", &flags.gateway.calls_max,
          "client calls open at the same time; more are refused");
  set.Add("health-every", &flags.gateway.health_every, "how often workers are asked how they are");
  set.SetExamples(
      "Example:\n  lola-gateway --bind 127.0.0.1:50051 --map map.json "
      "--workers 127.0.0.1:50061,127.0.0.1:50062");
}

absl::Status Connect(Flags& flags) {
  if (flags.map.empty()) return absl::InvalidArgumentError("--map: is required");
  auto map = lola::memory::PartitionMap::LoadFile(flags.map);
  if (!map.ok()) return map.status();
  flags.gateway.map = *std::move(map);
  for (const auto& shard : flags.gateway.map.shards()) {
    auto channel = lola::rpc::MakeChannel(shard.address, flags.peers);
    if (!channel.ok()) return channel.status();
    flags.gateway.shards[shard.shard_id] = *std::move(channel);
  }
  // In plain text the usual reason is that it does not run; no need to doubt the options then.
  if (!flags.peers.tls_ca.empty()) {
    flags.gateway.peer_hint = lola::rpc::UnreachableHint(flags.peers);
  }
  for (const std::string& address : flags.workers) {
    auto channel = lola::rpc::MakeChannel(address, flags.peers);
    if (!channel.ok()) return channel.status();
    flags.gateway.workers.emplace_back(address, *std::move(channel));
  }
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  lola::rpc::PrepareProcess();
  Flags flags;
  lola::rpc::OptionSet set(kProgram, "Serves token streams to clients and finds their workers.");
  Register(set, flags);
  auto outcome = set.Parse(argc, argv);
  if (!outcome.ok()) return lola::rpc::ReportFatal(kProgram, outcome.status());
  if (*outcome == lola::rpc::OptionSet::Outcome::kHelpShown) return 0;
  absl::Status status = lola::rpc::InitLogging(flags.log, kProgram);
  if (status.ok()) status = lola::rpc::CheckBind(flags.server);
  if (status.ok()) status = Connect(flags);
  if (!status.ok()) return lola::rpc::ReportFatal(kProgram, status);

  auto gateway = lola::gateway::GatewayService::Create(flags.gateway);
  if (!gateway.ok()) return lola::rpc::ReportFatal(kProgram, gateway.status());
  const int code = lola::metrics::Serve({
      .program = kProgram,
      .server = flags.server,
      .metrics_bind = flags.metrics_bind,
      .services = (*gateway)->services(),
      .series = [&](auto& page) { lola::metrics::WriteGateway((*gateway)->Stats(), {}, page); },
      .listening = nullptr,
      .drain = [&](std::chrono::milliseconds deadline) { (*gateway)->Drain(deadline); },
  });
  (*gateway)->Stop();
  return code;
}
