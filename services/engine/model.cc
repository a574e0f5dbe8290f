#include "services/engine/model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "memory/stream/stream_state.h"
#include "memory/text.h"
#include "services/engine/model_impl.h"

namespace lola::engine {
namespace {

// A shape for Model::Random with LoLA weights, feature maps of half = head_dim.
ModelConfig Shape(uint32_t layers, uint32_t hidden, uint32_t query_heads, uint32_t kv_heads,
                  uint32_t head_dim, uint32_t ffn, uint32_t vocab) {
  ModelConfig config;
  config.geometry = {.layers = layers,
                     .hidden = hidden,
                     .query_heads = query_heads,
                     .kv_heads = kv_heads,
                     .head_dim = head_dim,
                     .feature_dim = 2 * head_dim,
                     .ffn = ffn,
                     .vocab = vocab};
  config.has_lola = true;
  config.defaults = memory::LolaSettings::LifelongProfile();
  config.bos = 256;
  config.eos = {257};
  return config;
}

absl::StatusOr<LayerRange> RangeOf(const ModelConfig& config, const LoadOptions& options) {
  const LayerRange range = options.layers.value_or(LayerRange{0, config.geometry.layers});
  const absl::Status valid = CheckLayerRange(range, config.geometry.layers);
  if (!valid.ok()) return valid;
  return range;
}

std::unique_ptr<Model::Impl> Assemble(ModelConfig config, const LayerRange& layers,
                                      WeightDtype dtype, ModelWeights weights) {
  auto impl = std::make_unique<Model::Impl>();
  impl->layers = layers;
  impl->layers_geometry = CutGeometry(config.geometry, layers);
  impl->dtype = dtype;
  impl->weights = std::move(weights);
  impl->fingerprint_hex = memory::ToHex(impl->weights.fingerprint);
  impl->frequencies =
      kernels::RopeFrequencies(config.geometry.head_dim, config.rope_theta, config.rope_scaling);
  impl->config = std::move(config);
  return impl;
}

}  // namespace

absl::StatusOr<WeightDtype> ParseWeightDtype(std::string_view text) {
  if (text == "float32") return WeightDtype::kFloat32;
  if (text == "bfloat16") return WeightDtype::kBFloat16;
  if (text == "float8") return WeightDtype::kFloat8;
  if (text == "int8") return WeightDtype::kInt8;
  return absl::InvalidArgumentError(absl::StrCat("weight dtype: \"", ToAbsl(text),
                                                 "\" (known: float32, bfloat16, float8, int8)"));
}

absl::StatusOr<ModelConfig> NamedGeometry(std::string_view name) {
  if (name == "tiny") return Shape(2, 64, 4, 2, 16, 96, 272);
  if (name == "reference") return Shape(3, 128, 4, 4, 32, 352, 272);
  if (name == "100m") return Shape(12, 768, 12, 4, 64, 2048, 16384);
  if (name == "llama-3.2-1b" || name == "llama-3.1-8b") {
    const bool small = name == "llama-3.2-1b";
    ModelConfig config = small ? Shape(16, 2048, 32, 8, 64, 8192, 128256)
                               : Shape(32, 4096, 32, 8, 128, 14336, 128256);
    config.rms_epsilon = 1e-5f;
    config.rope_theta = 500000.0;
    config.rope_scaling = kernels::Llama3Scaling{.factor = small ? 32.0 : 8.0};
    config.tied_embeddings = small;
    config.max_positions = 131072;
    return config;
  }
  return absl::NotFoundError(
      absl::StrCat("geometry \"", ToAbsl(name),
                   "\" (known: tiny, reference, 100m, llama-3.2-1b, llama-3.1-8b)"));
}

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;

absl::StatusOr<std::unique_ptr<Model>> Model::Load(const std::string& model_dir,
                                                   const LoadOptions& options) {
  absl::StatusOr<ModelConfig> config = LoadModelConfig(model_dir);
  if (!config.ok()) return config.status();
  const absl::StatusOr<LayerRange> layers = RangeOf(*config, options);
  if (!layers.ok()) return layers.status();
  absl::StatusOr<ModelWeights> weights = LoadWeights(model_dir, *config, options.dtype, *layers);
  if (!weights.ok()) return weights.status();
  return std::unique_ptr<Model>(
      new Model(Assemble(*std::move(config), *layers, options.dtype, *std::move(weights))));
}

absl::StatusOr<std::unique_ptr<Model>> Model::Random(const ModelConfig& config, uint64_t seed,
                                                     const LoadOptions& options) {
  const absl::Status valid = config.geometry.Validate();
  if (!valid.ok()) return valid;
  const absl::StatusOr<LayerRange> layers = RangeOf(config, options);
  if (!layers.ok()) return layers.status();
  return std::unique_ptr<Model>(new Model(Assemble(
      config, *layers, options.dtype, RandomWeights(config, seed, options.dtype, *layers))));
}

const ModelConfig& Model::config() const { return impl_->config; }
const LayerRange& Model::layers() const { return impl_->layers; }
const memory::ModelGeometry& Model::layers_geometry() const { return impl_->layers_geometry; }
const ModelWeights& Model::weights() const { return impl_->weights; }
std::span<const double> Model::rope_frequencies() const { return impl_->frequencies; }
const std::string& Model::fingerprint() const { return impl_->fingerprint_hex; }
const std::array<std::byte, 16>& Model::fingerprint_bytes() const {
  return impl_->weights.fingerprint;
}
WeightDtype Model::dtype() const { return impl_->dtype; }
uint64_t Model::parameters() const { return impl_->weights.parameters; }
uint64_t Model::weight_bytes() const { return impl_->weights.bytes; }

absl::Status Model::CheckSettings(const memory::LolaSettings& settings) const {
  if (settings.mode != memory::Mode::kSoftmax && !config().has_lola) {
    return absl::FailedPreconditionError(
        absl::StrCat("mode: ", ToAbsl(memory::Name(settings.mode)),
                     ", but the model has no LoLA weights (only softmax)"));
  }
  const uint32_t sliding = config().sliding_window;
  if (settings.mode == memory::Mode::kSoftmax && sliding > 0 && settings.window > sliding) {
    return absl::InvalidArgumentError(absl::StrCat(
        "window: ", settings.window, " in softmax mode, but the model attends to the last ",
        sliding, " positions only (sliding_window)"));
  }
  return settings.Validate(geometry());
}

}  // namespace lola::engine
