// Cuts a step into what device kernels work on: pieces of one chunk, waves of pieces, tiles of
// rows, chunk events. Pure host arithmetic over positions; the same on every device. Not
// thread-safe.
#ifndef LOLA_SERVICES_ENGINE_DEVICE_STEP_PLAN_H_
#define LOLA_SERVICES_ENGINE_DEVICE_STEP_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/tables.h"
#include "memory/stream/settings.h"

namespace lola::engine {

// One stream's part of a step.
struct StepPart {
  const memory::LolaSettings* settings = nullptr;
  uint64_t position = 0;  // of the first row
  uint32_t rows = 0;
};

// Consecutive tokens of one stream in one chunk.
struct Piece {
  uint32_t part;
  uint32_t offset;     // into the part's tokens
  uint32_t first_row;  // of the step
  uint32_t rows;
};

// The n-th piece of every stream that has one. Tiles of a wave may run side by side; its events
// follow, and the next wave follows them.
struct Wave {
  uint32_t first_tile = 0, tiles = 0;
  uint32_t first_row = 0, rows = 0;
  uint32_t first_event = 0, events = 0;  // into StepPlan::events
};

// Neighbouring waves whose rows go through the matrices together. While the waves of one lane run
// in a layer, the other lane's rows are multiplied.
struct Lane {
  uint32_t first_wave = 0, waves = 0;
  uint32_t first_row = 0, rows = 0;
};

struct StepPlan {
  std::vector<cuda::Row> rows;      // wave after wave, piece after piece; tokens are left 0
  std::vector<Piece> pieces;        // in the order of their rows
  std::vector<cuda::Tile> tiles;    // wave after wave
  std::vector<cuda::Event> events;  // `layer` is left 0: the same for all layers
  std::vector<Wave> waves;
  bool single = true;  // every tile has one row

  // Fills everything anew; keeps its memory.
  void Build(std::span<const StepPart> parts);
  // All waves in one lane, or in two of about as many rows each when the step has at least
  // `rows_min` rows and several waves.
  std::vector<Lane> Lanes(size_t rows_min) const;
};

// Sections attention needs for every stream with these settings at any position, or spans of up to
// `span` of them.
cuda::Sections SectionsOf(const memory::LolaSettings& settings,
                          const memory::ModelGeometry& geometry, uint32_t span = 1);
// Forms of a query: one per chunk distance and one for memory.
uint32_t VariantsOf(const memory::LolaSettings& settings);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_DEVICE_STEP_PLAN_H_
