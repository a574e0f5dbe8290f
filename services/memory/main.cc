// lola-memory: wiring only.
#include "memory/cluster/partition_map.h"
#include "services/memory/shard_service.h"
#include "services/metrics/serve.h"
#include "services/metrics/shard_series.h"
#include "services/rpc/logging.h"
#include "services/rpc/options.h"
#include "services/rpc/server_runner.h"

namespace {

constexpr char kProgram[] = "lola-memory";

struct Flags {
  lola::rpc::ServerOptions server;
  lola::rpc::LogOptions log;
  std::string metrics_bind = "127.0.0.1:9402";
  std::string map;
  lola::rpc::Bytes cache{64u << 20};
  std::chrono::milliseconds collect_every{1000};
  uint64_t threads = lola::memory::kShardThreadsDefault;
  uint64_t queue = lola::memory::kShardQueueMax;
  lola::shard::ShardOptions shard;
};

void Register(lola::rpc::OptionSet& set, Flags& flags) {
  flags.server.bind = "127.0.0.1:50071";
  lola::rpc::RegisterServerOptions(set, &flags.server);
  lola::rpc::RegisterLogOptions(set, &flags.log);
  set.Add("metrics-bind", &flags.metrics_bind, "host:port of /metrics; empty: off");
  set.Add("data", &flags.shard.store.directory,
          "folder of this shard's data; made when missing; required");
  set.Add("shard-id", &flags.shard.shard_id, "this shard's id in the map");
  set.Add("map", &flags.map,
          "JSON file: which shard serves which partitions; empty: this one serves all");
  set.Add("streams-max", &flags.shard.store.streams_max, "streams this shard holds at most");
  set.Add("record-cache", &flags.cache, "memory for cached records and log blocks");
  set.Add("collect-every", &flags.collect_every, "pause between rounds of expiry and collection");
  set.Add("threads", &flags.threads, "threads for disk work");
  set.Add("queue-max", &flags.queue,
          "calls that may wait for a thread, and that may send; more are refused");
  set.SetExamples(
      "Example:\n  lola-memory --bind 127.0.0.1:50071 --data ./shard-0 --shard-id shard-0 "
      "--map map.json");
}

absl::Status Resolve(Flags& flags) {
  lola::shard::ShardOptions& shard = flags.shard;
  if (shard.store.directory.empty()) return absl::InvalidArgumentError("--data: is required");
  shard.store.cache_bytes = flags.cache.value;
  shard.store.collect_every_ms = flags.collect_every.count();
  shard.threads = flags.threads;
  shard.queue_max = flags.queue;
  if (flags.map.empty()) {
    shard.map = lola::memory::PartitionMap::SingleShard(shard.shard_id, flags.server.advertise);
    return absl::OkStatus();
  }
  auto map = lola::memory::PartitionMap::LoadFile(flags.map);
  if (!map.ok()) return map.status();
  shard.map = *std::move(map);
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  lola::rpc::PrepareProcess();
  Flags flags;
  lola::rpc::OptionSet set(kProgram, "Keeps streams: records, token logs, snapshots.");
  Register(set, flags);
  auto outcome = set.Parse(argc, argv);
  if (!outcome.ok()) return lola::rpc::ReportFatal(kProgram, outcome.status());
  if (*outcome == lola::rpc::OptionSet::Outcome::kHelpShown) return 0;
  absl::Status status = lola::rpc::InitLogging(flags.log, kProgram);
  if (status.ok()) status = lola::rpc::CheckBind(flags.server);
  if (status.ok()) status = Resolve(flags);
  if (!status.ok()) return lola::rpc::ReportFatal(kProgram, status);

  auto shard = lola::shard::ShardService::Create(flags.shard);
  if (!shard.ok()) return lola::rpc::ReportFatal(kProgram, shard.status());
  const lola::metrics::Labels labels = {{"shard", flags.shard.shard_id}};
  const int code = lola::metrics::Serve({
      .program = kProgram,
      .server = flags.server,
      .metrics_bind = flags.metrics_bind,
      .services = {(*shard)->service()},
      .series = [&](auto& page) { lola::metrics::WriteShard((*shard)->Stats(), labels, page); },
      .health = [&] { return (*shard)->Health(); },
      // A folder whose disk failed can be written again once it is opened anew.
      .ends_when_unwell = true,
      .listening = nullptr,
      .drain = [&](std::chrono::milliseconds) { (*shard)->Drain(); },
  });
  (*shard)->Stop();
  return code;
}
