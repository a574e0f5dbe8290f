// Flags of `lola eval`, filled by RegisterEval. Plain values.
#ifndef LOLA_SERVICES_CLI_EVAL_FLAGS_H_
#define LOLA_SERVICES_CLI_EVAL_FLAGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "services/evaluate/settings_choice.h"
#include "services/evaluate/tasks.h"
#include "services/rpc/options.h"

namespace lola::cli {

struct EvalFlags {
  evaluate::TaskOptions task;
  evaluate::SettingsChoice settings;
  std::vector<std::string> distances, cache_pairs_per_layer;  // whole numbers, as given

  std::string model;      // in this process; empty = through the endpoint
  std::string tokenizer;  // folder, for sizing texts for an endpoint
  std::string dtype = "float32";
  int threads = 2;
  uint32_t streams = 8;  // texts side by side, in each thread or at the endpoint
  std::string out;
  uint64_t print_samples = 0;
};

// Adds the command and its options to `set`.
void RegisterEval(rpc::OptionSet& set, EvalFlags* flags);

// The flags with lists read, files found and the task's name checked. INVALID_ARGUMENT naming flag
// and value.
absl::StatusOr<EvalFlags> ResolveEval(const EvalFlags& flags);

}  // namespace lola::cli

#endif  // LOLA_SERVICES_CLI_EVAL_FLAGS_H_
