#include "memory/stream/layout.h"

#include <utility>

#include "kernels/core/check.h"

namespace lola::memory {
namespace {

constexpr size_t RoundUp(size_t n, size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

uint32_t RoundUpRows(uint32_t rows) { return static_cast<uint32_t>(RoundUp(rows, kRowBlock)); }

// Hands out consecutive aligned sections.
class Cursor {
 public:
  explicit Cursor(size_t at) : at_(at) {}
  size_t Take(size_t bytes) {
    const size_t offset = at_;
    at_ = RoundUp(at_ + bytes, kSectionAlign);
    return offset;
  }
  size_t at() const { return at_; }

 private:
  size_t at_;
};

}  // namespace

StateLayout::StateLayout(const ModelGeometry& geometry, const LolaSettings& settings)
    : geometry_(geometry), settings_(settings) {
  const absl::Status valid = settings.Validate(geometry);
  LOLA_CHECK(valid.ok()) << std::string(valid.message());
  const bool softmax = settings.mode == Mode::kSoftmax;
  ring_chunks_ = softmax ? 1 : settings.window / settings.chunk + 1;
  chunk_rows_ = RoundUpRows(softmax ? settings.window : settings.chunk);
  const size_t q_heads = geometry.query_heads;
  const size_t state_heads = softmax ? 0 : q_heads;
  const size_t mass_heads = settings.score == Score::kAttention ? state_heads : 0;
  const size_t ring_bytes = geometry.kv_heads * size_t{ring_rows()} * row_bytes();
  size_t begin = kPageBytes;
  for (uint32_t i = 0; i < geometry.layers; ++i) {
    const size_t slots = cache_slots(i);
    Cursor cursor(begin);
    LayerOffsets layer;
    layer.begin = begin;
    layer.counters = cursor.Take(state_heads * sizeof(HeadCounters));
    layer.s = cursor.Take(state_heads * 2 * geometry.feature_dim * sizeof(float));
    layer.h = cursor.Take(state_heads * geometry.feature_dim * geometry.head_dim * sizeof(float));
    layer.window_k = cursor.Take(ring_bytes);
    layer.window_v = cursor.Take(ring_bytes);
    layer.cache_k = cursor.Take(caches() * slots * row_bytes());
    layer.cache_v = cursor.Take(caches() * slots * row_bytes());
    layer.cache_meta = cursor.Take(caches() * slots * sizeof(SlotMeta));
    layer.window_mass = cursor.Take(mass_heads * ring_rows() * sizeof(float));
    layer.cache_mass = cursor.Take(mass_heads * slots * sizeof(float));
    const bool scaled = settings.cache_dtype == kernels::Dtype::kFloat8;
    const size_t window_exponents = scaled ? size_t{geometry.kv_heads} * ring_rows() : 0;
    const size_t cache_exponents = scaled ? caches() * slots : 0;
    layer.window_k_exponents = cursor.Take(window_exponents);
    layer.window_v_exponents = cursor.Take(window_exponents);
    layer.cache_k_exponents = cursor.Take(cache_exponents);
    layer.cache_v_exponents = cursor.Take(cache_exponents);
    layer.end = RoundUp(cursor.at(), kPageBytes);
    begin = layer.end;
    layers_.push_back(layer);
  }
  stride_bytes_ = begin;
}

uint32_t StateLayout::cache_slots(uint32_t layer) const {
  return settings_.mode == Mode::kSoftmax ? 0 : RoundUpRows(settings_.CachePairs(layer));
}

uint32_t StateLayout::RingRow(uint64_t position) const {
  if (settings_.mode == Mode::kSoftmax) return static_cast<uint32_t>(position);
  const uint64_t chunk = position / settings_.chunk;
  return static_cast<uint32_t>(chunk % ring_chunks_ * chunk_rows_ + position % settings_.chunk);
}

uint64_t StateLayout::WindowBegin(uint64_t position) const {
  if (settings_.mode == Mode::kSoftmax) return 0;
  const uint64_t chunk = position / settings_.chunk;
  const uint64_t back = settings_.window / settings_.chunk;
  return chunk <= back ? 0 : (chunk - back) * settings_.chunk;
}

std::vector<Section> StateLayout::Sections() const {
  std::vector<Section> sections;
  sections.push_back({"header", 0, kPageBytes});
  for (uint32_t i = 0; i < geometry_.layers; ++i) {
    const LayerOffsets& layer = layers_[i];
    const std::pair<const char*, size_t> starts[] = {
        {"counters", layer.counters},
        {"s", layer.s},
        {"H", layer.h},
        {"window_k", layer.window_k},
        {"window_v", layer.window_v},
        {"cache_k", layer.cache_k},
        {"cache_v", layer.cache_v},
        {"cache_meta", layer.cache_meta},
        {"window_mass", layer.window_mass},
        {"cache_mass", layer.cache_mass},
        {"window_k_exponents", layer.window_k_exponents},
        {"window_v_exponents", layer.window_v_exponents},
        {"cache_k_exponents", layer.cache_k_exponents},
        {"cache_v_exponents", layer.cache_v_exponents},
        {"end", layer.end},
    };
    for (size_t s = 0; s + 1 < std::size(starts); ++s) {
      const size_t bytes = starts[s + 1].second - starts[s].second;
      if (bytes == 0) continue;
      sections.push_back(
          {"layer." + std::to_string(i) + "." + starts[s].first, starts[s].second, bytes});
    }
  }
  return sections;
}

}  // namespace lola::memory
