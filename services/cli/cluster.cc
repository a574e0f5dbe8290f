// migrate, drain, workers, shards, model info.
#include <string>

#include "services/cli/commands.h"
#include "services/cli/output.h"
#include "services/rpc/continuation_text.h"

namespace lola::cli {
namespace {

using Stub = v1::Cluster::Stub;

// 0-31,40
std::string Ranges(const google::protobuf::RepeatedField<uint32_t>& numbers) {
  std::string text;
  for (int i = 0; i < numbers.size();) {
    int last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    text += (text.empty() ? "" : ",") + std::to_string(numbers[i]);
    if (last > i) text += "-" + std::to_string(numbers[last]);
    i = last + 1;
  }
  return text;
}

// Where the layers of a pipeline are: "0-3 here, 4-7 at host:port"; "all" of a single worker.
std::string Layers(const v1::WorkerInfo& info) {
  if (info.stages_size() == 0) return info.model_fingerprint().empty() ? "" : "all";
  const auto range = [](uint32_t first, uint32_t last) {
    return std::to_string(first) + (last > first ? "-" + std::to_string(last) : "");
  };
  std::string text = range(0, info.stages(0).first_layer() - 1) + " here";
  for (const v1::PipelineStage& stage : info.stages()) {
    text += ", " + range(stage.first_layer(), stage.last_layer()) + " at " + stage.address();
  }
  return OneLine(text);
}

}  // namespace

absl::Status Migrate(const Connection& connection, const CliFlags& flags) {
  v1::MigrateRequest request;
  request.set_stream_id(flags.stream);
  request.set_target(flags.to);
  auto reply = Call(connection, *connection.cluster, &Stub::Migrate, request);
  if (!reply.ok()) return reply.status();
  if (flags.json) {
    PrintJson(*reply);
  } else {
    PrintText("'" + flags.stream + "' moved from " +
              (reply->source().empty() ? "nobody" : reply->source()) + " to " + reply->target() +
              " at position " + Grouped(reply->position()) + " in " +
              HumanSeconds(reply->seconds()) + ", " + Grouped(reply->replayed_tokens()) +
              " tokens replayed\n");
    const std::string how = rpc::ContinuationText(reply->restore());
    if (!how.empty()) PrintText(OneLine(how) + "\n");
  }
  return absl::OkStatus();
}

absl::Status Drain(const Connection& connection, const CliFlags& flags) {
  v1::DrainWorkerRequest request;
  request.set_address(flags.worker);
  request.set_deadline_ms(flags.deadline.count());
  // The answer comes when all is drained, some seconds after the deadline at the latest.
  auto reply = Call(connection, *connection.cluster, &Stub::DrainWorker, request,
                    flags.deadline + std::chrono::seconds(10));
  if (!reply.ok()) return reply.status();
  if (flags.json) {
    PrintJson(*reply);
  } else {
    PrintText("worker " + flags.worker + " gave up " + Grouped(reply->released_streams()) +
              " streams and takes no new ones\n");
  }
  return absl::OkStatus();
}

absl::Status Workers(const Connection& connection, const CliFlags& flags) {
  auto reply = Call(connection, *connection.cluster, &Stub::ListWorkers, v1::ListWorkersRequest());
  if (!reply.ok()) return reply.status();
  if (flags.json) {
    PrintJson(*reply);
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows = {{"WORKER", "STATE", "SLOTS", "STREAMS", "QUEUE",
                                                 "STEPS", "TOKENS", "CLASS", "LAYERS", "PROBLEM"}};
  for (const v1::WorkerStatus& worker : reply->workers()) {
    const v1::WorkerInfo& info = worker.info();
    rows.push_back({worker.address(),
                    !worker.healthy() ? "away"
                    : info.draining() ? "draining"
                                      : "healthy",
                    std::to_string(info.slots_used()) + "/" + std::to_string(info.slots()),
                    Grouped(info.open_streams()), Grouped(info.queue_depth()),
                    Grouped(info.steps()), Grouped(info.tokens()),
                    OneLine(info.instruction_class()), Layers(info), OneLine(worker.problem())});
  }
  PrintText(Table(rows));
  return absl::OkStatus();
}

absl::Status Shards(const Connection& connection, const CliFlags& flags) {
  auto map = Call(connection, *connection.cluster, &Stub::GetMap, v1::GetMapRequest());
  if (!map.ok()) return map.status();
  if (flags.json) {
    PrintJson(*map);
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows = {{"SHARD", "ADDRESS", "PARTITIONS"}};
  for (const v1::Shard& shard : map->shards()) {
    rows.push_back({shard.shard_id(), shard.address().empty() ? "in process" : shard.address(),
                    Ranges(shard.partitions())});
  }
  PrintText(Table(rows) + Grouped(map->partitions()) + " partitions, map revision " +
            std::to_string(map->revision()) + "\n");
  return absl::OkStatus();
}

absl::Status ModelInfo(const Connection& connection, const CliFlags& flags) {
  auto model = Call(connection, *connection.inference, &v1::Inference::Stub::DescribeModel,
                    v1::DescribeModelRequest());
  if (!model.ok()) return model.status();
  if (flags.json) {
    PrintJson(*model);
    return absl::OkStatus();
  }
  const v1::LolaSettings& defaults = model->defaults();
  PrintText(Table({
      {"model", model->name()},
      {"fingerprint", model->fingerprint()},
      {"parameters", Grouped(model->parameters()) + ", " + model->weight_dtype()},
      {"shape", std::to_string(model->layers()) + " layers, hidden " +
                    std::to_string(model->hidden()) + ", " + std::to_string(model->query_heads()) +
                    " query heads, " + std::to_string(model->kv_heads()) + " kv heads of " +
                    std::to_string(model->head_dim()) + ", vocabulary " + Grouped(model->vocab())},
      {"memory", defaults.mode() + ", profile " + defaults.profile() + ", window " +
                     std::to_string(defaults.window()) + ", chunk " +
                     std::to_string(defaults.chunk()) + ", cache " +
                     std::to_string(defaults.cache_pairs()) + " pairs a head, features " +
                     std::to_string(model->feature_dim())},
      {"state", HumanBytes(model->state_bytes()) + " (" + Grouped(model->state_bytes()) +
                    " bytes) for a stream of any length"},
      {"backend", model->backend() + ", " + model->instruction_class()},
  }));
  return absl::OkStatus();
}

}  // namespace lola::cli
