// Stages of a pipeline on a device: the weights and state sections of a range of layers in device
// memory. Rows of the residual stream, results and copies pass through page-locked memory.
#ifndef LOLA_SERVICES_ENGINE_DEVICE_DEVICE_STAGE_H_
#define LOLA_SERVICES_ENGINE_DEVICE_DEVICE_STAGE_H_

#include <memory>

#include "kernels/cuda/device.h"
#include "services/engine/pipeline/layer_stage.h"

namespace lola::engine {

// One stage at a time; weights go to the device with the first one and stay. A stage gives logits
// for the last row of a segment only, and picks tokens when it has the last layer. A device that
// failed stays so: health() says it, and no further stage is made.
std::shared_ptr<StageMaker> MakeDeviceStages(std::shared_ptr<cuda::Device> device);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_DEVICE_DEVICE_STAGE_H_
