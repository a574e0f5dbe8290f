#include "services/engine/weights.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "memory/text.h"
#include "services/engine/fingerprint.h"
#include "services/engine/safetensors.h"

namespace lola::engine {
namespace {

using kernels::Dtype;
using kernels::PackedMatrix;

// A tied embedding above this size is not kept a second time beside the packed head.
constexpr uint64_t kTiedEmbeddingBytesMax = 64 << 20;

// Where a tensor's values come from: files or a random sequence.
using Source = std::function<absl::Status(const std::string& name, std::span<const uint64_t> shape,
                                          std::span<float> out)>;

// Builds ModelWeights from a source; the first error is kept.
class Builder {
 public:
  Builder(const ModelConfig& config, Dtype dtype, Source source)
      : config_(config), dtype_(dtype), source_(std::move(source)) {}

  absl::StatusOr<ModelWeights> Build();

 private:
  struct Part {
    std::string name;
    uint64_t out;
  };
  std::vector<float> Read(const std::string& name, std::vector<uint64_t> shape);
  // Row-wise concatenation of matrices with the same number of columns.
  std::vector<float> ReadRows(const std::vector<Part>& parts, uint64_t in);
  PackedMatrix Pack(const std::vector<Part>& parts, uint64_t in);
  LayerWeights BuildLayer(uint32_t index);
  void BuildEnds();

  const ModelConfig& config_;
  const Dtype dtype_;
  const Source source_;
  ModelWeights weights_;
  absl::Status status_;
};

std::vector<float> Builder::Read(const std::string& name, std::vector<uint64_t> shape) {
  uint64_t count = 1;
  for (const uint64_t extent : shape) count *= extent;
  std::vector<float> values(count);
  if (!status_.ok()) return values;
  status_ = source_(name, shape, values);
  if (!status_.ok()) return values;
  weights_.parameters += count;
  for (uint64_t i = 0; i < count; ++i) {
    if (!std::isfinite(values[i])) {
      status_ = absl::InvalidArgumentError(
          absl::StrCat("tensor ", name, ": element ", i, " is ", values[i]));
      return values;
    }
  }
  return values;
}

std::vector<float> Builder::ReadRows(const std::vector<Part>& parts, uint64_t in) {
  if (parts.size() == 1) return Read(parts[0].name, {parts[0].out, in});
  std::vector<float> all;
  for (const Part& part : parts) {
    const std::vector<float> rows = Read(part.name, {part.out, in});
    all.insert(all.end(), rows.begin(), rows.end());
  }
  return all;
}

PackedMatrix Builder::Pack(const std::vector<Part>& parts, uint64_t in) {
  const std::vector<float> rows = ReadRows(parts, in);
  PackedMatrix packed = PackedMatrix::Pack(std::span(rows), rows.size() / in, in, dtype_);
  weights_.bytes += packed.bytes();
  return packed;
}

LayerWeights Builder::BuildLayer(uint32_t index) {
  const memory::ModelGeometry& g = config_.geometry;
  const std::string base = absl::StrCat("model.layers.", index, ".");
  const uint64_t q = uint64_t{g.query_heads} * g.head_dim, kv = uint64_t{g.kv_heads} * g.head_dim;
  LayerWeights layer;
  layer.input_norm = Read(base + "input_layernorm.weight", {g.hidden});
  layer.post_norm = Read(base + "post_attention_layernorm.weight", {g.hidden});
  layer.qkv = Pack({{base + "self_attn.q_proj.weight", q},
                    {base + "self_attn.k_proj.weight", kv},
                    {base + "self_attn.v_proj.weight", kv}},
                   g.hidden);
  layer.o = Pack({{base + "self_attn.o_proj.weight", g.hidden}}, q);
  layer.gate_up = Pack(
      {{base + "mlp.gate_proj.weight", g.ffn}, {base + "mlp.up_proj.weight", g.ffn}}, g.hidden);
  layer.down = Pack({{base + "mlp.down_proj.weight", g.hidden}}, g.ffn);
  if (config_.has_lola) {
    const std::vector<uint64_t> map = {g.query_heads, g.head_dim, g.map_dim()};
    layer.map_q = Read(base + "self_attn.feature_map_q.mlp.layer", map);
    layer.map_k = Read(base + "self_attn.feature_map_k.mlp.layer", map);
    layer.gate = Read(base + "self_attn.window_factors", {1, g.query_heads, 1, 1});
    for (float& factor : layer.gate) {
      factor = static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(factor))));
    }
  }
  for (const auto* values :
       {&layer.input_norm, &layer.post_norm, &layer.map_q, &layer.map_k, &layer.gate}) {
    weights_.bytes += values->size() * sizeof(float);
  }
  return layer;
}

