// The model as the scheduler sees it: one call that advances many streams. Implementations: the
// CPU (here), a device (services/engine/device), a pipeline of processes
// (services/engine/pipeline). Not thread-safe: Step, MakeStates and Recover are called from the
// scheduler thread only (MakeStates before it starts), health from any thread; the rest is
// immutable.
#ifndef LOLA_SERVICES_ENGINE_RUNTIME_MODEL_RUNNER_H_
#define LOLA_SERVICES_ENGINE_RUNTIME_MODEL_RUNNER_H_

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/engine/model.h"
#include "services/engine/runtime/resident_states.h"
#include "services/engine/runtime/statistics.h"

namespace lola::engine {

class ModelRunner {
 public:
  virtual ~ModelRunner() = default;
  virtual const Model& model() const = 0;
  virtual size_t rows_max() const = 0;
  // As Model::Step. UNAVAILABLE: what runs the model has failed (health() says so too), and no
  // state on it is to be trusted.
  virtual absl::Status Step(std::span<Segment> segments) = 0;

  // True: Segment::sampling is honoured, and `logits` may be null with logits_rows 1.
  virtual bool samples() const { return false; }
  // States continue bit for bit within one class: "avx512bf16", "cuda-sm90x132-lt130200".
  virtual std::string instruction_class() const;
  // As of the last step. Scheduler thread.
  virtual RunnerCounters counters() const { return {}; }
  // OK when streams with these settings can run here; errors name field and value.
  virtual absl::Status CheckSettings(const memory::LolaSettings& settings) const {
    return model().CheckSettings(settings);
  }
  // Slots for states that Step can work on. Called once, before the first Step. `copies` may leave
  // at the same time. RESOURCE_EXHAUSTED when they do not fit.
  virtual absl::StatusOr<std::unique_ptr<ResidentStates>> MakeStates(size_t slot_bytes,
                                                                     size_t slots, size_t copies);

  // OK while Step can work. UNAVAILABLE with the reason from the moment a device or a process was
  // lost: every state in its slots is lost, and Step refuses until Recover() is OK.
  virtual absl::Status health() const { return absl::OkStatus(); }
  // Called now and then while health() is not OK, once nobody relies on the slots' contents any
  // more. Tries, without blocking, to become usable again; OK when it is. The default: what is lost
  // stays lost.
  virtual absl::Status Recover() { return health(); }
};

// Runs `model` with a thread pool and a workspace of its own.
std::unique_ptr<ModelRunner> MakeModelRunner(std::shared_ptr<const Model> model, size_t rows_max,
                                             int threads);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_RUNTIME_MODEL_RUNNER_H_
