// Which backend runs the model of this worker. Called once, at start.
#ifndef LOLA_SERVICES_WORKER_RUNNER_H_
#define LOLA_SERVICES_WORKER_RUNNER_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "services/engine/pipeline/layer_stage.h"
#include "services/engine/runtime/model_runner.h"
#include "services/worker/worker_service.h"

namespace lola::worker {

// Stages of this model: on the GPU or the CPU, chosen and refused like MakeRunner's.
absl::StatusOr<std::shared_ptr<engine::StageMaker>> MakeStages(const ComputeOptions& options,
                                                               const engine::Model& model);

struct MadeRunner {
  std::unique_ptr<engine::ModelRunner> runner;
  std::vector<std::shared_ptr<const StageLinkCounters>> stages;  // of a pipeline, in order
};

// With options.stages: a pipeline whose first layers are the served model's; INVALID_ARGUMENT when
// its layers are not those of a whole model. Each stage chooses its own backend.
//
// "auto" takes the GPU when there is one that can run the model, and says in the log what it chose
// and why. "cuda" is refused with UNAVAILABLE and the reason where it is not possible;
// INVALID_ARGUMENT for other words and numbers.
absl::StatusOr<MadeRunner> MakeRunner(const WorkerOptions& options, const ServedModel& served);

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_RUNNER_H_
