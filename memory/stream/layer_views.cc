#include "memory/stream/layer_views.h"

#include <cstring>

namespace lola::memory {
namespace {

using kernels::BFloat16;
using kernels::Dtype;
using kernels::KeyOffset;
using kernels::ToBFloat16;
using kernels::ToFloat;

inline void Put(float* to, float value) { *to = value; }
inline void Put(BFloat16* to, float value) { *to = ToBFloat16(value); }

template <typename T>
void StoreAs(const PairRows& rows, size_t row, const float* key, const float* value) {
  T* k = reinterpret_cast<T*>(rows.keys) + KeyOffset(row, 0, rows.head_dim);
  T* v = reinterpret_cast<T*>(rows.values) + row * rows.head_dim;
  for (size_t i = 0; i < rows.head_dim; ++i) Put(k + i * kernels::kKeyBlock, key[i]);
  for (size_t i = 0; i < rows.head_dim; ++i) Put(v + i, value[i]);
}

template <typename T>
void LoadAs(const PairRows& rows, size_t row, float* key, float* value) {
  const T* k = reinterpret_cast<const T*>(rows.keys) + KeyOffset(row, 0, rows.head_dim);
  const T* v = reinterpret_cast<const T*>(rows.values) + row * rows.head_dim;
  for (size_t i = 0; i < rows.head_dim; ++i) key[i] = ToFloat(k[i * kernels::kKeyBlock]);
  for (size_t i = 0; i < rows.head_dim; ++i) value[i] = ToFloat(v[i]);
}

}  // namespace

void PairRows::Store(size_t row, const float* key, const float* value) const {
  if (dtype == Dtype::kFloat32) return StoreAs<float>(*this, row, key, value);
  StoreAs<BFloat16>(*this, row, key, value);
}

void PairRows::Load(size_t row, float* key, float* value) const {
  if (dtype == Dtype::kFloat32) return LoadAs<float>(*this, row, key, value);
  LoadAs<BFloat16>(*this, row, key, value);
}

void PairRows::Clear(size_t rows) const {
  const size_t bytes = rows * head_dim * kernels::DtypeBytes(dtype);
  std::memset(keys, 0, bytes);
  std::memset(values, 0, bytes);
}

PairRows WindowRows(const StateLayout& layout, std::byte* record, uint32_t layer,
                    uint32_t kv_head) {
  const LayerOffsets& at = layout.layer(layer);
  const size_t offset = kv_head * size_t{layout.ring_rows()} * layout.row_bytes();
  return {record + at.window_k + offset, record + at.window_v + offset,
          layout.settings().cache_dtype, layout.geometry().head_dim};
}

HeadMemory HeadOf(const StateLayout& layout, std::byte* record, uint32_t layer,
                  uint32_t query_head) {
  const LayerOffsets& at = layout.layer(layer);
  const size_t features = layout.geometry().feature_dim;
  const size_t d = layout.geometry().head_dim;
  const size_t slots = layout.cache_slots(layer);
  const size_t cache = query_head * slots * layout.row_bytes();
  float* s = reinterpret_cast<float*>(record + at.s) + query_head * 2 * features;
  return {.counters = reinterpret_cast<HeadCounters*>(record + at.counters) + query_head,
          .s = s,
          .s_correction = s + features,
          .h = reinterpret_cast<float*>(record + at.h) + query_head * features * d,
          .cache = {record + at.cache_k + cache, record + at.cache_v + cache,
                    layout.settings().cache_dtype, d},
          .meta = reinterpret_cast<SlotMeta*>(record + at.cache_meta) + query_head * slots};
}

}  // namespace lola::memory
