// Reader of safetensors files: 8-byte little-endian header length, JSON header, raw tensor data.
// Everything is checked before use: header length, JSON, dtype, shape, offsets inside the file,
// ranges that overlap or leave holes. Parsing is pure; views point into the caller's bytes.
#ifndef LOLA_SERVICES_ENGINE_SAFETENSORS_H_
#define LOLA_SERVICES_ENGINE_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/engine/mapped_file.h"

namespace lola::engine {

inline constexpr uint64_t kSafetensorsHeaderBytesMax = 100'000'000;

struct TensorView {
  std::string dtype;            // as written: "F32", "BF16", "F16", ...
  std::vector<uint64_t> shape;  // empty = one scalar
  std::span<const std::byte> data;

  uint64_t elements() const;
};

using TensorMap = std::map<std::string, TensorView, std::less<>>;

// `name` (the file's) prefixes errors. DATA_LOSS for a file that is cut short or contradicts
// itself, UNIMPLEMENTED for a dtype this build does not know.
absl::StatusOr<TensorMap> ParseSafetensors(std::span<const std::byte> file, std::string_view name);

// Widens elements first, first + 1, ... of an F32, BF16 or F16 tensor to float. UNIMPLEMENTED
// naming tensor and dtype for others. REQUIRES: that many elements.
absl::Status CopyToFloat(std::string_view name, const TensorView& tensor, uint64_t first,
                         std::span<float> out);

// The tensors of a model directory: model.safetensors, or the files named by
// model.safetensors.index.json. Views live as long as the set.
class TensorSet {
 public:
  static absl::StatusOr<TensorSet> Open(const std::string& model_dir);

  const TensorMap& tensors() const { return tensors_; }
  // Finds a tensor of exactly this shape. NOT_FOUND, or INVALID_ARGUMENT with both shapes.
  absl::StatusOr<const TensorView*> Find(std::string_view name,
                                         std::span<const uint64_t> shape) const;

 private:
  absl::Status AddFile(const std::string& path);
  std::vector<MappedFile> files_;
  TensorMap tensors_;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_SAFETENSORS_H_
