// Rows of keys and values as records hold them, in any cache type; see memory/stream/layer_views.h.
#ifndef LOLA_KERNELS_CUDA_CACHE_ROWS_CUH_
#define LOLA_KERNELS_CUDA_CACHE_ROWS_CUH_

#include "kernels/cuda/float8.cuh"
#include "kernels/cuda/portable.h"
#include "kernels/cuda/tables.h"

namespace lola::cuda {

// Position of (pair, dim) in blocked keys; see kernels/attend/attend.h.
LOLA_DEVICE size_t KeyOffset(uint32_t row, uint32_t dim, uint32_t head_dim) {
  return size_t(row / kKeyBlock) * kKeyBlock * head_dim + dim * kKeyBlock + row % kKeyBlock;
}

// A row's numbers as a warp holds them: dimension lane + 32 i in place i, zero beyond the last.
inline constexpr unsigned kRowParts = 4;

LOLA_DEVICE float StoredAt(const unsigned char* data, CacheType type, size_t index) {
  if (type == CacheType::kFloat32) return reinterpret_cast<const float*>(data)[index];
  if (type == CacheType::kBFloat16) return ToFloat(reinterpret_cast<const Bf16*>(data)[index]);
  return ToFloat(reinterpret_cast<const Fp8*>(data)[index]);
}

// The exponent a row gets when it is stored as float8. All lanes.
LOLA_DEVICE int WarpRowExponent(const float (&row)[kRowParts]) {
  float largest = 0;
  bool finite = true;
  LOLA_UNROLL
  for (unsigned i = 0; i < kRowParts; ++i) {
    finite = finite && fabsf(row[i]) <= 3.4028235e38f;
    largest = fmaxf(largest, fabsf(row[i]));
  }
  largest = WarpMax(largest);
  return RowExponent(largest, Ballot(!finite) == 0);
}

// Rounds a row to what the cache type holds. All lanes.
LOLA_DEVICE void RoundRow(CacheType type, float (&row)[kRowParts]) {
  if (type == CacheType::kFloat32) return;
  const int exponent = type == CacheType::kFloat8 ? WarpRowExponent(row) : 0;
  LOLA_UNROLL
  for (unsigned i = 0; i < kRowParts; ++i) {
    Bf16 rounded;
    Put(rounded, row[i]);
    row[i] = type == CacheType::kBFloat16
                 ? ToFloat(rounded)
                 : ToFloat(RoundedTo(exponent, row[i])) * RowScale(exponent);
  }
}

// The rows of one sparse cache or of one kv head's window.
struct PairRows {
  unsigned char* keys;
  unsigned char* values;
  int8_t* key_exponents;  // float8 only
  int8_t* value_exponents;
  CacheType type;
  uint32_t head_dim;

  LOLA_DEVICE float KeyScale(uint32_t row) const {
    return type == CacheType::kFloat8 ? RowScale(key_exponents[row]) : 1.0f;
  }
  LOLA_DEVICE float ValueScale(uint32_t row) const {
    return type == CacheType::kFloat8 ? RowScale(value_exponents[row]) : 1.0f;
  }
  LOLA_DEVICE float Key(uint32_t row, uint32_t dim) const {
    return StoredAt(keys, type, KeyOffset(row, dim, head_dim)) * KeyScale(row);
  }
  LOLA_DEVICE float Value(uint32_t row, uint32_t dim) const {
    return StoredAt(values, type, size_t(row) * head_dim + dim) * ValueScale(row);
  }
  // One row, by a warp.
  LOLA_DEVICE void Store(uint32_t row, const float (&key)[kRowParts],
                         const float (&value)[kRowParts]) const;
  LOLA_DEVICE void ClearRow(uint32_t row) const {
    const float zero[kRowParts] = {};
    Store(row, zero, zero);  // a row of zeros has exponent 0
  }
};

LOLA_DEVICE void PairRows::Store(uint32_t row, const float (&key)[kRowParts],
                                 const float (&value)[kRowParts]) const {
  const unsigned lane = ThreadX() % kWarpThreads;
  int key_exponent = 0, value_exponent = 0;
  if (type == CacheType::kFloat8) {
    key_exponent = WarpRowExponent(key);
    value_exponent = WarpRowExponent(value);
    if (lane == 0) {
      key_exponents[row] = int8_t(key_exponent);
      value_exponents[row] = int8_t(value_exponent);
    }
  }
  LOLA_UNROLL
  for (unsigned i = 0; i < kRowParts; ++i) {
    const uint32_t dim = lane + kWarpThreads * i;
    if (dim >= head_dim) continue;
    const size_t k = KeyOffset(row, dim, head_dim), v = size_t(row) * head_dim + dim;
    if (type == CacheType::kFloat32) {
      reinterpret_cast<float*>(keys)[k] = key[i];
      reinterpret_cast<float*>(values)[v] = value[i];
    } else if (type == CacheType::kBFloat16) {
      Put(reinterpret_cast<Bf16*>(keys)[k], key[i]);
      Put(reinterpret_cast<Bf16*>(values)[v], value[i]);
    } else {
      reinterpret_cast<Fp8*>(keys)[k] = RoundedTo(key_exponent, key[i]);
      reinterpret_cast<Fp8*>(values)[v] = RoundedTo(value_exponent, value[i]);
    }
  }
}

LOLA_DEVICE PairRows RowsAt(unsigned char* record, const Plan& plan, uint32_t head_dim,
                            size_t first_row, uint64_t keys, uint64_t values,
                            uint64_t key_exponents, uint64_t value_exponents) {
  const size_t offset = first_row * head_dim * CacheBytes(plan.cache_type);
  return {record + keys + offset,
          record + values + offset,
          reinterpret_cast<int8_t*>(record + key_exponents) + first_row,
          reinterpret_cast<int8_t*>(record + value_exponents) + first_row,
          plan.cache_type,
          head_dim};
}

// The sparse cache that a query head uses, alone or with others.
LOLA_DEVICE PairRows CacheRows(unsigned char* record, const Plan& plan, const LayerPlace& place,
                               uint32_t head, uint32_t head_dim) {
  return RowsAt(record, plan, head_dim, head / plan.cache_heads * size_t(place.cache_slots),
                place.cache_k, place.cache_v, place.cache_k_exponents, place.cache_v_exponents);
}

LOLA_DEVICE PairRows WindowRows(unsigned char* record, const Plan& plan, const LayerPlace& place,
                                uint32_t kv_head, uint32_t head_dim) {
  return RowsAt(record, plan, head_dim, kv_head * size_t(plan.ring_rows), place.window_k,
                place.window_v, place.window_k_exponents, place.window_v_exponents);
}

LOLA_DEVICE uint32_t RingRow(const Plan& plan, uint64_t position) {
  if (plan.softmax) return uint32_t(position);
  const uint64_t chunk = position / plan.chunk;
  return uint32_t(chunk % plan.ring_chunks * plan.chunk_rows + position % plan.chunk);
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_CACHE_ROWS_CUH_
