#include "services/engine/device/device_weights.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <thread>

#include "kernels/core/float8.h"
#include "services/engine/weights.h"

namespace lola::engine {
namespace {

using cuda::MatrixType;
using kernels::PackedMatrix;

constexpr size_t kStagingBytes = size_t{64} << 20;

MatrixType TypeOf(kernels::Dtype dtype) {
  return dtype == kernels::Dtype::kFloat32 ? MatrixType::kFloat32 : MatrixType::kBFloat16;
}

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

  // `fill(row, out)` writes one row of MatrixRowBytes(type, columns) bytes.
  using Fill = std::function<void(size_t, std::byte*)>;
  absl::Status Rows(size_t rows, size_t columns, MatrixType type, DeviceWeights::Matrix& to,
                    const char* what, const Fill& fill) {
    const size_t row_bytes = cuda::MatrixRowBytes(type, columns);
    to.type = type;
    absl::Status status = to.values.Allocate(device_, rows * row_bytes, what);
    if (!status.ok()) return status;
    const size_t at_once = std::max<size_t>(1, kStagingBytes / row_bytes);
    if (row_bytes > kStagingBytes) {
      return absl::UnimplementedError(absl::StrCat(what, ": a row has ", row_bytes,
                                                   " bytes, the upload buffer ", kStagingBytes));
    }
    for (size_t first = 0; first < rows; first += at_once) {
      const size_t count = std::min(at_once, rows - first);
      FillRows(first, count, row_bytes, fill);
      device_->Upload(cuda::Queue::kCompute, to.values.data() + first * row_bytes, staging_.data(),
                      count * row_bytes);
      device_->WaitOnHost(device_->Record(cuda::Queue::kCompute));
    }
    return absl::OkStatus();
  }

  absl::Status Packed(const PackedMatrix& from, DeviceWeights::Matrix& to, const char* what) {
    if (from.dtype() == kernels::Dtype::kInt8) return Int8(from, to, what);
    if (from.dtype() == kernels::Dtype::kFloat8) return Float8(from, to, what);
    const MatrixType type = TypeOf(from.dtype());
    return Rows(from.out(), from.in(), type, to, what, [&](size_t row, std::byte* out) {
      std::vector<float> values(from.in());
      from.CopyRow(row, values.data());
      PutFloats(values, type, out);
    });
  }

  absl::Status Embedding(const ModelWeights& from, uint32_t vocab, size_t hidden,
                         DeviceWeights::Matrix& to) {
    const MatrixType type = from.embedding.empty() ? MatrixType::kBFloat16 : MatrixType::kFloat32;
    return Rows(vocab, hidden, type, to, "embedding", [&](size_t row, std::byte* out) {
      std::vector<float> values(hidden);
      from.Embed(int32_t(row), values.data());
      PutFloats(values, type, out);
    });
  }

 private:
  static void PutFloats(const std::vector<float>& values, MatrixType type, std::byte* to) {
    if (type == MatrixType::kFloat32) {
      std::memcpy(to, values.data(), values.size() * sizeof(float));
      return;
    }
    auto* out = reinterpret_cast<kernels::BFloat16*>(to);
    for (size_t i = 0; i < values.size(); ++i) out[i] = kernels::ToBFloat16(values[i]);
  }

  // Whole numbers and scales out of the panels; their order is in kernels/gemm/gemm.h.
  absl::Status Int8(const PackedMatrix& from, DeviceWeights::Matrix& to, const char* what) {
    constexpr size_t kLanes = kernels::kPanelOutputs;
    std::vector<float> scales(from.out());
    for (size_t o = 0; o < from.out(); ++o) {
      const std::byte* end = from.panel(o / kLanes) + from.panel_bytes();
      std::memcpy(&scales[o], end - (kLanes - o % kLanes) * sizeof(float), sizeof(float));
    }
    absl::Status status = Floats(scales, to.scales, what);
    if (!status.ok()) return status;
    return Rows(from.out(), from.in(), MatrixType::kInt8, to, what, [&](size_t row, std::byte* to) {
      const std::byte* panel = from.panel(row / kLanes);
      std::memset(to, 0, cuda::MatrixRowBytes(MatrixType::kInt8, from.in()));
      for (size_t i = 0; i < from.in(); ++i) {
        const int q = std::to_integer<int>(panel[(i / 4 * kLanes + row % kLanes) * 4 + i % 4]);
        to[i] = static_cast<std::byte>(q - 128);
      }
    });
  }

