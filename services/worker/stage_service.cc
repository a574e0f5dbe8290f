#include "services/worker/stage_service.h"

#include <grpcpp/grpcpp.h>

#include <mutex>
#include <utility>

#include "lola/v1/stage.grpc.pb.h"
#include "services/engine/model.h"
#include "services/engine/pipeline/layer_stage.h"
#include "services/rpc/logging.h"
#include "services/rpc/status_map.h"
#include "services/worker/stage_session.h"

namespace lola::worker {
namespace {

class GrpcStageService final : public StageService, public v1::Stage::Service {
 public:
  GrpcStageService(const StageOptions& options, std::shared_ptr<const engine::Model> model)
      : options_(options), model_(std::move(model)) {}

  grpc::Service* service() override { return this; }

  StageStatistics Stats() const override {
    std::lock_guard lock(mu_);
    StageStatistics now;
    now.open = context_ != nullptr;
    now.slots = now.open ? terms_.slots : 0;
    now.slot_bytes = now.open ? terms_.slot_bytes : 0;
    now.sessions = sessions_;
    now.refusals = refusals_;
    now.steps = counters_.steps;
    now.rows = counters_.rows;
    now.loads = counters_.loads;
    now.copies = counters_.copies;
    now.lost = !Health().ok();
    now.runner = options_.maker->counters();
    return now;
  }
  absl::Status Health() const override { return options_.maker->health(); }

  void Stop() override {
    std::lock_guard lock(mu_);
    if (context_ != nullptr) context_->TryCancel();
  }

  grpc::Status Session(grpc::ServerContext* context, StageSession::Stream* stream) override {
    v1::StageRequest request;
    if (!stream->Read(&request)) return grpc::Status::OK;
    if (!request.has_open()) {
      return rpc::ToGrpc(absl::InvalidArgumentError("op: the first message must be open"));
    }
    const absl::StatusOr<engine::StageTerms> terms = FromProto(request.open());
    if (!terms.ok()) return rpc::ToGrpc(terms.status());
    absl::Status status = Take(context, *terms);
    if (!status.ok()) return rpc::ToGrpc(status);
    status = Run(*terms, stream);
    // Memory first: whoever finds the stage free finds its memory free too.
    std::lock_guard lock(mu_);
    context_ = nullptr;
    return rpc::ToGrpc(status);
  }

  grpc::Status DescribeStage(grpc::ServerContext*, const v1::DescribeStageRequest*,
                             v1::StageInfo* reply) override {
    const StageStatistics now = Stats();
    reply->set_model_fingerprint(model_->fingerprint());
    reply->set_model_name(options_.model_name);
    reply->set_first_layer(model_->layers().first);
    reply->set_last_layer(model_->layers().end - 1);
    reply->set_model_layers(model_->geometry().layers);
    reply->set_weight_dtype(kernels::DtypeName(model_->dtype()));
    reply->set_weight_bytes(model_->weight_bytes());
    reply->set_slots(now.slots);
    reply->set_steps(now.steps);
    reply->set_rows(now.rows);
    reply->set_instruction_class(options_.maker->instruction_class());
    reply->set_samples(options_.maker->samples() && model_->has_last_layer());
    reply->set_revision(kStageRevision);
    std::lock_guard lock(mu_);
    if (context_ != nullptr) reply->set_front(terms_.front);
    return grpc::Status::OK;
  }

 private:
  // Makes the session the stage's only one.
  absl::Status Take(grpc::ServerContext* context, const engine::StageTerms& terms) {
    std::lock_guard lock(mu_);
    if (context_ == nullptr) {
      context_ = context;
      terms_ = terms;
      return absl::OkStatus();
    }
    ++refusals_;
    absl::Status taken = absl::FailedPreconditionError(
        absl::StrCat("front: ", terms.front, ", but the stage is in use by ", terms_.front));
    rpc::SetDetail(taken, rpc::kOwnerDetail, terms_.front);
    return taken;
  }

  absl::Status Run(const engine::StageTerms& terms, StageSession::Stream* stream) {
    auto stage = options_.maker->Make(model_, terms);
    if (!stage.ok()) {
      rpc::LogWarn("front refused", {{"front", terms.front}, {"status", stage.status()}});
      std::lock_guard lock(mu_);
      ++refusals_;
      return stage.status();
    }
    {
      std::lock_guard lock(mu_);
      ++sessions_;
    }
    rpc::LogInfo("session begins", {{"front", terms.front},
                                    {"layers", terms.layers.ToString()},
                                    {"slots", terms.slots},
                                    {"slot_bytes", terms.slot_bytes}});
    absl::Status status = StageSession(stream, *std::move(stage), &counters_).Run();
    rpc::LogInfo("session ended", {{"front", terms.front}, {"status", status}});
    return status;
  }

  const StageOptions options_;
  const std::shared_ptr<const engine::Model> model_;
  StageCounters counters_;
  mutable std::mutex mu_;
  grpc::ServerContext* context_ = nullptr;  // guarded by mu_; of the session there is
  engine::StageTerms terms_;                // guarded by mu_; of that session
  uint64_t sessions_ = 0, refusals_ = 0;    // guarded by mu_
};

}  // namespace

absl::StatusOr<std::unique_ptr<StageService>> StageService::Create(
    const StageOptions& options, std::shared_ptr<const engine::Model> model) {
  if (absl::Status runs = options.maker->CheckModel(*model); !runs.ok()) return runs;
  return std::unique_ptr<StageService>(new GrpcStageService(options, std::move(model)));
}

}  // namespace lola::worker
