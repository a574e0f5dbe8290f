#include "services/worker/worker_service.h"
#include "services/worker/runner.h"

#include <grpcpp/grpcpp.h>

#include <future>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "lola/v1/worker.grpc.pb.h"
#include "services/rpc/logging.h"
#include "services/rpc/request_checks.h"
#include "services/worker/convert.h"
#include "services/worker/pair_contexts.h"
#include "services/worker/serve_call.h"
#include "services/worker/unary_call.h"

namespace lola::worker {
namespace {

constexpr std::chrono::milliseconds kLeaseMin{100};

std::string NewInstance() {
  std::random_device random;
  const uint64_t high = random(), low = random();
  return absl::StrFormat("%016x", (high << 32) ^ low);
}

v1::InspectMemoryReply ToProto(const engine::MemoryReport& report, const Contexts& contexts) {
  v1::InspectMemoryReply reply;
  reply.set_position(report.position);
  reply.set_state_bytes(report.state_bytes);
  reply.set_state_digest(report.state_digest);
  reply.mutable_computed_by()->Add(report.computed_by.begin(), report.computed_by.end());
  for (const engine::HeadReport& head : report.heads) {
    v1::HeadMemory& out = *reply.add_heads();
    out.set_layer(head.layer);
    out.set_head(head.head);
    out.set_absorbed_pairs(head.absorbed_pairs);
    for (const engine::CachedPairReport& pair : head.pairs) {
      v1::CachedPair& one = *out.add_pairs();
      one.set_position(pair.position);
      one.set_score(pair.score);
      one.set_recall_error(pair.recall_error);
      auto context = contexts.find(pair.position);
      if (context != contexts.end()) one.set_context(context->second);
    }
  }
  return reply;
}

// Handlers: check, call the engine, convert, reply.
class Handlers final : public v1::Worker::CallbackService {
 public:
  explicit Handlers(std::shared_ptr<WorkerState> worker) : worker_(std::move(worker)) {}

  grpc::ServerBidiReactor<v1::ServeRequest, v1::ServeReply>* Serve(
      grpc::CallbackServerContext*) override {
    return new ServeCall(worker_);
  }

  grpc::ServerUnaryReactor* Snapshot(grpc::CallbackServerContext*,
                                     const v1::WorkerSnapshotRequest* request,
                                     v1::SnapshotInfo* reply) override {
    auto call = NewCall(reply);
    worker_->engine().Snapshot(request->stream_id(), request->name(), [call](auto result) {
      call->Finish(result, [&](v1::SnapshotInfo* out) { *out = worker::ToProto(*result); });
    });
    return call->reactor();
  }

  grpc::ServerUnaryReactor* InspectMemory(grpc::CallbackServerContext*,
                                          const v1::InspectMemoryRequest* request,
                                          v1::InspectMemoryReply* reply) override {
    auto call = NewCall(reply);
    std::optional<uint32_t> layer, head;
    if (request->has_layer()) layer = request->layer();
    if (request->has_head()) head = request->head();
    worker_->engine().Inspect(
        request->stream_id(), layer, head,
        [call, backend = worker_->backend(), tokenizer = worker_->tokenizer(),
         id = request->stream_id()](absl::StatusOr<engine::MemoryReport> report) {
          if (!report.ok()) return call->Finish(report, [](v1::InspectMemoryReply*) {});
          std::vector<uint64_t> positions;
          for (const engine::HeadReport& one : report->heads) {
            for (const engine::CachedPairReport& pair : one.pairs) {
              positions.push_back(pair.position);
            }
          }
          ReadContexts(backend, tokenizer, id, std::move(positions), report->position,
                       [call, report](Contexts contexts) {
                         v1::InspectMemoryReply answer = ToProto(*report, contexts);
                         call->Finish(CheckFits(answer), [&](v1::InspectMemoryReply* out) {
                           *out = std::move(answer);
                         });
                       });
        });
    return call->reactor();
  }

  grpc::ServerUnaryReactor* Release(grpc::CallbackServerContext*,
                                    const v1::ReleaseStreamRequest* request,
                                    v1::ReleaseStreamReply* reply) override {
    auto call = NewCall(reply);
    worker_->engine().Release(request->stream_id(), request->target(), [call](auto result) {
      call->Finish(result, [&](v1::ReleaseStreamReply* out) {
        out->set_position(result->position);
        if (result->snapshot) *out->mutable_snapshot() = worker::ToProto(*result->snapshot);
      });
    });
    return call->reactor();
  }

