// The model as the scheduler sees it: one call that advances many streams. The only other
// implementations are in tests, where they break things on purpose.
// Not thread-safe: Step is called from the scheduler thread only; the rest is immutable.
#ifndef LOLA_SERVICES_ENGINE_RUNTIME_MODEL_RUNNER_H_
#define LOLA_SERVICES_ENGINE_RUNTIME_MODEL_RUNNER_H_

#include <cstddef>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "services/engine/model.h"

namespace lola::engine {

class ModelRunner {
 public:
  virtual ~ModelRunner() = default;
  virtual const Model& model() const = 0;
  virtual size_t rows_max() const = 0;
  // As Model::Step.
  virtual absl::Status Step(std::span<Segment> segments) = 0;
};

// Runs `model` with a thread pool and a workspace of its own.
std::unique_ptr<ModelRunner> MakeModelRunner(std::shared_ptr<const Model> model, size_t rows_max,
                                             int threads);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_RUNTIME_MODEL_RUNNER_H_
