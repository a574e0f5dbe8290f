// A CUDA plug-in without CUDA: exports what the real one exports, and fails to open a device the
// way the program that loads it asks for in LOLA_FAKE_PLUGIN_ERROR.
#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/plugin.h"

namespace {

lola::cuda::Device* Open(const lola::cuda::DeviceOptions& options, char* error,
                         size_t error_bytes) {
  const char* why = std::getenv("LOLA_FAKE_PLUGIN_ERROR");
  std::snprintf(error, error_bytes, "device %d: %s", options.index, why == nullptr ? "?" : why);
  return nullptr;
}

}  // namespace

extern "C" {
extern const lola::cuda::PluginEntry lola_cuda_plugin_v1;
const lola::cuda::PluginEntry lola_cuda_plugin_v1 = {LOLA_FAKE_PLUGIN_VERSION, Open};
}
