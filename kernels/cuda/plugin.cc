#include "kernels/cuda/plugin.h"

#include <dlfcn.h>

#include <filesystem>
#include <vector>

namespace lola::cuda {
namespace {

constexpr char kLibrary[] = "liblola_kernels_cuda.so";
constexpr char kDriver[] = "libcuda.so.1";

std::vector<std::string> Places(const std::string& path) {
  if (!path.empty()) return {path};
  std::error_code ignored;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", ignored);
  const std::filesystem::path folder = program.parent_path();
  return {(folder / kLibrary).string(), (folder.parent_path() / "lib" / kLibrary).string(),
          kLibrary};
}

}  // namespace

OpenedDevice OpenCudaDevice(const DeviceOptions& options, const std::string& path) {
  OpenedDevice opened;
  // The libraries behind the plug-in take 150 MiB of memory: not where nothing can run.
  if (dlopen(kDriver, RTLD_LAZY | RTLD_LOCAL) == nullptr) {
    opened.error = std::string("no NVIDIA driver: ") + dlerror();
    return opened;
  }
  void* library = nullptr;
  for (const std::string& place : Places(path)) {
    library = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
    opened.error = dlerror();
  }
  if (library == nullptr) return opened;
  // Never unloaded: CUDA does not like to be taken away under a process.
  const auto* entry = static_cast<const PluginEntry*>(dlsym(library, kPluginSymbol));
  if (entry == nullptr || entry->version != kPluginVersion) {
    opened.error = std::string(kLibrary) + ": made for another version of this program";
    return opened;
  }
  char error[512] = {};
  opened.device.reset(entry->open(options, error, sizeof(error)));
  opened.error = opened.device == nullptr ? error : "";
  return opened;
}

}  // namespace lola::cuda
