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

uint32_t DivideUp(uint32_t n, uint32_t by) { return (n + by - 1) / by; }

}  // namespace

void StepPlan::Build(std::span<const StepPart> parts) {
  rows.clear();
  pieces.clear();
  tiles.clear();
  events.clear();
  waves.clear();
  single = true;
  std::vector<uint32_t> done(parts.size(), 0);
  for (bool more = true; more;) {
    more = false;
    Wave wave{.first_tile = uint32_t(tiles.size()),
              .first_row = uint32_t(rows.size()),
              .first_event = uint32_t(events.size())};
    for (uint32_t i = 0; i < parts.size(); ++i) {
      if (done[i] == parts[i].rows) continue;
      const LolaSettings& settings = *parts[i].settings;
      const uint64_t position = parts[i].position + done[i];
      const Piece piece{i, done[i], uint32_t(rows.size()),
                        PieceRows(settings, position, parts[i].rows - done[i])};
      pieces.push_back(piece);
      for (uint32_t r = 0; r < piece.rows; r += cuda::kTileRows) {
        const uint32_t n = std::min(cuda::kTileRows, piece.rows - r);
        tiles.push_back({position + r, i, piece.first_row + r, n});
        single = single && n == 1;
      }
      for (uint32_t r = 0; r < piece.rows; ++r) rows.push_back({position + r, 0, i});
      const uint64_t end = position + piece.rows;
      if (EventAfter(settings, end)) {
        events.push_back({end - settings.window - settings.chunk, i, 0});
      }
      done[i] += piece.rows;
      more = more || done[i] < parts[i].rows;
    }
    wave.tiles = uint32_t(tiles.size()) - wave.first_tile;
    wave.rows = uint32_t(rows.size()) - wave.first_row;
    wave.events = uint32_t(events.size()) - wave.first_event;
    waves.push_back(wave);
  }
}

std::vector<Lane> StepPlan::Lanes(size_t rows_min) const {
  const uint32_t all = uint32_t(rows.size()), count = uint32_t(waves.size());
  if (count < 2 || all < rows_min) return {{0, count, 0, all}};
  uint32_t second = 1;  // first wave of the second lane
  while (second + 1 < count && waves[second].first_row < all / 2) ++second;
  const uint32_t row = waves[second].first_row;
  return {{0, second, 0, row}, {second, count - second, row, all - row}};
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
