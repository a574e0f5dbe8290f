#include "services/engine/fingerprint.h"

#include <xxhash.h>

#include <bit>
#include <cstring>

namespace lola::engine {

struct Fingerprint::State {
  State() : hash(XXH3_createState()) { XXH3_128bits_reset(hash); }
  ~State() { XXH3_freeState(hash); }
  XXH3_state_t* hash;
};

Fingerprint::Fingerprint(const ModelConfig& config, kernels::Dtype dtype)
    : state_(std::make_unique<State>()) {
  const memory::ModelGeometry& g = config.geometry;
  AddValue("format", 1);
  AddValue("layers", g.layers);
  AddValue("hidden", g.hidden);
  AddValue("query_heads", g.query_heads);
  AddValue("kv_heads", g.kv_heads);
  AddValue("head_dim", g.head_dim);
  AddValue("feature_dim", g.feature_dim);
  AddValue("ffn", g.ffn);
  AddValue("vocab", g.vocab);
  AddValue("rms_epsilon", std::bit_cast<uint32_t>(config.rms_epsilon));
  AddValue("rope_theta", std::bit_cast<uint64_t>(config.rope_theta));
  if (config.rope_scaling) {
    AddValue("factor", std::bit_cast<uint64_t>(config.rope_scaling->factor));
    AddValue("low", std::bit_cast<uint64_t>(config.rope_scaling->low_freq_factor));
    AddValue("high", std::bit_cast<uint64_t>(config.rope_scaling->high_freq_factor));
    AddValue("original", std::bit_cast<uint64_t>(config.rope_scaling->original_max_position));
  }
  AddValue("tied", config.tied_embeddings ? 1 : 0);
  AddValue("dtype", static_cast<uint64_t>(dtype));
}

Fingerprint::~Fingerprint() = default;

void Fingerprint::AddValue(std::string_view name, uint64_t value) {
  const uint64_t size = name.size();  // keeps neighbours apart
  XXH3_128bits_update(state_->hash, &size, sizeof(size));
  XXH3_128bits_update(state_->hash, name.data(), name.size());
  XXH3_128bits_update(state_->hash, &value, sizeof(value));
}

void Fingerprint::BeginTensor(std::string_view name, const TensorView& tensor) {
  AddValue(name, tensor.shape.size());
  AddValue(tensor.dtype, tensor.data.size());
  for (const uint64_t extent : tensor.shape) AddValue("", extent);
}

void Fingerprint::AddBytes(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_->hash, bytes.data(), bytes.size());
}

std::array<std::byte, 16> Fingerprint::Digest() const {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_->hash));
  std::array<std::byte, 16> digest;
  std::memcpy(digest.data(), canonical.digest, digest.size());
  return digest;
}

}  // namespace lola::engine