  // Rows that were rounded before are found again without change; see kernels/core/float8.h.
  absl::Status Float8(const PackedMatrix& from, DeviceWeights::Matrix& to, const char* what) {
    std::vector<float> scales(from.out());
    absl::Status status =
        Rows(from.out(), from.in(), MatrixType::kFloat8, to, what, [&](size_t row, std::byte* to) {
          std::vector<float> values(from.in());
          from.CopyRow(row, values.data());
          const int8_t exponent = kernels::RowExponent(values.data(), values.size());
          const float down = kernels::RowScale(static_cast<int8_t>(-exponent));
          scales[row] = kernels::RowScale(exponent);
          std::memset(to, 0, cuda::MatrixRowBytes(MatrixType::kFloat8, from.in()));
          for (size_t i = 0; i < values.size(); ++i) {
            to[i] = std::byte{kernels::ToFloat8(values[i] * down).bits};
          }
        });
    return status.ok() ? Floats(scales, to.scales, what) : status;
  }

  void Copy(void* to, const void* from, size_t bytes) {
    for (size_t at = 0; at < bytes; at += kStagingBytes) {
      const size_t n = std::min(kStagingBytes, bytes - at);
      std::memcpy(staging_.data(), static_cast<const std::byte*>(from) + at, n);
      device_->Upload(cuda::Queue::kCompute, static_cast<std::byte*>(to) + at, staging_.data(), n);
      device_->WaitOnHost(device_->Record(cuda::Queue::kCompute));
    }
  }

  void FillRows(size_t first, size_t count, size_t row_bytes, const Fill& fill) {
    const size_t threads = std::clamp<size_t>(std::thread::hardware_concurrency(), 1, count);
    std::vector<std::thread> workers;
    for (size_t t = 0; t < threads; ++t) {
      workers.emplace_back([&, t] {
        for (size_t i = t; i < count; i += threads) {
          fill(first + i, staging_.data() + i * row_bytes);
        }
      });
    }
    for (std::thread& worker : workers) worker.join();
  }

  cuda::Device* const device_;
  PinnedBuffer staging_;
};

std::vector<float> Joined(const ModelWeights& weights, std::vector<float> LayerWeights::*member) {
  std::vector<float> all;
  for (const LayerWeights& layer : weights.layers) {
    all.insert(all.end(), (layer.*member).begin(), (layer.*member).end());
  }
  return all;
}

}  // namespace

absl::Status DeviceWeights::CheckShape(const memory::ModelGeometry& g) {
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

absl::Status DeviceWeights::Upload(const Model& model, cuda::Device* device) {
  const memory::ModelGeometry& g = model.geometry();
  const ModelWeights& from = model.weights();
  absl::Status status = CheckShape(g);
  const bool narrow =
      model.dtype() == kernels::Dtype::kBFloat16 || model.dtype() == kernels::Dtype::kFloat8;
  activations = narrow ? MatrixType::kBFloat16 : MatrixType::kFloat32;
  Uploader uploader(device);
  const auto then = [&](absl::Status next) {
    if (status.ok()) status = std::move(next);
  };
  if (status.ok()) status = uploader.Start();
  if (!status.ok()) return status;
  // Of a range of layers: the embedding with layer 0, norm and head with the last layer.
  const bool tied = model.config().tied_embeddings;
  if (model.has_last_layer() || (tied && model.has_first_layer())) {
    then(uploader.Packed(from.head, head, "output head"));
  }
  if (status.ok() && !tied && model.has_first_layer()) {
    then(uploader.Embedding(from, g.vocab, g.hidden, embedding));
  }
  if (model.has_last_layer()) then(uploader.Floats(from.norm, norm, "final norm"));
  for (const LayerWeights& layer : from.layers) {
    if (!status.ok()) return status;
    Layer& to = layers.emplace_back();
    then(uploader.Packed(layer.qkv, to.qkv, "qkv"));
    then(uploader.Packed(layer.o, to.o, "attention output"));
    then(uploader.Packed(layer.gate_up, to.gate_up, "gate and up"));
    then(uploader.Packed(layer.down, to.down, "down"));
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
