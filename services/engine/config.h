// config.json of a model directory: Hugging Face Llama or Mistral fields and the nested "lola"
// object. Parsing is pure and bounds-checked; every refused field is named with its value.
#ifndef LOLA_SERVICES_ENGINE_CONFIG_H_
#define LOLA_SERVICES_ENGINE_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/rope/rope.h"
#include "memory/stream/settings.h"

namespace lola::engine {

// What the model was linearised with; informative (defaults decide what runs).
struct TrainedWith {
  uint32_t window = 0;
  uint32_t length = 0;  // tokens of the longest training text
  std::string mask;
  std::string memory_positions;
  uint32_t memory_distance = 0;
  std::string mixing;
};

struct ModelConfig {
  memory::ModelGeometry geometry;
  float rms_epsilon = 1e-5f;
  double rope_theta = 10000.0;
  std::optional<kernels::Llama3Scaling> rope_scaling;
  bool tied_embeddings = false;
  uint64_t max_positions = 0;  // max_position_embeddings; 0 = not given
  // Mistral: the model attends to this many positions, the token's own included; 0 = to all. A
  // softmax stream no longer than that never notices, so longer ones are refused.
  uint32_t sliding_window = 0;
  std::optional<int32_t> bos;
  std::vector<int32_t> eos;  // one id or a list in the file; empty = none
  bool has_lola = false;     // false: plain Llama, softmax mode only
  TrainedWith trained;
  memory::LolaSettings defaults;  // resolved and valid for this geometry
};

// INVALID_ARGUMENT naming the field and its value; UNIMPLEMENTED for features this build lacks
// (attention_bias, other activations, other rope types, ...).
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json);
// Reads `<model_dir>/config.json` and, when present, eos_token_id of generation_config.json.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_CONFIG_H_
