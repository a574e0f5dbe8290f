#include "services/engine/device/device_weights.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <thread>

#include "services/engine/weights.h"

namespace lola::engine {
namespace {

using cuda::MatrixType;
using kernels::PackedMatrix;

constexpr size_t kStagingBytes = size_t{64} << 20;

// Copies host values to the device through one page-locked buffer, rows spread over threads.
class Uploader {
 public:
  explicit Uploader(cuda::Device* device) : device_(device) {}

  absl::Status Start() { return staging_.Allocate(device_, kStagingBytes, "upload buffer"); }

  absl::Status Floats(const std::vector<float>& from, DeviceArray<float>& to, const char* what) {
    absl::Status status = to.Allocate(device_, from.size(), what);
    if (status.ok()) Copy(to.data(), from.data(), from.size() * sizeof(float));
    return status;
  }

  // `fill(row, out)` writes one row of `columns` floats.
  absl::Status Rows(size_t rows, size_t columns, MatrixType type, DeviceWeights::Matrix& to,
                    const char* what, const std::function<void(size_t, float*)>& fill) {
    const size_t row_bytes = columns * cuda::MatrixBytes(type);
    absl::Status status = to.Allocate(device_, rows * row_bytes, what);
    if (!status.ok()) return status;
    const size_t at_once = std::max<size_t>(1, kStagingBytes / row_bytes);
    if (row_bytes > kStagingBytes) return absl::UnimplementedError(absl::StrCat(what, ": row"));
    for (size_t first = 0; first < rows; first += at_once) {
      const size_t count = std::min(at_once, rows - first);
      FillRows(first, count, columns, type, fill);
      device_->Upload(cuda::Queue::kCompute, to.data() + first * row_bytes, staging_.data(),
                      count * row_bytes);
      device_->WaitOnHost(device_->Record(cuda::Queue::kCompute));
    }
    return absl::OkStatus();
  }

  absl::Status Packed(const PackedMatrix& from, MatrixType type, DeviceWeights::Matrix& to,
                      const char* what) {
    return Rows(from.out(), from.in(), type, to, what, [&](size_t row, float* out) {
      for (size_t i = 0; i < from.in(); ++i) out[i] = from.At(row, i);
    });
  }

 private:
  void Copy(void* to, const void* from, size_t bytes) {
    for (size_t at = 0; at < bytes; at += kStagingBytes) {
      const size_t n = std::min(kStagingBytes, bytes - at);
      std::memcpy(staging_.data(), static_cast<const std::byte*>(from) + at, n);
      device_->Upload(cuda::Queue::kCompute, static_cast<std::byte*>(to) + at, staging_.data(), n);
      device_->WaitOnHost(device_->Record(cuda::Queue::kCompute));
    }
  }

  void FillRows(size_t first, size_t count, size_t columns, MatrixType type,
                const std::function<void(size_t, float*)>& fill) {
    const size_t threads = std::clamp<size_t>(std::thread::hardware_concurrency(), 1, count);
    std::vector<std::thread> workers;
    for (size_t t = 0; t < threads; ++t) {
      workers.emplace_back([&, t] {
        std::vector<float> row(columns);
        for (size_t i = t; i < count; i += threads) {
          fill(first + i, row.data());
          std::byte* to = staging_.data() + i * columns * cuda::MatrixBytes(type);
          if (type == MatrixType::kFloat32) {
            std::memcpy(to, row.data(), columns * sizeof(float));
            continue;
          }
          auto* out = reinterpret_cast<kernels::BFloat16*>(to);
          for (size_t k = 0; k < columns; ++k) out[k] = kernels::ToBFloat16(row[k]);
        }
      });
    }
    for (std::thread& worker : workers) worker.join();
  }

  cuda::Device* const device_;
  PinnedBuffer staging_;
};

absl::Status CheckShape(const memory::ModelGeometry& g) {
  const bool head = g.head_dim == 16 || g.head_dim == 32 || g.head_dim == 64 || g.head_dim == 128;
  if (!head) {
    return absl::UnimplementedError(
        absl::StrCat("head_dim: ", g.head_dim, ", the CUDA kernels take 16, 32, 64 or 128"));
  }
  if (g.feature_dim > cuda::kFeatureDimMax) {
    return absl::UnimplementedError(absl::StrCat(
        "feature_dim: ", g.feature_dim, ", the CUDA kernels take at most ", cuda::kFeatureDimMax));
  }
  return absl::OkStatus();
}

std::vector<float> Joined(const ModelWeights& weights, std::vector<float> LayerWeights::*member) {
  std::vector<float> all;
  for (const LayerWeights& layer : weights.layers) {
    all.insert(all.end(), (layer.*member).begin(), (layer.*member).end());
  }
  return all;
}

}  // namespace

absl::Status DeviceWeights::Upload(const Model& model, cuda::Device* device) {
  const memory::ModelGeometry& g = model.geometry();
  const ModelWeights& from = model.weights();
  absl::Status status = CheckShape(g);
  if (model.dtype() != kernels::Dtype::kFloat32 && model.dtype() != kernels::Dtype::kBFloat16) {
    return absl::UnimplementedError(absl::StrCat("dtype: ", kernels::DtypeName(model.dtype()),
                                                 ", on a CUDA worker only float32 and bfloat16"));
  }
  type = model.dtype() == kernels::Dtype::kFloat32 ? MatrixType::kFloat32 : MatrixType::kBFloat16;
  Uploader uploader(device);
  const auto then = [&](absl::Status next) {
    if (status.ok()) status = std::move(next);
  };
  if (status.ok()) status = uploader.Start();
  if (!status.ok()) return status;
  then(uploader.Packed(from.head, type, head, "output head"));
  if (status.ok() && !from.embedding.empty() && !model.config().tied_embeddings) {
    then(uploader.Rows(g.vocab, g.hidden, type, embedding, "embedding",
                       [&](size_t row, float* out) { from.Embed(int32_t(row), out); }));
  }
  then(uploader.Floats(from.norm, norm, "final norm"));
  for (const LayerWeights& layer : from.layers) {
    if (!status.ok()) return status;
    Layer& to = layers.emplace_back();
    then(uploader.Packed(layer.qkv, type, to.qkv, "qkv"));
    then(uploader.Packed(layer.o, type, to.o, "attention output"));
    then(uploader.Packed(layer.gate_up, type, to.gate_up, "gate and up"));
    then(uploader.Packed(layer.down, type, to.down, "down"));
    then(uploader.Floats(layer.input_norm, to.input_norm, "input norm"));
    then(uploader.Floats(layer.post_norm, to.post_norm, "post norm"));
  }
  then(uploader.Floats(Joined(from, &LayerWeights::map_q), map_q, "query maps"));
  then(uploader.Floats(Joined(from, &LayerWeights::map_k), map_k, "key maps"));
  then(uploader.Floats(Joined(from, &LayerWeights::gate), gate, "gates"));
  if (status.ok() && !device->error().empty()) status = absl::UnavailableError(device->error());
  return status;
}

}  // namespace lola::engine
