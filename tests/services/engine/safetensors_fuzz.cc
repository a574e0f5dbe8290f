#include "services/engine/safetensors.h"

#include <vector>

// Whatever the bytes are: either a Status, or tensors whose views lie inside the file.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file = std::as_bytes(std::span(data, size));
  const auto tensors = lola::engine::ParseSafetensors(file, "fuzz");
  if (!tensors.ok()) return 0;
  for (const auto& [name, view] : *tensors) {
    if (view.data.empty()) continue;
    if (view.data.data() < file.data() ||
        view.data.data() + view.data.size() > file.data() + file.size()) {
      __builtin_trap();
    }
    std::vector<float> values(view.elements());
    (void)lola::engine::CopyToFloat(name, view, 0, values);
  }
  return 0;
}
