// Memory settings as command line options, applied on top of a profile's. One thread.
#ifndef LOLA_SERVICES_EVALUATE_SETTINGS_FLAGS_H_
#define LOLA_SERVICES_EVALUATE_SETTINGS_FLAGS_H_

#include <CLI/CLI.hpp>
#include <utility>

#include "absl/status/statusor.h"
#include "memory/stream/settings.h"
#include "services/evaluate/settings_choice.h"

namespace lola::evaluate {

class SettingsFlags {
 public:
  // Adds one option for every setting; this object must outlive the parsing.
  void Add(CLI::App& app);

  // As SettingsOverrides::Over.
  absl::StatusOr<memory::LolaSettings> Apply(memory::LolaSettings settings) const {
    return values_.Over(std::move(settings));
  }

 private:
  SettingsOverrides values_;
};

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_SETTINGS_FLAGS_H_
