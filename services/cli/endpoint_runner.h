// Evaluation through an endpoint: every text is a stream of its own, created, fed and deleted;
// every question a fork of it. Several texts at the same time, one thread each.
#ifndef LOLA_SERVICES_CLI_ENDPOINT_RUNNER_H_
#define LOLA_SERVICES_CLI_ENDPOINT_RUNNER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "services/cli/connection.h"
#include "services/cli/eval_flags.h"
#include "services/engine/tokenizer.h"
#include "services/evaluate/runner.h"

namespace lola::cli {

class EndpointRunner : public evaluate::Runner {
 public:
  // Asks what the endpoint serves, and makes a stream to see that it takes the settings.
  // Connection and tokenizer outlive the runner.
  static absl::StatusOr<std::unique_ptr<EndpointRunner>> Create(const Connection& connection,
                                                                const engine::Tokenizer& tokenizer,
                                                                const EvalFlags& flags);

  const evaluate::RunSetup& setup() const override { return setup_; }
  // INVALID_ARGUMENT when the endpoint splits text into other tokens than the tokenizer given.
  absl::Status Run(const evaluate::Task& task, std::span<const uint64_t> samples,
                   const evaluate::RunCallbacks& callbacks) override;
  // As evaluate::OutsideWindow.
  uint64_t outside_window() const { return outside_window_; }

 private:
  EndpointRunner(const Connection& connection, const engine::Tokenizer& tokenizer,
                 const EvalFlags& flags);
  struct Shared;
  v1::OpenStream OpenFor(const std::string& id) const;
  absl::Status Probe();
  absl::Status RunSample(Shared& shared, uint64_t index) const;
  absl::Status Feed(Shared& shared, uint64_t index, const std::string& id,
                    evaluate::SampleResult* result) const;
  absl::Status Ask(Shared& shared, const std::string& id, const evaluate::Question& question,
                   evaluate::Answer* answer) const;
  void Delete(const std::string& id) const;

  const Connection& connection_;
  const engine::Tokenizer& tokenizer_;
  const std::string prefix_;  // of stream ids: this run's own
  const std::chrono::milliseconds patience_;
  const uint32_t streams_;
  v1::LolaSettings settings_;
  bool bos_ = false;
  int32_t bos_id_ = 0;
  evaluate::RunSetup setup_;
  uint64_t outside_window_ = 0;
};

}  // namespace lola::cli

#endif  // LOLA_SERVICES_CLI_ENDPOINT_RUNNER_H_
