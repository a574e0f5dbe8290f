// The identity of a model: XXH3-128 over everything that changes its results. Equal fingerprints
// mean that states and snapshots can be exchanged. Not thread-safe.
#ifndef LOLA_SERVICES_ENGINE_FINGERPRINT_H_
#define LOLA_SERVICES_ENGINE_FINGERPRINT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "kernels/core/bf16.h"
#include "services/engine/config.h"
#include "services/engine/safetensors.h"

namespace lola::engine {

class Fingerprint {
 public:
  // Adds shape, rotary scheme, norm epsilon and packing dtype. Defaults of LoLA settings are not
  // part of it: every stream carries its own.
  Fingerprint(const ModelConfig& config, kernels::Dtype dtype);
  ~Fingerprint();

  void AddValue(std::string_view name, uint64_t value);
  // A tensor is its name, dtype and shape, then all its bytes in order, in pieces of any size.
  // Tensors come in name order.
  void BeginTensor(std::string_view name, const TensorView& tensor);
  void AddBytes(std::span<const std::byte> bytes);
  std::array<std::byte, 16> Digest() const;  // canonical byte order

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_FINGERPRINT_H_
