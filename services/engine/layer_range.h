// A run of consecutive layers of a model, and what model shape, settings and state records look
// like when cut down to it. A record is layer after layer on page boundaries, so the layers of a
// range are one piece of it (memory/stream/layout.h), and a record of the range alone is a header
// page and that piece, byte for byte. Pure functions, any thread.
#ifndef LOLA_SERVICES_ENGINE_LAYER_RANGE_H_
#define LOLA_SERVICES_ENGINE_LAYER_RANGE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/stream/layout.h"
#include "memory/stream/settings.h"

namespace lola::engine {

// Layers first, first + 1, ... end - 1.
struct LayerRange {
  uint32_t first = 0;
  uint32_t end = 0;

  uint32_t count() const { return end - first; }
  bool operator==(const LayerRange&) const = default;
  // As people write it, both ends included: "4-7", "4".
  std::string ToString() const;
};

// "4-7" or "4". INVALID_ARGUMENT with the text when it is no range.
absl::StatusOr<LayerRange> ParseLayerRange(std::string_view text);
// INVALID_ARGUMENT with both values when the range is empty or the model has fewer layers.
absl::Status CheckLayerRange(const LayerRange& range, uint32_t layers);

// The model as if it had these layers only. REQUIRES: CheckLayerRange.
memory::ModelGeometry CutGeometry(memory::ModelGeometry geometry, const LayerRange& range);
// The settings for that geometry: per-layer budgets of these layers only.
memory::LolaSettings CutSettings(memory::LolaSettings settings, const LayerRange& range);
memory::StateLayout CutLayout(const memory::StateLayout& whole, const LayerRange& range);

// Where the range's layers lie in a record of the whole model: offset and bytes. In a record of
// CutLayout they lie from memory::kPageBytes to its end.
struct RecordPiece {
  size_t offset = 0;
  size_t bytes = 0;
};
RecordPiece PieceOf(const memory::StateLayout& whole, const LayerRange& range);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_LAYER_RANGE_H_
