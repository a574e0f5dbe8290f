// The part of a prefill step that any Llama has: what is left of a step beyond it is LoLA's.
#include <algorithm>
#include <cstring>

#include "kernels/core/bf16.h"
#include "services/engine/device/device_weights.h"
#include "tests/bench/device/step_world.h"

namespace lola::bench {
namespace {

using cuda::Queue;
using engine::DeviceArray;
using engine::DeviceWeights;

class DenseLayers {
 public:
  DenseLayers(const engine::Model& model, cuda::Device* device, size_t rows)
      : model_(model), device_(device), rows_(rows), g_(model.geometry()) {
    Need(weights_.Upload(model, device));
    q_width_ = size_t{g_.query_heads} * g_.head_dim;
    kv_width_ = size_t{g_.kv_heads} * g_.head_dim;
    const size_t element = cuda::MatrixBytes(weights_.activations);
    const size_t widest = std::max({size_t{g_.hidden}, q_width_, size_t{g_.ffn}});
    x_ = Uploaded(device, Randoms(rows * g_.hidden, -1, 1));
    attended_ = Attended(rows * q_width_);
    Need(normed_.Allocate(device, rows * g_.hidden * element, "activations"));
    Need(qkv_.Allocate(device, rows * (q_width_ + 2 * kv_width_), "qkv"));
    Need(gate_up_.Allocate(device, rows * 2 * g_.ffn, "gate and up"));
    Need(inner_.Allocate(device, rows * g_.ffn * element, "inner activations"));
    Need(quantized_.Allocate(device, cuda::QuantizedBytes(rows, widest), "quantised inputs"));
  }

  void Run() {
    for (const DeviceWeights::Layer& w : weights_.layers) {
      Norm(w.input_norm);
      Multiply(w.qkv, normed_.data(), q_width_ + 2 * kv_width_, g_.hidden, qkv_.data(), false);
      Multiply(w.o, attended_.data(), g_.hidden, q_width_, x_.data(), true);
      Norm(w.post_norm);
      Multiply(w.gate_up, normed_.data(), 2 * size_t{g_.ffn}, g_.hidden, gate_up_.data(), false);
      device_->Swiglu(gate_up_.data(), rows_, g_.ffn, weights_.activations, inner_.data());
      Multiply(w.down, inner_.data(), g_.hidden, g_.ffn, x_.data(), true);
    }
  }

 private:
  // Random outputs of attention, in the type that meets the weights.
  DeviceArray<unsigned char> Attended(size_t count) {
    const std::vector<float> values = Randoms(count, -1, 1);
    std::vector<unsigned char> bytes(count * cuda::MatrixBytes(weights_.activations));
    if (weights_.activations == cuda::MatrixType::kFloat32) {
      std::memcpy(bytes.data(), values.data(), bytes.size());
    } else {
      auto* to = reinterpret_cast<kernels::BFloat16*>(bytes.data());
      for (size_t i = 0; i < count; ++i) to[i] = kernels::ToBFloat16(values[i]);
    }
    return Uploaded(device_, bytes);
  }
  void Norm(const DeviceArray<float>& weight) {
    device_->Norm({.x = x_.data(),
                   .weight = weight.data(),
                   .epsilon = model_.config().rms_epsilon,
                   .hidden = g_.hidden,
                   .rows = rows_,
                   .type = weights_.activations,
                   .out = normed_.data()});
  }
  void Multiply(const DeviceWeights::Matrix& weights, const void* input, size_t out, size_t in,
                float* output, bool accumulate) {
    device_->Gemm({.type = weights.type,
                   .weights = weights.values.data(),
                   .scales = weights.scales.data(),
                   .work = quantized_.data(),
                   .input = input,
                   .output = output,
                   .rows = rows_,
                   .out = out,
                   .in = in,
                   .accumulate = accumulate});
  }

  const engine::Model& model_;
  cuda::Device* const device_;
  const size_t rows_;
  const memory::ModelGeometry g_;
  DeviceWeights weights_;
  size_t q_width_ = 0, kv_width_ = 0;
  DeviceArray<float> x_, qkv_, gate_up_;
  DeviceArray<unsigned char> normed_, attended_, inner_, quantized_;
};

}  // namespace

Timing TimeDense(const BenchOptions& options, const engine::Model& model, cuda::Device* device,
                 size_t rows) {
  DenseLayers dense(model, device, rows);
  return TimeQueued(
      options.repetitions, 1, [&] { dense.Run(); }, [&] { Wait(device); });
}

}  // namespace lola::bench
