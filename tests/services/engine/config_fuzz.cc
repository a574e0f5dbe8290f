#include <string_view>

#include "services/engine/config.h"

// Whatever the text is: a Status, or a configuration that validates.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = lola::engine::ParseModelConfig(text);
  if (config.ok() && !config->defaults.Validate(config->geometry).ok()) __builtin_trap();
  return 0;
}
