// lola.v1.Stage: layers of a model behind gRPC, for the front of a pipeline. Knows nothing of
// shards, tokenizers or streams; holds states only as long as a session lasts.
//
// Every method may be called from any thread. The server must be shut down before the service is
// destroyed.
#ifndef LOLA_SERVICES_WORKER_STAGE_SERVICE_H_
#define LOLA_SERVICES_WORKER_STAGE_SERVICE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/engine/runtime/statistics.h"

namespace grpc {
class Service;
}  // namespace grpc

namespace lola::engine {
class Model;
class StageMaker;
}  // namespace lola::engine

namespace lola::worker {

struct StageOptions {
  std::string model_name;
  std::shared_ptr<engine::StageMaker> maker;  // what computes, see runner.h
};

struct StageStatistics {
  bool open = false;   // a session
  uint64_t slots = 0;  // of that session
  uint64_t slot_bytes = 0;
  uint64_t sessions = 0, refusals = 0;
  uint64_t steps = 0, rows = 0;
  uint64_t loads = 0, copies = 0;
  bool lost = false;  // what computes has failed for good
  engine::RunnerCounters runner;
};

class StageService {
 public:
  // As StageMaker::CheckModel.
  static absl::StatusOr<std::unique_ptr<StageService>> Create(
      const StageOptions& options, std::shared_ptr<const engine::Model> model);
  virtual ~StageService() = default;

  virtual grpc::Service* service() = 0;
  virtual StageStatistics Stats() const = 0;
  // OK while sessions can be served. UNAVAILABLE once the device is lost: the process has to be
  // started anew.
  virtual absl::Status Health() const = 0;
  // Ends the session there is; the front restores its streams elsewhere.
  virtual void Stop() = 0;
};

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_STAGE_SERVICE_H_