  grpc::ServerUnaryReactor* Prepare(grpc::CallbackServerContext*,
                                    const v1::PrepareStreamRequest* request,
                                    v1::PrepareStreamReply* reply) override {
    auto call = NewCall(reply);
    worker_->engine().Prepare(request->stream_id(), request->takeover(),
                              [call, address = worker_->address()](auto result) {
                                call->Finish(result, [&](v1::PrepareStreamReply* out) {
                                  out->set_position(result->position);
                                  *out->mutable_restore() =
                                      worker::ToProto(result->restore, address);
                                });
                              });
    return call->reactor();
  }

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext*, const v1::DrainRequest* request,
                                  v1::DrainReply* reply) override {
    auto call = NewCall(reply);
    const absl::Status valid = rpc::CheckDrainDeadline("deadline_ms", request->deadline_ms());
    if (!valid.ok()) {
      call->Finish(valid, [](v1::DrainReply*) {});
      return call->reactor();
    }
    const auto deadline = std::chrono::milliseconds(
        request->deadline_ms() > 0 ? request->deadline_ms() : int64_t{10'000});
    worker_->engine().Drain(deadline, [call](uint32_t released) {
      call->Finish(absl::OkStatus(),
                   [&](v1::DrainReply* out) { out->set_released_streams(released); });
    });
    return call->reactor();
  }

  grpc::ServerUnaryReactor* DescribeWorker(grpc::CallbackServerContext* context,
                                           const v1::DescribeWorkerRequest*,
                                           v1::WorkerInfo* reply) override {
    // Whoever asks whether we are well must not send anybody here.
    if (const absl::Status health = worker_->engine().health(); !health.ok()) {
      grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
      reactor->Finish(rpc::ToGrpc(health));
      return reactor;
    }
    const engine::EngineStatistics now = worker_->engine().statistics();
    reply->set_address(worker_->address());
    reply->set_instance(worker_->instance());
    reply->set_draining(now.draining);
    reply->set_slots(now.slots);
    reply->set_slots_used(now.slots_used);
    reply->set_open_streams(now.open_streams);
    reply->set_queue_depth(now.queued_ops);
    reply->set_model_fingerprint(worker_->engine().model().fingerprint());
    reply->set_instruction_class(worker_->engine().instruction_class());
    reply->set_steps(now.steps);
    reply->set_tokens(now.prefill_tokens + now.decode_tokens);
    for (const StageLinkStats& stage : worker_->StageStats()) {
      v1::PipelineStage& one = *reply->add_stages();
      one.set_address(stage.address);
      one.set_first_layer(stage.layers.first);
      one.set_last_layer(stage.layers.end - 1);
      one.set_open(stage.open);
      one.set_instruction_class(stage.instruction_class);
    }
    return Now(context);
  }

  grpc::ServerUnaryReactor* DescribeModel(grpc::CallbackServerContext* context,
                                          const v1::DescribeModelRequest*,
                                          v1::ModelInfo* reply) override {
    *reply = worker::DescribeModel(worker_->engine().model(), worker_->model_name(),
                                   worker_->engine().instruction_class());
    return Now(context);
  }

 private:
  template <typename Reply>
  std::shared_ptr<UnaryCall<Reply>> NewCall(Reply* reply) {
    return UnaryCall<Reply>::Make(reply, worker_->engine().options());
  }
  static grpc::ServerUnaryReactor* Now(grpc::CallbackServerContext* context) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  const std::shared_ptr<WorkerState> worker_;
};

class GrpcWorkerService final : public WorkerService {
 public:
  explicit GrpcWorkerService(std::shared_ptr<WorkerState> worker)
      : worker_(std::move(worker)), handlers_(worker_) {}

  grpc::Service* service() override { return &handlers_; }
  void SetAddress(const std::string& address) override { worker_->SetAddress(address); }
  engine::EngineStatistics Stats() const override { return worker_->engine().statistics(); }
  std::vector<StageLinkStats> StageStats() const override { return worker_->StageStats(); }
  absl::Status Health() const override { return worker_->engine().health(); }

  uint32_t Drain(std::chrono::milliseconds deadline) override {
    auto drained = std::make_shared<std::promise<uint32_t>>();
    auto result = drained->get_future();
    worker_->engine().Drain(deadline,
                            [drained](uint32_t released) { drained->set_value(released); });
    // The engine keeps the deadline itself; the margin is for a pass that is under way.
    if (result.wait_for(deadline + std::chrono::seconds(5)) != std::future_status::ready) return 0;
    return result.get();
  }

 private:
  const std::shared_ptr<WorkerState> worker_;
  Handlers handlers_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<WorkerService>> WorkerService::Create(const WorkerOptions& options,
                                                                     const ServedModel& served) {
  if (options.lease < kLeaseMin) {
    return absl::InvalidArgumentError(absl::StrCat("lease: ", options.lease.count(),
                                                   " ms, must be at least ", kLeaseMin.count()));
  }
  ShardBackendOptions backend_options;
  backend_options.map = options.map;
  backend_options.shards = options.shards;
  backend_options.instance = NewInstance();
  backend_options.lease = options.lease;
  const std::string instance = backend_options.instance;
  auto backend = ShardBackend::Create(std::move(backend_options));
  if (!backend.ok()) return backend.status();
  auto runner = MakeRunner(options, served);
  if (!runner.ok()) return runner.status();
  auto engine =
      engine::Engine::Create(options.engine, std::move(runner->runner), served.tokenizer, *backend);
  if (!engine.ok()) return engine.status();
  auto state =
      std::make_shared<WorkerState>(*std::move(backend), served.tokenizer, *std::move(engine),
                                    instance, served.name, std::move(runner->stages));
  return std::unique_ptr<WorkerService>(new GrpcWorkerService(std::move(state)));
}

}  // namespace lola::worker
