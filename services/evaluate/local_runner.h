// The engine in this process: several texts side by side in every thread, questions on copies of
// their states. The answers do not depend on threads or on what runs side by side (promise P2).
#ifndef LOLA_SERVICES_EVALUATE_LOCAL_RUNNER_H_
#define LOLA_SERVICES_EVALUATE_LOCAL_RUNNER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/stream/settings.h"
#include "memory/stream/statistics.h"
#include "services/engine/model.h"
#include "services/engine/tokenizer.h"
#include "services/evaluate/runner.h"

namespace lola::evaluate {

struct LocalOptions {
  std::string name;  // of the model, for the report
  memory::LolaSettings settings;
  bool bos = true;
  int threads = 2;
  uint32_t streams_per_thread = 8;  // fewer when memory or samples are few
};

class LocalRunner : public Runner {
 public:
  // Model and tokenizer outlive the runner. INVALID_ARGUMENT naming the option and its value.
  static absl::StatusOr<std::unique_ptr<LocalRunner>> Create(const engine::Model& model,
                                                             const engine::Tokenizer& tokenizer,
                                                             const LocalOptions& options);
  ~LocalRunner() override;

  const RunSetup& setup() const override;
  absl::Status Run(const Task& task, std::span<const uint64_t> samples,
                   const RunCallbacks& callbacks) override;
  // Counters of all runs so far.
  const memory::MemoryStats& stats() const;

 private:
  struct Impl;
  explicit LocalRunner(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_LOCAL_RUNNER_H_
