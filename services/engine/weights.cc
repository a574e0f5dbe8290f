#include "services/engine/weights.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <span>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "memory/text.h"
#include "services/engine/fingerprint.h"
#include "services/engine/safetensors.h"

namespace lola::engine {
namespace {

using kernels::BFloat16;
using kernels::Dtype;
using kernels::PackedMatrix;

// Values read at once while a tensor is rounded and packed: bounds the memory beside the result.
constexpr uint64_t kBlockValues = 1 << 20;

// Where a tensor goes. Exactly one of the pointers is set; values stay float32.
struct Target {
  std::vector<uint64_t> shape;
  std::vector<float>* values = nullptr;
  std::vector<BFloat16>* rounded = nullptr;
  PackedMatrix* matrix = nullptr;
  uint64_t first_row = 0;    // of the matrix
  uint64_t matrix_rows = 0;  // of all of it

  uint64_t elements() const {
    uint64_t count = 1;
    for (const uint64_t extent : shape) count *= extent;
    return count;
  }
};
using Targets = std::map<std::string, Target>;

// The parts of ModelWeights, and the tensors that fill them.
class Builder {
 public:
  Builder(const ModelConfig& config, Dtype dtype, std::optional<LayerRange> layers)
      : config_(config),
        dtype_(dtype),
        layers_(layers.value_or(LayerRange{0, config.geometry.layers})) {}

  // Lists the tensors and takes no memory for them: shapes are what a config.json says, which is
  // compared with the files first. `weights` must not move while targets are in use.
  Targets Prepare(ModelWeights& weights);
  void Allocate(const Targets& targets) const;
  // Once all targets are filled.
  void Finish(ModelWeights& weights) const;

 private:
  struct Part {
    std::string name;
    uint64_t out;
  };
  void Values(const std::string& name, std::vector<uint64_t> shape, std::vector<float>* values);
  // Row-wise concatenation of matrices with the same number of columns.
  void Matrix(const std::vector<Part>& parts, uint64_t in, PackedMatrix* matrix);
  void Layer(uint32_t index, LayerWeights& layer);
  void Ends(ModelWeights& weights);

  const ModelConfig& config_;
  const Dtype dtype_;
  const LayerRange layers_;
  Targets targets_;
};

void Builder::Values(const std::string& name, std::vector<uint64_t> shape,
                     std::vector<float>* values) {
  targets_.emplace(name, Target{.shape = std::move(shape), .values = values});
}

void Builder::Matrix(const std::vector<Part>& parts, uint64_t in, PackedMatrix* matrix) {
  uint64_t rows = 0;
  for (const Part& part : parts) rows += part.out;
  uint64_t first = 0;
  for (const Part& part : parts) {
    targets_.emplace(
        part.name,
        Target{.shape = {part.out, in}, .matrix = matrix, .first_row = first, .matrix_rows = rows});
    first += part.out;
  }
}

void Builder::Layer(uint32_t index, LayerWeights& layer) {
  const memory::ModelGeometry& g = config_.geometry;
  const std::string base = absl::StrCat("model.layers.", index, ".");
  const uint64_t q = uint64_t{g.query_heads} * g.head_dim, kv = uint64_t{g.kv_heads} * g.head_dim;
  Values(base + "input_layernorm.weight", {g.hidden}, &layer.input_norm);
  Values(base + "post_attention_layernorm.weight", {g.hidden}, &layer.post_norm);
  Matrix({{base + "self_attn.q_proj.weight", q},
          {base + "self_attn.k_proj.weight", kv},
          {base + "self_attn.v_proj.weight", kv}},
         g.hidden, &layer.qkv);
  Matrix({{base + "self_attn.o_proj.weight", g.hidden}}, q, &layer.o);
  Matrix({{base + "mlp.gate_proj.weight", g.ffn}, {base + "mlp.up_proj.weight", g.ffn}}, g.hidden,
         &layer.gate_up);
  Matrix({{base + "mlp.down_proj.weight", g.hidden}}, g.ffn, &layer.down);
  if (!config_.has_lola) return;
  const std::vector<uint64_t> map = {g.query_heads, g.head_dim, g.map_dim()};
  Values(base + "self_attn.feature_map_q.mlp.layer", map, &layer.map_q);
  Values(base + "self_attn.feature_map_k.mlp.layer", map, &layer.map_k);
  Values(base + "self_attn.window_factors", {1, g.query_heads, 1, 1}, &layer.gate);
}

void Builder::Ends(ModelWeights& weights) {
  const memory::ModelGeometry& g = config_.geometry;
  const std::string embedding = "model.embed_tokens.weight";
  const bool first = layers_.first == 0, last = layers_.end == g.layers;
  weights.hidden = g.hidden;
  if (last) Values("model.norm.weight", {g.hidden}, &weights.norm);
  if (config_.tied_embeddings) {
    if (first || last) Matrix({{embedding, g.vocab}}, g.hidden, &weights.head);
    return;
  }
  if (last) Matrix({{"lm_head.weight", g.vocab}}, g.hidden, &weights.head);
  if (!first) return;
  if (dtype_ == Dtype::kFloat32) return Values(embedding, {g.vocab, g.hidden}, &weights.embedding);
  targets_.emplace(embedding,
                   Target{.shape = {g.vocab, g.hidden}, .rounded = &weights.embedding_bf16});
}

Targets Builder::Prepare(ModelWeights& weights) {
  weights.layers.resize(layers_.count());
  for (uint32_t i = layers_.first; i < layers_.end; ++i) {
    Layer(i, weights.layers[i - layers_.first]);
  }
  Ends(weights);
  for (const auto& [name, target] : targets_) weights.parameters += target.elements();
  return std::move(targets_);
}

void Builder::Allocate(const Targets& targets) const {
  for (const auto& [name, target] : targets) {
    if (target.values != nullptr) target.values->resize(target.elements());
    if (target.rounded != nullptr) target.rounded->resize(target.elements());
    if (target.matrix == nullptr || target.matrix->out() > 0) continue;  // one of several parts
    *target.matrix = PackedMatrix::Zeros(target.matrix_rows, target.shape.back(), dtype_);
  }
}

void Builder::Finish(ModelWeights& weights) const {
  weights.bytes = weights.head.bytes() + weights.embedding.size() * sizeof(float) +
                  weights.embedding_bf16.size() * sizeof(BFloat16) +
                  weights.norm.size() * sizeof(float);
  for (LayerWeights& layer : weights.layers) {
    for (float& factor : layer.gate) {
      factor = static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(factor))));
    }
    for (const auto* matrix : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      weights.bytes += matrix->bytes();
    }
    for (const auto* values :
         {&layer.input_norm, &layer.post_norm, &layer.map_q, &layer.map_k, &layer.gate}) {
      weights.bytes += values->size() * sizeof(float);
    }
  }
}

