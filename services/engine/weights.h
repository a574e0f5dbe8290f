// A model's weights in the form the passes read them: matrices packed once (q, k, v fused; gate, up
// fused), norms, feature maps and gates in float32. Immutable after building; any thread.
#ifndef LOLA_SERVICES_ENGINE_WEIGHTS_H_
#define LOLA_SERVICES_ENGINE_WEIGHTS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/gemm/gemm.h"
#include "services/engine/config.h"
#include "services/engine/layer_range.h"

namespace lola::engine {

struct LayerWeights {
  std::vector<float> input_norm;    // [hidden]
  std::vector<float> post_norm;     // [hidden]
  kernels::PackedMatrix qkv;        // [(Hq + 2 Hkv) d, hidden]
  kernels::PackedMatrix o;          // [hidden, Hq d]
  kernels::PackedMatrix gate_up;    // [2 ffn, hidden]
  kernels::PackedMatrix down;       // [hidden, ffn]
  std::vector<float> map_q, map_k;  // [Hq, d, f]; empty without LoLA
  std::vector<float> gate;          // [Hq], sigmoid applied; empty without LoLA
};

// Of a range of the layers: the embedding (or its tied matrix) is there with layer 0, norm and head
// with the last layer; what is elsewhere is empty.
struct ModelWeights {
  size_t hidden = 0;
  // [vocab, hidden], in one of these: float32 weights keep float32, others bfloat16. Both empty
  // when the embedding is tied: rows are then taken from `head`.
  std::vector<float> embedding;
  std::vector<kernels::BFloat16> embedding_bf16;
  std::vector<LayerWeights> layers;  // of the range
  std::vector<float> norm;           // [hidden]
  kernels::PackedMatrix head;        // [vocab, hidden]

  std::array<std::byte, 16> fingerprint{};
  uint64_t parameters = 0;  // tied ones counted once
  uint64_t bytes = 0;

  // Writes the embedding of a token. REQUIRES: 0 <= token < vocab, layer 0 is here.
  void Embed(int32_t token, float* row) const;
};

// Reads and packs a model directory's tensors. Every tensor must be there with the right shape and
// finite; names without a use are ignored. Errors name tensor, field and value.
//
// Memory: what the packed weights need and a few MiB. Files are mapped, each tensor is read once
// and its pages are let go. Tensors of layers that are not in `layers` (absent: all) are read too,
// for the fingerprint, which is the whole model's; nothing of them is kept or checked.
absl::StatusOr<ModelWeights> LoadWeights(const std::string& model_dir, const ModelConfig& config,
                                         kernels::Dtype dtype,
                                         std::optional<LayerRange> layers = std::nullopt);

// Weights drawn from `seed`: uniform, never zero, scaled so that activations stay of order one.
// Those of a layer do not depend on which others are built.
ModelWeights RandomWeights(const ModelConfig& config, uint64_t seed, kernels::Dtype dtype,
                           std::optional<LayerRange> layers = std::nullopt);

// What ModelWeights::parameters and bytes will be, without building them.
struct WeightsSize {
  uint64_t parameters = 0;
  uint64_t bytes = 0;
};
WeightsSize SizeOfWeights(const ModelConfig& config, kernels::Dtype dtype);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_WEIGHTS_H_
