// A model's weights on a device: plain row-major matrices, the values the CPU kernels see.
// Immutable after Upload.
#ifndef LOLA_SERVICES_ENGINE_DEVICE_DEVICE_WEIGHTS_H_
#define LOLA_SERVICES_ENGINE_DEVICE_DEVICE_WEIGHTS_H_

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/device.h"
#include "services/engine/device/device_memory.h"
#include "services/engine/model.h"

namespace lola::engine {

struct DeviceWeights {
  using Matrix = DeviceArray<std::byte>;  // [out, in] of `type`
  struct Layer {
    Matrix qkv, o, gate_up, down;
    DeviceArray<float> input_norm, post_norm;
  };

  cuda::MatrixType type = cuda::MatrixType::kBFloat16;
  Matrix embedding;  // [vocab, hidden]; empty when tied: rows are then taken from `head`
  Matrix head;
  DeviceArray<float> norm;
  std::vector<Layer> layers;
  DeviceArray<float> map_q, map_k;  // [layers, Hq, d, f]
  DeviceArray<float> gate;          // [layers, Hq]

  // Copies everything and waits. RESOURCE_EXHAUSTED when it does not fit, UNIMPLEMENTED for a dtype
  // or shape the kernels do not take.
  absl::Status Upload(const Model& model, cuda::Device* device);

  const void* table() const { return embedding.size() > 0 ? embedding.data() : head.data(); }
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_DEVICE_DEVICE_WEIGHTS_H_