// Reads values first, first + 1, ... of a tensor.
using Reader = std::function<absl::Status(uint64_t first, std::span<float> out)>;

// Fills a target block by block; `block` is work space.
absl::Status Fill(const std::string& name, const Target& target, const Reader& read,
                  std::vector<float>& block) {
  const uint64_t count = target.elements(), width = target.shape.back();
  const uint64_t step = std::max<uint64_t>(1, kBlockValues / width) * width;
  for (uint64_t first = 0; first < count; first += step) {
    block.resize(std::min(step, count - first));
    const absl::Status status = read(first, block);
    if (!status.ok()) return status;
    for (uint64_t i = 0; i < block.size(); ++i) {
      if (std::isfinite(block[i])) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", name, ": element ", first + i, " is ", block[i]));
    }
    if (target.matrix != nullptr) {
      target.matrix->SetRows(target.first_row + first / width, block);
    } else if (target.values != nullptr) {
      std::copy(block.begin(), block.end(), target.values->begin() + first);
    } else {
      for (uint64_t i = 0; i < block.size(); ++i) {
        (*target.rounded)[first + i] = kernels::ToBFloat16(block[i]);
      }
    }
  }
  return absl::OkStatus();
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
Reader DrawTensor(uint64_t seed, uint32_t layers, const std::string& name,
                  std::span<const uint64_t> shape) {
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
  constexpr uint64_t kStep = 0x9E3779B97F4A7C15ull;
  uint64_t state = seed;
  for (const char c : name) state = Mix(state + static_cast<uint8_t>(c) + kStep);
  return [=](uint64_t first, std::span<float> out) {
    uint64_t at = state + first * kStep;
    for (float& value : out) {
      at += kStep;
      value = norm ? 1.0f + 0.1f * UnitValue(at) : scale * UnitValue(at);
    }
    return absl::OkStatus();
  };
}

// Hashes a tensor of the files and, where it has a target, packs it: block by block, each read once
// and then let go, so that no more than a block of the files is in memory.
absl::Status ReadTensor(const std::string& name, const TensorView& tensor, const Target* target,
                        Fingerprint& fingerprint, std::vector<float>& block) {
  const auto done = [&](std::span<const std::byte> bytes) {
    fingerprint.AddBytes(bytes);
    ReleasePages(bytes);
  };
  fingerprint.BeginTensor(name, tensor);
  if (target == nullptr) {
    constexpr size_t kPiece = 16 << 20;
    for (size_t at = 0; at < tensor.data.size(); at += kPiece) {
      done(tensor.data.subspan(at, std::min(kPiece, tensor.data.size() - at)));
    }
    return absl::OkStatus();
  }
  const uint64_t width = tensor.data.size() / tensor.elements();
  const Reader read = [&](uint64_t first, std::span<float> out) {
    const absl::Status copied = CopyToFloat(name, tensor, first, out);
    if (copied.ok()) done(tensor.data.subspan(first * width, out.size() * width));
    return copied;
  };
  return Fill(name, *target, read, block);
}

absl::Status CheckShapes(const TensorSet& files, const Targets& targets) {
  for (const auto& [name, target] : targets) {
    const absl::StatusOr<const TensorView*> found = files.Find(name, target.shape);
    if (!found.ok()) return found.status();
  }
  return absl::OkStatus();
}

absl::Status FillFromFiles(const TensorSet& files, const Targets& targets,
                           Fingerprint& fingerprint) {
  std::vector<float> block;
  for (const auto& [name, tensor] : files.tensors()) {
    const auto target = targets.find(name);
    const absl::Status read = ReadTensor(
        name, tensor, target != targets.end() ? &target->second : nullptr, fingerprint, block);
    if (!read.ok()) return read;
  }
  return absl::OkStatus();
}

}  // namespace

