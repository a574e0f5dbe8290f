#include "memory/stream/layer_memory.h"

#include <algorithm>
#include <cmath>

#include "kernels/attend/attend.h"
#include "kernels/core/check.h"
#include "kernels/feature_map/feature_map.h"
#include "kernels/rope/rope.h"
#include "memory/stream/chunk_event.h"
#include "memory/stream/layer_views.h"
#include "memory/stream/scratch.h"

namespace lola::memory {
namespace {

// Keeps the output's denominator away from zero; part of the model's definition.
constexpr float kOutputEpsilon = 1e-6f;

// Rows of one call that lie in one chunk, for one kv head.
struct Piece {
  const StateLayout& layout;
  std::byte* record;
  uint32_t layer;
  uint32_t kv_head;
  const AdvanceParams& params;
  size_t first_row;  // of the call
  size_t rows;

  const LolaSettings& settings() const { return layout.settings(); }
  size_t head_dim() const { return layout.geometry().head_dim; }
  size_t half() const { return head_dim() / 2; }
  uint64_t Position(size_t row) const { return params.position + first_row + row; }
  bool softmax() const { return settings().mode == Mode::kSoftmax; }
  bool absolute() const {
    return softmax() || settings().memory_positions == MemoryPositions::kRotary;
  }

  void Push() const;
  void AttendHead(uint32_t group_index, size_t first, size_t count) const;
  size_t RotateQueries(const float* q, size_t first, size_t count, size_t distances) const;
  size_t FillSpans(const HeadMemory* head, size_t first, size_t memory_block) const;
  void SetMixing(const HeadMemory& head, uint32_t group_index, kernels::AttendParams& attend) const;
};

void Piece::Push() const {
  const PairRows window = WindowRows(layout, record, layer, kv_head);
  float* key = params.scratch->buffers().key.data();
  for (size_t row = 0; row < rows; ++row) {
    const uint64_t position = Position(row);
    // Constant scheme: only the place inside the chunk; the query supplies the chunk's distance.
    const size_t angle = absolute() ? first_row + row : position % settings().chunk;
    const float* cos = absolute() ? params.rope->absolute_cos : params.rope->distance_cos;
    const float* sin = absolute() ? params.rope->absolute_sin : params.rope->distance_sin;
    kernels::RotateRow(params.k + (first_row + row) * params.k_stride, cos + angle * half(),
                       sin + angle * half(), head_dim(), /*inverse=*/false, key);
    window.Store(layout.RingRow(position), key, params.v + (first_row + row) * params.v_stride);
  }
}

// Fills scratch.queries: block m holds the rows rotated for the chunk m chunks back, the last block
// those for the memory. Rotary needs one block for both. Returns the memory's block.
size_t Piece::RotateQueries(const float* q, size_t first, size_t count, size_t distances) const {
  float* out = params.scratch->buffers().queries.data();
  const size_t d = head_dim();
  for (size_t row = 0; row < count; ++row) {
    const float* x = q + (first_row + first + row) * params.q_stride;
    if (absolute()) {
      const size_t angle = (first_row + first + row) * half();
      kernels::RotateRow(x, params.rope->absolute_cos + angle, params.rope->absolute_sin + angle, d,
                         false, out + row * d);
      continue;
    }
    const size_t place = Position(first + row) % settings().chunk;
    for (size_t m = 0; m < distances; ++m) {
      const size_t angle = (place + m * settings().chunk) * half();
      kernels::RotateRow(x, params.rope->distance_cos + angle, params.rope->distance_sin + angle, d,
                         false, out + (m * kQueryRows + row) * d);
    }
    kernels::RotateRow(x, params.rope->memory_cos, params.rope->memory_sin, d, false,
                       out + (distances * kQueryRows + row) * d);
  }
  return absolute() ? 0 : distances;
}

// Sparse cache, then window chunks from the oldest; returns how many spans there are.
size_t Piece::FillSpans(const HeadMemory* head, size_t first, size_t memory_block) const {
  ScratchBuffers& scratch = params.scratch->buffers();
  const size_t block_floats = kQueryRows * head_dim();
  const PairRows window = WindowRows(layout, record, layer, kv_head);
  const uint64_t position = Position(first);
  size_t count = 0;
  if (head != nullptr && head->counters->cached > 0) {
    scratch.spans[count++] = {.keys = head->cache.keys,
                              .values = head->cache.values,
                              .pairs = head->counters->cached,
                              .key_exponents = head->cache.key_exponents,
                              .value_exponents = head->cache.value_exponents,
                              .queries = scratch.queries.data() + memory_block * block_floats,
                              .mass = head->cache_mass};
  }
  float* window_mass = head != nullptr ? head->window_mass : nullptr;
  const uint64_t chunk_tokens = softmax() ? settings().window : settings().chunk;
  for (uint64_t at = layout.WindowBegin(position); at <= position; at += chunk_tokens) {
    const bool current = position - at < chunk_tokens;
    const PairRows rows_of = window.From(layout.RingRow(at));
    const size_t back = absolute() ? 0 : position / chunk_tokens - at / chunk_tokens;
    scratch.spans[count++] = {.keys = rows_of.keys,
                              .values = rows_of.values,
                              .pairs = current ? position - at + 1 : chunk_tokens,
                              .causal = current,
                              .key_exponents = rows_of.key_exponents,
                              .value_exponents = rows_of.value_exponents,
                              .queries = scratch.queries.data() + back * block_floats,
                              .mass = window_mass ? window_mass + layout.RingRow(at) : nullptr};
  }
  return count;
}

void Piece::SetMixing(const HeadMemory& head, uint32_t group_index,
                      kernels::AttendParams& attend) const {
  const double absorbed = static_cast<double>(head.counters->absorbed);
  const double cap = settings().mass_cap;
  const float share = static_cast<float>(cap > 0 && absorbed > cap ? cap / absorbed : 1.0);
  const float gate = params.weights.gate[group_index];
  attend.h = head.h;
  attend.s = head.s;
  attend.features = params.scratch->buffers().query_features.data();
  attend.feature_dim = layout.geometry().feature_dim;
  switch (settings().mixing) {
    case Mixing::kGatedNatural:
      attend.mix = kernels::AttendMix::kShifted;
      attend.softmax_weight = gate;
      attend.linear_weight = share * (1.0f - gate);
      attend.epsilon = kOutputEpsilon;
      break;
    case Mixing::kNatural:
      attend.mix = kernels::AttendMix::kShifted;
      attend.softmax_weight = 1.0f;
      attend.linear_weight = share;
      attend.epsilon = kOutputEpsilon;
      break;
    case Mixing::kLolcats:
      attend.mix = kernels::AttendMix::kRowMax;
      attend.softmax_weight = gate;
      attend.linear_weight = share;
      break;
  }
}

void Piece::AttendHead(uint32_t group_index, size_t first, size_t count) const {
  ScratchBuffers& scratch = params.scratch->buffers();
  const size_t d = head_dim();
  const uint64_t position = Position(first);
  const size_t distances =
      absolute() ? 1 : (position - layout.WindowBegin(position)) / settings().chunk + 1;
  const size_t memory_block = RotateQueries(params.q + group_index * d, first, count, distances);
  HeadMemory head{};
  if (!softmax()) {
    head = HeadOf(layout, record, layer, kv_head * layout.geometry().group() + group_index);
  }
  kernels::AttendParams attend{
      .spans = scratch.spans.data(),
      .span_count = FillSpans(softmax() ? nullptr : &head, first, memory_block),
      .dtype = settings().cache_dtype,
      .rows = count,
      .head_dim = d,
      .scale = 1.0f / std::sqrt(static_cast<float>(d)),
      .out = params.out + (first_row + first) * params.out_stride + group_index * d,
      .out_stride = params.out_stride,
      .scratch = scratch.attend.data()};
  if (!softmax() && head.counters->absorbed > 0) {
    const uint32_t map_dim = layout.geometry().map_dim();
    kernels::FeatureMap({.input = scratch.queries.data() + memory_block * kQueryRows * d,
                         .input_stride = d,
                         .map = params.weights.map_q + group_index * d * map_dim,
                         .rows = count,
                         .head_dim = d,
                         .map_dim = map_dim,
                         .output = scratch.query_features.data()});
    SetMixing(head, group_index, attend);
  }
  params.stats->nonfinite_rows += kernels::Attend(attend);
}

}  // namespace

LayerMemory::LayerMemory(const StateLayout* layout, std::byte* record, uint32_t layer)
    : layout_(layout), record_(record), layer_(layer) {
  LOLA_CHECK_LT(layer, layout->geometry().layers);
}

void LayerMemory::Advance(uint32_t kv_head, const AdvanceParams& params) {
  const LolaSettings& settings = layout_->settings();
  const bool softmax = settings.mode == Mode::kSoftmax;
  LOLA_CHECK_LT(kv_head, layout_->geometry().kv_heads);
  if (softmax) LOLA_CHECK_LE(params.position + params.rows, settings.window);
  const uint64_t chunk = softmax ? settings.window : settings.chunk;
  for (size_t row = 0; row < params.rows;) {
    const uint64_t position = params.position + row;
    const size_t rows = std::min<size_t>(params.rows - row, chunk - position % chunk);
    const Piece piece{*layout_, record_, layer_, kv_head, params, row, rows};
    piece.Push();
    for (uint32_t i = 0; i < layout_->geometry().group(); ++i) {
      for (size_t first = 0; first < rows; first += kQueryRows) {
        piece.AttendHead(i, first, std::min(kQueryRows, rows - first));
      }
    }
    params.stats->tokens += rows;
    const uint64_t end = position + rows;
    if (!softmax && end % chunk == 0 && end >= settings.window + chunk) {
      ChunkEvent{*layout_, record_, layer_, kv_head, end - settings.window - chunk, params}.Run();
    }
    row += rows;
  }
}

}  // namespace lola::memory
