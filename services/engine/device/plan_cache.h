// Settings as device kernels read them, uploaded once per kind of settings. Not thread-safe.
#ifndef LOLA_SERVICES_ENGINE_DEVICE_PLAN_CACHE_H_
#define LOLA_SERVICES_ENGINE_DEVICE_PLAN_CACHE_H_

#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/device.h"
#include "memory/stream/layout.h"
#include "services/engine/device/device_memory.h"

namespace lola::engine {

struct DevicePlan {
  memory::LolaSettings settings;
  cuda::Sections sections, spans;
  uint32_t variants = 1;
  uint32_t pairs_max = 0;            // cached and leaving pairs of one event, any layer
  uint32_t drops_max = 0;            // pairs an event may take out of a cache or move
  bool trial = false;                // its score needs the state with all pairs added
  const cuda::Plan* plan = nullptr;  // device memory
  uint64_t asked = 0;                // when it was last found

  DeviceArray<float> rotations;
  DeviceArray<cuda::LayerPlace> layers;
  DeviceArray<cuda::Plan> block;
};

// OK when the kernels can run a stream with these settings; UNIMPLEMENTED naming field and value.
absl::Status CheckDeviceSettings(const memory::LolaSettings& settings,
                                 const memory::ModelGeometry& geometry);

class PlanCache {
 public:
  PlanCache(cuda::Device* device, std::span<const double> frequencies)
      : device_(device), frequencies_(frequencies) {}

  // Kept until Trim. Errors: RESOURCE_EXHAUSTED, and those of CheckDeviceSettings.
  absl::StatusOr<const DevicePlan*> Find(const memory::StateLayout& layout);
  // Forgets the plans that were not asked for longest until `kept` are left; whether there were any
  // to forget. REQUIRES: no plan is in use.
  bool Trim(size_t kept);
  size_t size() const { return plans_.size(); }

 private:
  absl::StatusOr<std::unique_ptr<DevicePlan>> Make(const memory::StateLayout& layout);

  cuda::Device* const device_;
  const std::span<const double> frequencies_;
  std::vector<std::unique_ptr<DevicePlan>> plans_;
  uint64_t clock_ = 0;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_DEVICE_PLAN_CACHE_H_
