// Products on the processor's matrix tiles (AMX): 16 rows x 16 outputs x 16 steps an instruction.
//
// A packed panel is already what the tiles want of weights: 16 steps by 16 outputs lie in 16 lines
// of 64 bytes, 128 apart. Inputs are packed in blocks of 16 rows, step tile after step tile, each
// [rows of the block, 16 steps] of bfloat16 pairs, the last tile padded with zeros. A row's sums do
// not depend on which tile row it has or on how many others there are, so one row alone takes the
// same instructions. Nothing runs unless the processor has tiles and the system lends them.
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/gemm_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/core/cpu.h"

#define LOLA_TILES __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512bf16")))

namespace lola::kernels {
namespace {

constexpr size_t kTileRows = 16;
constexpr size_t kTileSteps = 16;
constexpr size_t kTilesPerSlice = kStepsPerSlice / kTileSteps;
constexpr size_t kLine = 64;                            // bytes of a tile row
constexpr size_t kPanelLine = kPanelOutputs * 4;        // bytes of a panel's step, of a row of sums
constexpr size_t kPanelTile = kTileSteps * kPanelLine;  // bytes of a step tile of a panel

constexpr size_t StepTiles(size_t steps) { return (steps + kTileSteps - 1) / kTileSteps; }

// Tiles 0 to 3 hold sums (two row blocks by two halves of a panel), 4 and 5 inputs, 6 and 7
// weights. `low` and `high` are the rows of the two blocks; a block of no rows is not used.
LOLA_TILES void Configure(size_t low, size_t high) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t line_bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  const size_t rows[8] = {low, low, high, high, low, high, kTileRows, kTileRows};
  for (size_t i = 0; i < 8; ++i) {
    config.line_bytes[i] = kLine;
    config.rows[i] = static_cast<uint8_t>(std::max<size_t>(rows[i], 1));
  }
  // The compiler does not know that the instruction reads all of it.
  asm volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}

// A panel's weights by step tile; the last one may be shorter and is then a copy with zeros.
class WeightTiles {
 public:
  WeightTiles(const std::byte* panel, size_t steps) : panel_(panel), whole_(steps / kTileSteps) {
    const size_t rest = steps % kTileSteps;
    if (rest == 0) return;
    std::memcpy(last_, panel + whole_ * kPanelTile, rest * kPanelLine);
    std::memset(last_ + rest * kPanelLine, 0, kPanelTile - rest * kPanelLine);
    asm volatile("" : : "r"(last_) : "memory");  // tile loads are opaque to the compiler
  }
  const std::byte* operator[](size_t tile) const {
    return tile < whole_ ? panel_ + tile * kPanelTile : last_;
  }

