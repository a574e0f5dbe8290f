// A model's weights on a device: plain row-major matrices, the values the CPU kernels see. int8 and
// float8 weights take a byte (whole numbers or 8-bit floats, and a scale per output). Immutable
// after Upload.
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
  // [out, in], rows MatrixRowBytes apart.
  struct Matrix {
    cuda::MatrixType type = cuda::MatrixType::kBFloat16;
    DeviceArray<std::byte> values;
    DeviceArray<float> scales;  // [out], int8 and float8 only
  };
  struct Layer {
    Matrix qkv, o, gate_up, down;
    DeviceArray<float> input_norm, post_norm;
  };

  cuda::MatrixType activations = cuda::MatrixType::kBFloat16;  // what meets the matrices
  Matrix embedding;  // [vocab, hidden]; empty when tied: rows are then taken from `head`
  Matrix head;
  DeviceArray<float> norm;
  std::vector<Layer> layers;
  DeviceArray<float> map_q, map_k;  // [layers, Hq, d, f]
  DeviceArray<float> gate;          // [layers, Hq]

  // UNIMPLEMENTED for heads that the kernels do not take.
  static absl::Status CheckShape(const memory::ModelGeometry& geometry);
  // Copies everything that the model has (a range of layers, perhaps) and waits. RESOURCE_EXHAUSTED
  // when it does not fit, UNIMPLEMENTED for a dtype or shape the kernels do not take.
  absl::Status Upload(const Model& model, cuda::Device* device);

  const Matrix& table() const { return embedding.values.size() > 0 ? embedding : head; }
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_DEVICE_DEVICE_WEIGHTS_H_
