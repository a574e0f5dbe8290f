// What all calls of a worker share. Private to services/worker. Thread-safe.
#ifndef LOLA_SERVICES_WORKER_WORKER_STATE_H_
#define LOLA_SERVICES_WORKER_WORKER_STATE_H_

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "services/engine/runtime/engine.h"
#include "services/rpc/status_map.h"
#include "services/worker/shard_backend.h"
#include "services/worker/stage_client.h"

namespace lola::worker {

class WorkerState {
 public:
  WorkerState(std::shared_ptr<ShardBackend> backend,
              std::shared_ptr<const engine::Tokenizer> tokenizer,
              std::unique_ptr<engine::Engine> engine, std::string instance, std::string model_name,
              std::vector<std::shared_ptr<const StageLinkCounters>> stages)
      : backend_(std::move(backend)),
        tokenizer_(std::move(tokenizer)),
        instance_(std::move(instance)),
        model_name_(std::move(model_name)),
        stages_(std::move(stages)),
        engine_(std::move(engine)) {}

  engine::Engine& engine() { return *engine_; }
  const std::shared_ptr<ShardBackend>& backend() const { return backend_; }
  const std::shared_ptr<const engine::Tokenizer>& tokenizer() const { return tokenizer_; }
  const std::string& instance() const { return instance_; }
  const std::string& model_name() const { return model_name_; }

  std::vector<StageLinkStats> StageStats() const {
    std::vector<StageLinkStats> all;
    for (const auto& stage : stages_) all.push_back(stage->Now());
    return all;
  }

  std::string address() const {
    std::lock_guard lock(mu_);
    return address_;
  }
  void SetAddress(const std::string& address) {
    backend_->SetAddress(address);
    std::lock_guard lock(mu_);
    address_ = address;
  }

 private:
  const std::shared_ptr<ShardBackend> backend_;
  const std::shared_ptr<const engine::Tokenizer> tokenizer_;
  const std::string instance_;
  const std::string model_name_;
  const std::vector<std::shared_ptr<const StageLinkCounters>> stages_;
  mutable std::mutex mu_;
  std::string address_;  // guarded by mu_
  // Last, so that it goes first: until it is gone its sinks ask for what is above.
  const std::unique_ptr<engine::Engine> engine_;
};

// As callers hear it. RESOURCE_EXHAUSTED carries when to try again, as a fact programs can read,
// where that helps. A shard that did not answer in time is away like one that refuses: it is not
// the caller's deadline that passed.
inline absl::Status WithHint(absl::Status status, const engine::EngineOptions& options) {
  if (absl::IsDeadlineExceeded(status)) {
    return absl::UnavailableError(absl::StrCat("no answer in time: ", status.message()));
  }
  if (absl::IsResourceExhausted(status) && !status.GetPayload(engine::kLastingPayload)) {
    rpc::SetDetail(status, rpc::kRetryAfterMsDetail, std::to_string(options.retry_hint.count()));
  }
  return status;
}

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_WORKER_STATE_H_
