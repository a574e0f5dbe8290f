#include "services/engine/runtime/model_runner.h"

#include <utility>

#include "kernels/core/cpu.h"
#include "kernels/core/thread_pool.h"

namespace lola::engine {
namespace {

class PooledRunner : public ModelRunner {
 public:
  PooledRunner(std::shared_ptr<const Model> model, size_t rows_max, int threads)
      : model_(std::move(model)), pool_(threads), workspace_(*model_, rows_max, threads) {}

  const Model& model() const override { return *model_; }
  size_t rows_max() const override { return workspace_.max_rows(); }
  absl::Status Step(std::span<Segment> segments) override {
    return model_->Step(segments, workspace_, pool_);
  }

 private:
  const std::shared_ptr<const Model> model_;
  kernels::ThreadPool pool_;
  StepWorkspace workspace_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ResidentStates>> ModelRunner::MakeStates(size_t slot_bytes,
                                                                        size_t slots, size_t) {
  return MakeHostStates(slot_bytes, slots);
}

std::string ModelRunner::instruction_class() const {
  return std::string(kernels::InstructionClass());
}

std::unique_ptr<ModelRunner> MakeModelRunner(std::shared_ptr<const Model> model, size_t rows_max,
                                             int threads) {
  return std::make_unique<PooledRunner>(std::move(model), rows_max, threads);
}

}  // namespace lola::engine
