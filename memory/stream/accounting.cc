#include "memory/stream/accounting.h"

namespace lola::memory {

StateBytes AccountFor(const StateLayout& layout) {
  StateBytes bytes;
  const ModelGeometry& g = layout.geometry();
  for (uint32_t i = 0; i < g.layers; ++i) {
    const LayerOffsets& at = layout.layer(i);
    bytes.recurrent += at.window_k - at.s;
    bytes.window += 2 * size_t{g.kv_heads} * layout.ring_rows() * layout.row_bytes();
    if (layout.settings().mode == Mode::kSoftmax) continue;
    bytes.cache += 2 * size_t{layout.caches()} * layout.cache_slots(i) * layout.row_bytes();
  }
  bytes.total = layout.stride_bytes();
  bytes.bookkeeping = bytes.total - bytes.recurrent - bytes.window - bytes.cache;
  return bytes;
}

size_t FullCacheBytesPerToken(const ModelGeometry& geometry, kernels::Dtype dtype) {
  // A key and a value; float8 rows have an exponent each.
  const size_t row =
      geometry.head_dim * kernels::DtypeBytes(dtype) + (dtype == kernels::Dtype::kFloat8 ? 1 : 0);
  return 2 * size_t{geometry.layers} * geometry.kv_heads * row;
}

uint64_t FullCacheTokens(const ModelGeometry& geometry, kernels::Dtype dtype, size_t bytes) {
  return bytes / FullCacheBytesPerToken(geometry, dtype);
}

}  // namespace lola::memory
