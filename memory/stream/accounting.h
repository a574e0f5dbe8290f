// Where the bytes of a stream's state go, and how long a full key-value cache of the same bytes
// would be. Pure functions; any thread. What the figures mean: memory/stream/BYTES.md.
#ifndef LOLA_MEMORY_STREAM_ACCOUNTING_H_
#define LOLA_MEMORY_STREAM_ACCOUNTING_H_

#include <cstddef>
#include <cstdint>

#include "memory/stream/layout.h"

namespace lola::memory {

// Bytes of one record by what they hold.
struct StateBytes {
  size_t recurrent = 0;    // H and s, with its correction
  size_t window = 0;       // keys and values of the ring, stored once per kv head
  size_t cache = 0;        // keys and values of the sparse caches
  size_t bookkeeping = 0;  // header, counters, positions and scores, exponents, masses, padding
  size_t total = 0;        // the record: StateLayout::stride_bytes()
};
StateBytes AccountFor(const StateLayout& layout);

// What one token adds to the key-value cache of a softmax model: kv heads counted once, rows of
// `dtype`, without bookkeeping.
size_t FullCacheBytesPerToken(const ModelGeometry& geometry, kernels::Dtype dtype);

// The longest context whose full cache is no larger than `bytes`.
uint64_t FullCacheTokens(const ModelGeometry& geometry, kernels::Dtype dtype, size_t bytes);

}  // namespace lola::memory

#endif  // LOLA_MEMORY_STREAM_ACCOUNTING_H_
