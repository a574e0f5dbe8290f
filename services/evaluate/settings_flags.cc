#include "services/evaluate/settings_flags.h"

namespace lola::evaluate {
void SettingsFlags::Add(CLI::App& app) {
  const char* group = "Memory settings (default: the profile's)";
  const auto option = [&](const char* name, auto& value, const char* text) {
    return app.add_option(name, value, text)->group(group);
  };
  option("--window", values_.window, "window, tokens");
  option("--chunk", values_.chunk, "chunk, tokens; default: the window when it is given");
  option("--cache-pairs", values_.cache_pairs, "pairs of every sparse cache; 0 = base model");
  option("--cache-pairs-per-layer", values_.cache_pairs_per_layer,
         "pairs of each layer's caches, a,b,...")
      ->delimiter(',');
  option("--mixing", values_.mixing, "gated_natural, natural or lolcats");
  option("--memory-positions", values_.memory_positions, "rotary or constant");
  option("--memory-distance", values_.memory_distance, "tokens, for constant positions");
  option("--mass-cap", values_.mass_cap, "linear mass cap, pairs; 0 = none");
  option("--redundancy-threshold", values_.redundancy_threshold, "share of |v|; 0 = no discount");
  option("--score", values_.score,
         "sre, leave_one_out, hypothetical, their relative_ forms, value_norm, key_norm, "
         "attention, random or recency");
  option("--rescore", values_.rescore, "score cached pairs anew at every event: true or false");
  option("--score-epsilon", values_.score_epsilon, "kept away from zero by this");
  option("--cache-dtype", values_.cache_dtype,
         "rows of window and sparse cache: float32, bfloat16 or float8");
  option("--sinks", values_.sinks, "first tokens that never leave the sparse cache");
  option("--cache-sharing", values_.cache_sharing,
         "head, group (one cache per kv head, scores summed) or group_max");
  option("--adaptive-mass", values_.adaptive_mass,
         "share of the scores' sum to keep; 0 = --cache-pairs");
  option("--cache-pairs-min", values_.cache_pairs_min, "least pairs with --adaptive-mass");
}

}  // namespace lola::evaluate
