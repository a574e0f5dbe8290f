// A device as the scheduler sees it: a ModelRunner whose states live in device memory and that
// picks tokens itself. Not thread-safe, like every ModelRunner.
#ifndef LOLA_SERVICES_ENGINE_DEVICE_DEVICE_RUNNER_H_
#define LOLA_SERVICES_ENGINE_DEVICE_DEVICE_RUNNER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/device.h"
#include "services/engine/runtime/model_runner.h"

namespace lola::engine {

// UNIMPLEMENTED when the kernels do not take the model's shape. The weights go to the device when
// the engine makes its slots: RESOURCE_EXHAUSTED then when they do not fit.
absl::StatusOr<std::unique_ptr<ModelRunner>> MakeDeviceRunner(std::shared_ptr<const Model> model,
                                                              std::shared_ptr<cuda::Device> device,
                                                              size_t rows_max);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_DEVICE_DEVICE_RUNNER_H_