void Builder::BuildEnds() {
  const memory::ModelGeometry& g = config_.geometry;
  weights_.norm = Read("model.norm.weight", {g.hidden});
  weights_.embedding = Read("model.embed_tokens.weight", {g.vocab, g.hidden});
  if (!status_.ok()) return;
  if (config_.tied_embeddings) {
    weights_.head =
        PackedMatrix::Pack(std::span<const float>(weights_.embedding), g.vocab, g.hidden, dtype_);
    weights_.bytes += weights_.head.bytes();
    if (weights_.embedding.size() * sizeof(float) > kTiedEmbeddingBytesMax) {
      weights_.embedding = {};
    }
  } else {
    weights_.head = Pack({{"lm_head.weight", g.vocab}}, g.hidden);
  }
  if (dtype_ == Dtype::kBFloat16) {
    for (float& value : weights_.embedding) value = ToFloat(kernels::ToBFloat16(value));
  }
  weights_.bytes += (weights_.embedding.size() + weights_.norm.size()) * sizeof(float);
}

absl::StatusOr<ModelWeights> Builder::Build() {
  for (uint32_t i = 0; i < config_.geometry.layers && status_.ok(); ++i) {
    weights_.layers.push_back(BuildLayer(i));
  }
  if (status_.ok()) BuildEnds();
  if (!status_.ok()) return status_;
  return std::move(weights_);
}

uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// Uniform in (-1, 1), never zero: odd multiples of 2^-24.
float UnitValue(uint64_t state) {
  const int32_t odd = static_cast<int32_t>(Mix(state) >> 40) * 2 + 1 - (1 << 24);
  return static_cast<float>(odd) * 0x1p-24f;
}

// Fan-in scaling; matrices that write to the residual stream start smaller.
absl::Status DrawTensor(uint64_t seed, uint32_t layers, const std::string& name,
                        std::span<const uint64_t> shape, std::span<float> out) {
  const bool norm = name.ends_with("norm.weight");
  const bool writes = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
  const bool map = name.find("feature_map") != std::string::npos;
  float scale = 1.0f;  // embeddings, norms, gates
  if (map) {
    scale = 2.0f * std::sqrt(3.0f / static_cast<float>(shape[1]));
  } else if (shape.size() == 2 && name != "model.embed_tokens.weight") {
    scale = std::sqrt(3.0f / static_cast<float>(shape[1]));
    if (writes) scale /= std::sqrt(2.0f * static_cast<float>(layers));
  }
  uint64_t state = seed;
  for (const char c : name) state = Mix(state + static_cast<uint8_t>(c) + 0x9E3779B97F4A7C15ull);
  for (float& value : out) {
    state += 0x9E3779B97F4A7C15ull;
    value = norm ? 1.0f + 0.1f * UnitValue(state) : scale * UnitValue(state);
  }
  return absl::OkStatus();
}

}  // namespace

void ModelWeights::Embed(int32_t token, float* row) const {
  const size_t hidden = norm.size();
  if (!embedding.empty()) {
    std::copy_n(embedding.data() + static_cast<size_t>(token) * hidden, hidden, row);
    return;
  }
  for (size_t i = 0; i < hidden; ++i) row[i] = head.At(token, i);
}

absl::StatusOr<ModelWeights> LoadWeights(const std::string& model_dir, const ModelConfig& config,
                                         Dtype dtype) {
  const absl::StatusOr<TensorSet> files = TensorSet::Open(model_dir);
  if (!files.ok()) return files.status();
  const Source source = [&](const std::string& name, std::span<const uint64_t> shape,
                            std::span<float> out) {
    const absl::StatusOr<const TensorView*> tensor = files->Find(name, shape);
    return tensor.ok() ? CopyToFloat(name, **tensor, out) : tensor.status();
  };
  absl::StatusOr<ModelWeights> weights = Builder(config, dtype, source).Build();
  if (!weights.ok()) {
    return absl::Status(weights.status().code(),
                        absl::StrCat(model_dir, ": ", weights.status().message()));
  }
  Fingerprint fingerprint(config, dtype);
  for (const auto& [name, tensor] : files->tensors()) fingerprint.AddTensor(name, tensor);
  weights->fingerprint = fingerprint.Digest();
  return weights;
}

ModelWeights RandomWeights(const ModelConfig& config, uint64_t seed, Dtype dtype) {
  const uint32_t layers = config.geometry.layers;
  const Source source = [&](const std::string& name, std::span<const uint64_t> shape,
                            std::span<float> out) {
    return DrawTensor(seed, layers, name, shape, out);
  };
  ModelWeights weights = *Builder(config, dtype, source).Build();  // never fails: nothing is read
  Fingerprint fingerprint(config, dtype);
  fingerprint.AddValue("random seed", seed);
  weights.fingerprint = fingerprint.Digest();
  return weights;
}

}  // namespace lola::engine
