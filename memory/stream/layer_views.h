// Typed pointers into one layer of a record, and row access in the cache dtype. Internal to this
// folder; no checks, no ownership.
#ifndef LOLA_MEMORY_STREAM_LAYER_VIEWS_H_
#define LOLA_MEMORY_STREAM_LAYER_VIEWS_H_

#include <cstddef>
#include <cstdint>

#include "kernels/attend/attend.h"
#include "memory/stream/layout.h"

namespace lola::memory {

// Keys and values of one head: keys in blocks of sixteen rows, values row by row.
struct PairRows {
  std::byte* keys;
  std::byte* values;
  kernels::Dtype dtype;
  size_t head_dim;
  int8_t* key_exponents = nullptr;  // float8 only
  int8_t* value_exponents = nullptr;

  // The rows from `row` on. REQUIRES: row is a multiple of kRowBlock.
  PairRows From(size_t row) const {
    const size_t offset = row * head_dim * kernels::DtypeBytes(dtype);
    const size_t exponents = key_exponents == nullptr ? 0 : row;
    return {keys + offset, values + offset,           dtype,
            head_dim,      key_exponents + exponents, value_exponents + exponents};
  }
  void Store(size_t row, const float* key, const float* value) const;
  void Load(size_t row, float* key, float* value) const;
  // Zeroes whole blocks. REQUIRES: rows is a multiple of kRowBlock.
  void Clear(size_t rows) const;
  void ClearRow(size_t row) const;
};

// Rounds one key or value to what a row of this type holds.
void RoundRow(kernels::Dtype dtype, float* row, size_t n);

// What one query head owns; cache and meta may be shared with the other heads of its group.
struct HeadMemory {
  HeadCounters* counters;
  float* s;
  float* s_correction;
  float* h;
  PairRows cache;
  SlotMeta* meta;
  // Attention weight received by each ring row and slot; null unless the score needs it.
  float* window_mass;
  float* cache_mass;
};

PairRows WindowRows(const StateLayout& layout, std::byte* record, uint32_t layer, uint32_t kv_head);
HeadMemory HeadOf(const StateLayout& layout, std::byte* record, uint32_t layer,
                  uint32_t query_head);

}  // namespace lola::memory

#endif  // LOLA_MEMORY_STREAM_LAYER_VIEWS_H_