void ModelWeights::Embed(int32_t token, float* row) const {
  const size_t first = static_cast<size_t>(token) * hidden;
  if (!embedding.empty()) {
    std::copy_n(embedding.data() + first, hidden, row);
  } else if (!embedding_bf16.empty()) {
    for (size_t i = 0; i < hidden; ++i) row[i] = ToFloat(embedding_bf16[first + i]);
  } else {
    head.CopyRow(static_cast<size_t>(token), row);
  }
}

absl::StatusOr<ModelWeights> LoadWeights(const std::string& model_dir, const ModelConfig& config,
                                         Dtype dtype, std::optional<LayerRange> layers) {
  const absl::StatusOr<TensorSet> files = TensorSet::Open(model_dir);
  if (!files.ok()) return files.status();
  ModelWeights weights;
  Builder builder(config, dtype, layers);
  const Targets targets = builder.Prepare(weights);
  Fingerprint fingerprint(config, dtype);
  absl::Status filled = CheckShapes(*files, targets);
  if (filled.ok()) {
    builder.Allocate(targets);
    filled = FillFromFiles(*files, targets, fingerprint);
  }
  if (!filled.ok()) {
    return absl::Status(filled.code(), absl::StrCat(model_dir, ": ", filled.message()));
  }
  builder.Finish(weights);
  weights.fingerprint = fingerprint.Digest();
  return weights;
}

ModelWeights RandomWeights(const ModelConfig& config, uint64_t seed, Dtype dtype,
                           std::optional<LayerRange> layers) {
  ModelWeights weights;
  Builder builder(config, dtype, layers);
  std::vector<float> block;
  const Targets targets = builder.Prepare(weights);
  builder.Allocate(targets);
  for (const auto& [name, target] : targets) {
    const Reader draw = DrawTensor(seed, config.geometry.layers, name, target.shape);
    (void)Fill(name, target, draw, block);  // never fails: nothing is read
  }
  builder.Finish(weights);
  Fingerprint fingerprint(config, dtype);
  fingerprint.AddValue("random seed", seed);
  weights.fingerprint = fingerprint.Digest();
  return weights;
}

WeightsSize SizeOfWeights(const ModelConfig& config, Dtype dtype) {
  const memory::ModelGeometry& g = config.geometry;
  const uint64_t q = uint64_t{g.query_heads} * g.head_dim, kv = uint64_t{g.kv_heads} * g.head_dim;
  WeightsSize layer, all;
  const auto matrix = [dtype](WeightsSize& size, uint64_t out, uint64_t in) {
    size.parameters += out * in;
    size.bytes += PackedMatrix::PackedBytes(out, in, dtype);
  };
  const auto values = [](WeightsSize& size, uint64_t count, uint64_t width = sizeof(float)) {
    size.parameters += count;
    size.bytes += count * width;
  };
  matrix(layer, q + 2 * kv, g.hidden);
  matrix(layer, g.hidden, q);
  matrix(layer, 2 * uint64_t{g.ffn}, g.hidden);
  matrix(layer, g.hidden, g.ffn);
  values(layer, 2 * uint64_t{g.hidden});
  if (config.has_lola) {
    values(layer, 2 * uint64_t{g.query_heads} * g.head_dim * g.map_dim() + g.query_heads);
  }
  matrix(all, g.vocab, g.hidden);
  values(all, g.hidden);
  if (!config.tied_embeddings) {
    values(all, uint64_t{g.vocab} * g.hidden, dtype == Dtype::kFloat32 ? 4 : 2);
  }
  return {all.parameters + g.layers * layer.parameters, all.bytes + g.layers * layer.bytes};
}

}  // namespace lola::engine
