#include "memory/stream/layer_views.h"

#include <cstring>

#include "kernels/core/float8.h"

namespace lola::memory {
namespace {

using kernels::BFloat16;
using kernels::Dtype;
using kernels::Float8;
using kernels::KeyOffset;
using kernels::ToBFloat16;
using kernels::ToFloat;

inline void Put(float* to, float value) { *to = value; }
inline void Put(BFloat16* to, float value) { *to = ToBFloat16(value); }

Float8 RoundedTo(int8_t exponent, float value) {
  // Zero times the scale of a row that was not finite is NaN.
  if (exponent == kernels::kRowNotFinite) return Float8{};
  return kernels::ToFloat8(value * kernels::RowScale(static_cast<int8_t>(-exponent)));
}

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
  switch (dtype) {
    case Dtype::kFloat32:
      return StoreAs<float>(*this, row, key, value);
    case Dtype::kBFloat16:
      return StoreAs<BFloat16>(*this, row, key, value);
    case Dtype::kInt8:
      return;  // weights only
    case Dtype::kFloat8:
      key_exponents[row] = kernels::RowExponent(key, head_dim);
      value_exponents[row] = kernels::RowExponent(value, head_dim);
      auto* k = reinterpret_cast<Float8*>(keys) + KeyOffset(row, 0, head_dim);
      auto* v = reinterpret_cast<Float8*>(values) + row * head_dim;
      for (size_t i = 0; i < head_dim; ++i) {
        k[i * kernels::kKeyBlock] = RoundedTo(key_exponents[row], key[i]);
        v[i] = RoundedTo(value_exponents[row], value[i]);
      }
  }
}

void PairRows::Load(size_t row, float* key, float* value) const {
  switch (dtype) {
    case Dtype::kFloat32:
      return LoadAs<float>(*this, row, key, value);
    case Dtype::kBFloat16:
      return LoadAs<BFloat16>(*this, row, key, value);
    case Dtype::kInt8:
      return;  // weights only
    case Dtype::kFloat8:
      LoadAs<Float8>(*this, row, key, value);
      const float key_scale = kernels::RowScale(key_exponents[row]);
      const float value_scale = kernels::RowScale(value_exponents[row]);
      for (size_t i = 0; i < head_dim; ++i) key[i] *= key_scale;
      for (size_t i = 0; i < head_dim; ++i) value[i] *= value_scale;
  }
}

void PairRows::Clear(size_t rows) const {
  const size_t bytes = rows * head_dim * kernels::DtypeBytes(dtype);
  std::memset(keys, 0, bytes);
  std::memset(values, 0, bytes);
  if (key_exponents == nullptr) return;
  std::memset(key_exponents, 0, rows);
  std::memset(value_exponents, 0, rows);
}

void PairRows::ClearRow(size_t row) const {
  const size_t element = kernels::DtypeBytes(dtype);
  for (size_t i = 0; i < head_dim; ++i) {
    std::memset(keys + KeyOffset(row, i, head_dim) * element, 0, element);
  }
  std::memset(values + row * head_dim * element, 0, head_dim * element);
  if (key_exponents != nullptr) key_exponents[row] = value_exponents[row] = 0;
}

void RoundRow(Dtype dtype, float* row, size_t n) {
  if (dtype == Dtype::kFloat32) return;
  const int8_t exponent = dtype == Dtype::kFloat8 ? kernels::RowExponent(row, n) : int8_t{0};
  for (size_t i = 0; i < n; ++i) {
    row[i] = dtype == Dtype::kBFloat16
                 ? ToFloat(ToBFloat16(row[i]))
                 : ToFloat(RoundedTo(exponent, row[i])) * kernels::RowScale(exponent);
  }
}

PairRows WindowRows(const StateLayout& layout, std::byte* record, uint32_t layer,
                    uint32_t kv_head) {
  const LayerOffsets& at = layout.layer(layer);
  const size_t offset = kv_head * size_t{layout.ring_rows()} * layout.row_bytes();
  PairRows rows{record + at.window_k + offset, record + at.window_v + offset,
                layout.settings().cache_dtype, layout.geometry().head_dim};
  if (rows.dtype == Dtype::kFloat8) {
    const size_t first = kv_head * size_t{layout.ring_rows()};
    rows.key_exponents = reinterpret_cast<int8_t*>(record + at.window_k_exponents) + first;
    rows.value_exponents = reinterpret_cast<int8_t*>(record + at.window_v_exponents) + first;
  }
  return rows;
}

HeadMemory HeadOf(const StateLayout& layout, std::byte* record, uint32_t layer,
                  uint32_t query_head) {
  const LayerOffsets& at = layout.layer(layer);
  const size_t features = layout.geometry().feature_dim;
  const size_t d = layout.geometry().head_dim;
  const size_t slots = layout.cache_slots(layer);
  const size_t cache = query_head / layout.cache_heads();
  const size_t rows = cache * slots * layout.row_bytes();
  PairRows pairs{record + at.cache_k + rows, record + at.cache_v + rows,
                 layout.settings().cache_dtype, d};
  if (pairs.dtype == Dtype::kFloat8) {
    pairs.key_exponents = reinterpret_cast<int8_t*>(record + at.cache_k_exponents) + cache * slots;
    pairs.value_exponents =
        reinterpret_cast<int8_t*>(record + at.cache_v_exponents) + cache * slots;
  }
  const bool masses = layout.settings().score == Score::kAttention;
  const auto floats = [&](size_t offset) { return reinterpret_cast<float*>(record + offset); };
  float* s = floats(at.s) + query_head * 2 * features;
  return {
      .counters = reinterpret_cast<HeadCounters*>(record + at.counters) + query_head,
      .s = s,
      .s_correction = s + features,
      .h = floats(at.h) + query_head * features * d,
      .cache = pairs,
      .meta = reinterpret_cast<SlotMeta*>(record + at.cache_meta) + cache * slots,
      .window_mass = masses ? floats(at.window_mass) + query_head * layout.ring_rows() : nullptr,
      .cache_mass = masses ? floats(at.cache_mass) + query_head * slots : nullptr};
}

}  // namespace lola::memory
