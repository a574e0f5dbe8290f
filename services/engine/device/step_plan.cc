#include "services/engine/device/step_plan.h"

#include <algorithm>

namespace lola::engine {
namespace {

using memory::LolaSettings;
using memory::Mode;

// A piece ends where a chunk ends; softmax mode has no chunks.
uint32_t PieceRows(const LolaSettings& settings, uint64_t position, uint32_t left) {
  if (settings.mode == Mode::kSoftmax) return left;
  return std::min<uint32_t>(left, settings.chunk - uint32_t(position % settings.chunk));
}

bool EventAfter(const LolaSettings& settings, uint64_t end) {
  return settings.mode == Mode::kLola && end % settings.chunk == 0 &&
         end >= uint64_t{settings.window} + settings.chunk;
}

struct Cursor {
  uint64_t position;
  uint32_t row;
  uint32_t left;
};

uint32_t DivideUp(uint32_t n, uint32_t by) { return (n + by - 1) / by; }

}  // namespace

void StepPlan::Build(std::span<const StepPart> parts) {
  rows.clear();
  tiles.clear();
  wave_rows.clear();
  events.clear();
  waves.clear();
  single = true;
  std::vector<Cursor> cursors;
  for (uint32_t i = 0; i < parts.size(); ++i) {
    cursors.push_back({parts[i].position, uint32_t(rows.size()), parts[i].rows});
    for (uint32_t r = 0; r < parts[i].rows; ++r) rows.push_back({parts[i].position + r, 0, i});
  }
  while (wave_rows.size() < rows.size()) {
    Wave wave{.first_tile = uint32_t(tiles.size()),
              .first_row = uint32_t(wave_rows.size()),
              .first_event = uint32_t(events.size())};
    for (uint32_t i = 0; i < parts.size(); ++i) {
      Cursor& at = cursors[i];
      if (at.left == 0) continue;
      const LolaSettings& settings = *parts[i].settings;
      const uint32_t piece = PieceRows(settings, at.position, at.left);
      for (uint32_t r = 0; r < piece; r += cuda::kTileRows) {
        const uint32_t n = std::min(cuda::kTileRows, piece - r);
        tiles.push_back({at.position + r, i, at.row + r, n});
        single = single && n == 1;
      }
      for (uint32_t r = 0; r < piece; ++r) wave_rows.push_back(at.row + r);
      at.position += piece;
      at.row += piece;
      at.left -= piece;
      if (EventAfter(settings, at.position)) {
        events.push_back({at.position - settings.window - settings.chunk, i, 0});
      }
    }
    wave.tiles = uint32_t(tiles.size()) - wave.first_tile;
    wave.rows = uint32_t(wave_rows.size()) - wave.first_row;
    wave.events = uint32_t(events.size()) - wave.first_event;
    waves.push_back(wave);
  }
}

cuda::Sections SectionsOf(const LolaSettings& settings, const memory::ModelGeometry& geometry,
                          uint32_t span) {
  const auto spans = [span](uint32_t n, uint32_t each) {
    return DivideUp(DivideUp(n, each), span);
  };
  if (settings.mode == Mode::kSoftmax) return {0, spans(settings.window, cuda::kSectionPairs), 0};
  uint32_t pairs = 0;
  for (uint32_t layer = 0; layer < geometry.layers; ++layer) {
    pairs = std::max(pairs, settings.CachePairs(layer));
  }
  return {spans(pairs, cuda::kSectionPairs),
          (settings.window / settings.chunk + 1) * spans(settings.chunk, cuda::kSectionPairs),
          spans(geometry.feature_dim, cuda::kSectionFeatures)};
}

uint32_t VariantsOf(const LolaSettings& settings) {
  if (settings.mode == Mode::kSoftmax ||
      settings.memory_positions == memory::MemoryPositions::kRotary) {
    return 1;
  }
  return settings.window / settings.chunk + 2;
}

}  // namespace lola::engine
