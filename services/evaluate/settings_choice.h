// How a run remembers, as people name it: a profile, a mode, and single values over it.
// Plain values; any thread.
#ifndef LOLA_SERVICES_EVALUATE_SETTINGS_CHOICE_H_
#define LOLA_SERVICES_EVALUATE_SETTINGS_CHOICE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "memory/stream/settings.h"
#include "services/engine/model.h"

namespace lola::evaluate {

// Values in place of a profile's; absent or empty: the profile's.
struct SettingsOverrides {
  // A window alone moves the chunk too, pairs alone drop budgets per layer.
  std::optional<uint32_t> window, chunk, cache_pairs, memory_distance, mass_cap, sinks;
  std::optional<uint32_t> cache_pairs_min;
  std::optional<float> redundancy_threshold, adaptive_mass, score_epsilon;
  std::optional<bool> rescore;
  std::vector<uint32_t> cache_pairs_per_layer;
  std::string mixing, memory_positions, score, cache_dtype, cache_sharing;

  // INVALID_ARGUMENT naming the setting and the word it does not know; numbers are checked by
  // LolaSettings::Validate.
  absl::StatusOr<memory::LolaSettings> Over(memory::LolaSettings settings) const;
};

struct SettingsChoice {
  std::string profile = "model";  // "paper", "lifelong", or "model": its own defaults
  // "lola", "base" (no sparse cache), "softmax" (full cache), or "model": lola, and softmax for a
  // model without feature maps.
  std::string mode = "model";
  // Negative or empty: what profile and mode say.
  int cache_pairs = -1;
  std::vector<uint32_t> cache_pairs_per_layer;
  int window = -1;
  int chunk = -1;  // the window, when only that is given
  int memory_distance = -1;
  int mass_cap = -1;
  double redundancy_threshold = -1.0;
  int sinks = -1;
  double adaptive_mass = -1.0;
  int cache_pairs_min = -1;
  double score_epsilon = -1.0;
  std::string rescore;  // "true", "false"
  std::string score, mixing, memory_positions, cache_dtype, cache_sharing;

  // INVALID_ARGUMENT for a word that is neither.
  absl::StatusOr<std::optional<bool>> Rescore() const;
};

// INVALID_ARGUMENT naming the field and its value; the result may still not fit the model.
absl::StatusOr<memory::LolaSettings> Choose(const engine::Model& model,
                                            const SettingsChoice& choice);

// Settings by the names used in tables: mode "lola", "base" (no cache), "softmax" or "model" under
// profile "paper", "lifelong" or "model" (the model's defaults). FAILED_PRECONDITION for lola or
// base of a model without feature maps. Keeps the model's window, chunk, distance
// and, for "lifelong", its cap, threshold and budgets.
absl::StatusOr<memory::LolaSettings> NamedSettings(const engine::Model& model,
                                                   std::string_view profile, std::string_view mode);

// Tokens after which a pair has surely left the window: max(192, 2 * window + 64); 192 in softmax
// mode, whose window never ends.
uint64_t OutsideWindow(const memory::LolaSettings& settings);

// Every field by its name on the wire, in that order.
std::vector<std::pair<std::string, std::string>> SettingsFields(
    const memory::LolaSettings& settings);

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_SETTINGS_CHOICE_H_