 private:
  const std::byte* panel_;
  size_t whole_;
  alignas(64) std::byte last_[kPanelTile];
};

LOLA_TILES void LoadSums(const float* low, const float* high) {
  _tile_loadd(0, low, kPanelLine);
  _tile_loadd(1, low + kTileRows, kPanelLine);
  if (high == nullptr) return;
  _tile_loadd(2, high, kPanelLine);
  _tile_loadd(3, high + kTileRows, kPanelLine);
}

LOLA_TILES void ZeroSums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

LOLA_TILES void StoreSums(float* low, float* high) {
  _tile_stored(0, low, kPanelLine);
  _tile_stored(1, low + kTileRows, kPanelLine);
  if (high == nullptr) return;
  _tile_stored(2, high, kPanelLine);
  _tile_stored(3, high + kTileRows, kPanelLine);
}

// Adds the products of step tiles [begin, end) to the sums; `high` may be null.
LOLA_TILES void AddTiles(const std::byte* low, size_t low_bytes, const std::byte* high,
                         size_t high_bytes, const WeightTiles& weights, size_t begin, size_t end) {
  for (size_t tile = begin; tile < end; ++tile) {
    const std::byte* w = weights[tile];
    _tile_loadd(6, w, kPanelLine);
    _tile_loadd(7, w + kLine, kPanelLine);
    _tile_loadd(4, low + tile * low_bytes, kLine);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (high == nullptr) continue;
    _tile_loadd(5, high + tile * high_bytes, kLine);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

// One or two blocks of rows that lie one after the other, over all steps.
struct RowBlocks {
  size_t low = 0, high = 0;  // rows
  const std::byte* input = nullptr;
  float* sums = nullptr;

  LOLA_TILES void Add(const WeightTiles& weights, size_t tiles, size_t begin, size_t end) const {
    float* high_sums = high > 0 ? sums + low * kPanelOutputs : nullptr;
    if (begin == 0) {
      ZeroSums();
    } else {
      LoadSums(sums, high_sums);
    }
    const std::byte* high_input = high > 0 ? input + tiles * low * kLine : nullptr;
    AddTiles(input, low * kLine, high_input, high * kLine, weights, begin, end);
    StoreSums(sums, high_sums);
  }
};

LOLA_TILES void PanelSums(const void* packed, size_t rows, size_t steps, const std::byte* panel,
                          float* sums) {
  const WeightTiles weights(panel, steps);
  const size_t tiles = StepTiles(steps);
  const auto* input = static_cast<const std::byte*>(packed);
  const size_t whole = rows / (2 * kTileRows) * (2 * kTileRows);
  if (whole > 0) Configure(kTileRows, kTileRows);
  for (size_t begin = 0; begin < tiles && whole > 0; begin += kTilesPerSlice) {
    const size_t end = std::min(tiles, begin + kTilesPerSlice);
    for (size_t row = 0; row < whole; row += 2 * kTileRows) {
      const RowBlocks blocks = {kTileRows, kTileRows, input + row * tiles * kLine,
                                sums + row * kPanelOutputs};
      blocks.Add(weights, tiles, begin, end);
    }
  }
  if (const size_t rest = rows - whole; rest > 0) {
    const size_t low = std::min(rest, kTileRows);
    Configure(low, rest - low);
    const RowBlocks blocks = {low, rest - low, input + whole * tiles * kLine,
                              sums + whole * kPanelOutputs};
    blocks.Add(weights, tiles, 0, tiles);
  }
  _tile_release();
}

LOLA_TILES void SinglePanels(const void* packed, size_t steps, const std::byte* panel,
                             size_t panel_bytes, size_t panels, float* sums) {
  const size_t tiles = StepTiles(steps);
  Configure(1, 0);
  for (size_t i = 0; i < panels; ++i) {
    const WeightTiles weights(panel + i * panel_bytes, steps);
    const RowBlocks row = {1, 0, static_cast<const std::byte*>(packed), sums + i * kPanelOutputs};
    row.Add(weights, tiles, 0, tiles);
  }
  _tile_release();
}

// Rounds up to 32 values to a line of bfloat16 pairs, zeros behind them.
LOLA_TILES void RoundLine(const float* x, size_t n, std::byte* line) {
  const auto first = static_cast<__mmask16>(n >= 16 ? 0xffff : (1u << n) - 1);
  const auto second = static_cast<__mmask16>(n >= 32 ? 0xffff : n > 16 ? (1u << (n - 16)) - 1 : 0);
  const __m512 low = _mm512_maskz_loadu_ps(first, x);
  const __m512 high = second != 0 ? _mm512_maskz_loadu_ps(second, x + 16) : _mm512_setzero_ps();
  _mm512_storeu_si512(line, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

LOLA_TILES void PackRows(const float* input, size_t stride, size_t rows, size_t in, void* packed) {
  const size_t tiles = StepTiles((in + 1) / 2);
  auto* block = static_cast<std::byte*>(packed);
  for (size_t row = 0; row < rows; row += kTileRows) {
    const size_t count = std::min(kTileRows, rows - row);
    for (size_t r = 0; r < count; ++r) {
      const float* x = input + (row + r) * stride;
      for (size_t tile = 0; tile < tiles; ++tile) {
        const size_t i = tile * 2 * kTileSteps;
        RoundLine(x + i, std::min(2 * kTileSteps, in - i), block + (tile * count + r) * kLine);
      }
    }
    block += count * tiles * kLine;
  }
}

}  // namespace

const GemmKernels* BFloat16TileKernels() {
  static constexpr GemmKernels kKernels = {4, kTileSteps, PackRows, PanelSums, SinglePanels};
  static const bool available = HasBf16Tiles();
  return available ? &kKernels : nullptr;
}

}  // namespace lola::kernels

#else  // not x86-64

namespace lola::kernels {
const GemmKernels* BFloat16TileKernels() { return nullptr; }
}  // namespace lola::kernels

#endif
