// Loading the CUDA plug-in (liblola_kernels_cuda.so), so that one binary runs with or without a
// GPU. Any thread.
#ifndef LOLA_KERNELS_CUDA_PLUGIN_H_
#define LOLA_KERNELS_CUDA_PLUGIN_H_

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/cuda/device.h"

namespace lola::cuda {

struct DeviceOptions {
  int index = 0;                // among the devices the process sees
  bool batch_invariant = true;  // false: the fastest product per batch; P2 holds no longer
};

struct OpenedDevice {
  std::unique_ptr<Device> device;
  std::string error;  // why there is none: plug-in missing, driver missing or too old, no GPU
};

// Tries `path`, or when it is empty liblola_kernels_cuda.so beside the executable, in its ../lib,
// and where the loader looks.
OpenedDevice OpenCudaDevice(const DeviceOptions& options, const std::string& path = {});

// What the plug-in exports, under this name. Version first, so that a plug-in of another build is
// refused by name instead of called.
inline constexpr uint32_t kPluginVersion = 3;
inline constexpr char kPluginSymbol[] = "lola_cuda_plugin_v1";
struct PluginEntry {
  uint32_t version;
  // Null and a message in `error` (of `error_bytes`, zero-terminated) when there is no such device.
  Device* (*open)(const DeviceOptions& options, char* error, size_t error_bytes);
};

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_PLUGIN_H_
