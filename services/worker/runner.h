// Which backend runs the model of this worker. Called once, at start.
#ifndef LOLA_SERVICES_WORKER_RUNNER_H_
#define LOLA_SERVICES_WORKER_RUNNER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "services/engine/runtime/model_runner.h"
#include "services/worker/worker_service.h"

namespace lola::worker {

// "auto" takes the GPU when there is one that can run the model, and says in the log what it chose
// and why. "cuda" is refused with UNAVAILABLE and the reason where it is not possible;
// INVALID_ARGUMENT for other words and numbers.
absl::StatusOr<std::unique_ptr<engine::ModelRunner>> MakeRunner(const WorkerOptions& options,
                                                                const ServedModel& served);

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_RUNNER_H_
