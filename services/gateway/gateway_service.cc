#include "services/gateway/gateway_service.h"

#include <set>
#include <thread>
#include <utility>

#include "lola/v1/cluster.grpc.pb.h"
#include "lola/v1/inference.grpc.pb.h"
#include "services/gateway/operations.h"
#include "services/gateway/shard_clients.h"
#include "services/gateway/stream_call.h"
#include "services/gateway/task_pool.h"
#include "services/gateway/unary_task.h"
#include "services/gateway/worker_pool.h"
#include "services/rpc/request_checks.h"

namespace lola::gateway {
namespace {

using Context = grpc::CallbackServerContext;
using Reactor = grpc::ServerUnaryReactor;

// What the two services share.
struct Core {
  GatewayCounts counts;
  std::unique_ptr<ShardClients> shards;
  std::unique_ptr<WorkerPool> workers;
  std::unique_ptr<Operations> operations;
  CallRegistry calls;
  AttachmentWorld world;
  std::unique_ptr<TaskPool> pool;  // last: its tasks use the others

  template <typename Reply, typename Check, typename Work>
  Reactor* Run(Context* context, Reply* reply, Check check, Work work) {
    return RunUnary(context, *pool, counts, reply, std::move(check), std::move(work));
  }
};

constexpr std::chrono::milliseconds kHealthEveryMin{10};

absl::Status NoCheck() { return absl::OkStatus(); }

// Stream and Generate as raw bytes, the rest as messages.
using Unary = v1::Inference::WithCallbackMethod_Describe<v1::Inference::WithCallbackMethod_List<
    v1::Inference::WithCallbackMethod_Fork<v1::Inference::WithCallbackMethod_Snapshot<
        v1::Inference::WithCallbackMethod_Rewind<v1::Inference::WithCallbackMethod_Delete<
            v1::Inference::WithCallbackMethod_InspectMemory<
                v1::Inference::WithCallbackMethod_DescribeModel<v1::Inference::Service>>>>>>>>;
using InferenceBase = v1::Inference::WithRawCallbackMethod_Stream<
    v1::Inference::WithRawCallbackMethod_Generate<Unary>>;

class InferenceImpl final : public InferenceBase {
 public:
  explicit InferenceImpl(Core* core) : core_(*core) {}

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Stream(Context*) override {
    return NewStreamCall(core_.world, &core_.calls);
  }
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(Context*,
                                                       const grpc::ByteBuffer* request) override {
    return NewGenerateCall(core_.world, &core_.calls, *request);
  }
  Reactor* Describe(Context* context, const v1::DescribeRequest* request,
                    v1::StreamInfo* reply) override {
    return core_.Run(
        context, reply, [=] { return rpc::CheckStreamId("stream_id", request->stream_id()); },
        [=, this](Caller caller) {
          return core_.operations->Describe(caller, request->stream_id());
        });
  }
  Reactor* List(Context* context, const v1::ListRequest* request, v1::ListReply* reply) override {
    return core_.Run(
        context, reply, [=] { return rpc::CheckList(*request); },
        [=, this](Caller caller) { return core_.operations->List(caller, *request); });
  }
  Reactor* Fork(Context* context, const v1::ForkRequest* request, v1::StreamInfo* reply) override {
    return core_.Run(
        context, reply, [=] { return rpc::CheckFork(*request); },
        [=, this](Caller caller) { return core_.operations->Fork(caller, *request); });
  }
  Reactor* Snapshot(Context* context, const v1::SnapshotRequest* request,
                    v1::SnapshotInfo* reply) override {
    return core_.Run(
        context, reply, [=] { return rpc::CheckSnapshot(*request); },
        [=, this](Caller caller) { return core_.operations->Snapshot(caller, *request); });
  }
  Reactor* Rewind(Context* context, const v1::RewindRequest* request,
                  v1::StreamInfo* reply) override {
    return core_.Run(
        context, reply, [=] { return rpc::CheckRewind(*request); },
        [=, this](Caller caller) { return core_.operations->Rewind(caller, *request); });
  }
  Reactor* Delete(Context* context, const v1::DeleteRequest* request,
                  v1::DeleteReply* reply) override {
    return core_.Run(
        context, reply, [=] { return rpc::CheckStreamId("stream_id", request->stream_id()); },
        [=, this](Caller caller) -> absl::StatusOr<v1::DeleteReply> {
          absl::Status status = core_.operations->Delete(caller, request->stream_id());
          if (!status.ok()) return status;
          return v1::DeleteReply();
        });
  }
  Reactor* InspectMemory(Context* context, const v1::InspectMemoryRequest* request,
                         v1::InspectMemoryReply* reply) override {
    return core_.Run(
        context, reply, [=] { return rpc::CheckStreamId("stream_id", request->stream_id()); },
        [=, this](Caller caller) { return core_.operations->Inspect(caller, *request); });
  }
  Reactor* DescribeModel(Context* context, const v1::DescribeModelRequest*,
                         v1::ModelInfo* reply) override {
    return core_.Run(context, reply, NoCheck, [this](Caller) { return core_.operations->Model(); });
  }

 private:
  Core& core_;
};

class ClusterImpl final : public v1::Cluster::CallbackService {
 public:
  explicit ClusterImpl(Core* core) : core_(*core) {}

  Reactor* GetMap(Context* context, const v1::GetMapRequest*, v1::PartitionMap* reply) override {
    return core_.Run(context, reply, NoCheck, [this](Caller) -> absl::StatusOr<v1::PartitionMap> {
      return core_.operations->Map();
    });
  }
  Reactor* ListWorkers(Context* context, const v1::ListWorkersRequest*,
                       v1::ListWorkersReply* reply) override {
    return core_.Run(context, reply, NoCheck,
                     [this](Caller) -> absl::StatusOr<v1::ListWorkersReply> {
                       v1::ListWorkersReply workers;
                       for (v1::WorkerStatus& status : core_.workers->Statuses()) {
                         *workers.add_workers() = std::move(status);
                       }
                       return workers;
                     });
  }
  Reactor* Migrate(Context* context, const v1::MigrateRequest* request,
                   v1::MigrateReply* reply) override {
    return core_.Run(
        context, reply, [=] { return rpc::CheckStreamId("stream_id", request->stream_id()); },
        [=, this](Caller caller) { return core_.operations->Migrate(caller, *request); });
  }
  Reactor* DrainWorker(Context* context, const v1::DrainWorkerRequest* request,
                       v1::DrainReply* reply) override {
    return core_.Run(
        context, reply,
        [=] { return rpc::CheckDrainDeadline("deadline_ms", request->deadline_ms()); },
        [=, this](Caller caller) { return core_.operations->Drain(caller, *request); });
  }

 private:
  Core& core_;
};

class GatewayImpl final : public GatewayService {
 public:
  explicit GatewayImpl(std::unique_ptr<Core> core)
      : core_(std::move(core)), inference_(core_.get()), cluster_(core_.get()) {}
  ~GatewayImpl() override { Stop(); }

  std::vector<grpc::Service*> services() override { return {&inference_, &cluster_}; }
  GatewayStats Stats() const override;

  void Drain(std::chrono::milliseconds deadline) override {
    const auto end = std::chrono::steady_clock::now() + deadline;
    core_->calls.Drain();
    while (core_->calls.size() > 0 && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    core_->calls.Abandon(absl::UnavailableError("this gateway is shutting down"));
  }

  void Stop() override {
    core_->calls.Drain();
    core_->calls.Abandon(absl::UnavailableError("this gateway is shutting down"));
    core_->workers->Stop();
    core_->pool.reset();
  }

 private:
  const std::unique_ptr<Core> core_;
  InferenceImpl inference_;
  ClusterImpl cluster_;
};

GatewayStats GatewayImpl::Stats() const {
  const GatewayCounts& counts = core_->counts;
  GatewayStats stats;
  stats.calls = counts.calls;
  stats.calls_refused = counts.calls_refused;
  stats.calls_failed = counts.calls_failed;
  stats.operator_calls = counts.operator_calls;
  stats.operator_failures = counts.operator_failures;
  stats.open_streams = counts.open_streams;
  stats.tokens_delivered = counts.tokens_delivered;
  stats.tokens_appended = counts.tokens_appended;
  stats.failovers = counts.failovers;
  stats.moves = counts.moves;
  stats.takeovers = counts.takeovers;
  stats.attach_retries = counts.attach_retries;
  stats.position_gaps = counts.position_gaps;
  stats.position_duplicates = counts.position_duplicates;
  stats.workers = core_->workers->size();
  stats.workers_healthy = core_->workers->healthy();
  stats.time_to_first_token_seconds = counts.time_to_first_token_seconds.Data();
  stats.inter_token_seconds = counts.inter_token_seconds.Data();
  stats.attach_seconds = counts.attach_seconds.Data();
  return stats;
}

}  // namespace

absl::StatusOr<std::unique_ptr<GatewayService>> GatewayService::Create(
    const GatewayOptions& options) {
  if (options.workers.empty()) {
    return absl::InvalidArgumentError("--workers: is empty; name at least one worker address");
  }
  if (options.calls_max == 0) {
    return absl::InvalidArgumentError("--calls-max: is 0, must be at least 1");
  }
  if (options.health_every < kHealthEveryMin) {
    return absl::InvalidArgumentError(
        "--health-every: " + std::to_string(options.health_every.count()) +
        " ms, must be at least " + std::to_string(kHealthEveryMin.count()));
  }
  auto core = std::make_unique<Core>();
  auto shards = ShardClients::Create(options.map, options.shards);
  if (!shards.ok()) return shards.status();
  core->shards = *std::move(shards);
  std::vector<WorkerEndpoint> endpoints;
  std::set<std::string> seen;
  for (const auto& [address, channel] : options.workers) {
    if (!seen.insert(address).second) {
      return absl::InvalidArgumentError("--workers: '" + address + "' is named twice");
    }
    endpoints.push_back({address, channel});
  }
  core->workers =
      std::make_unique<WorkerPool>(std::move(endpoints), options.health_every, options.peer_hint);
  core->operations = std::make_unique<Operations>(core->shards.get(), core->workers.get());
  core->world.shards = core->shards.get();
  core->world.workers = core->workers.get();
  core->world.counts = &core->counts;
  core->world.calls_max = options.calls_max;
  core->world.outage_max = options.outage_max;
  core->world.shard_deadline = options.shard_deadline;
  core->pool = std::make_unique<TaskPool>(options.operator_threads, options.operator_queue_max);
  core->workers->SetOnUnwell([calls = &core->calls](const auto& address, const auto& why) {
    calls->WorkerUnwell(address, why);
  });
  core->workers->Start();
  return std::unique_ptr<GatewayService>(new GatewayImpl(std::move(core)));
}

}  // namespace lola::gateway
