// Where everything lies in a state record: a pure function of geometry and settings.
//
// A record is relocatable bytes (no pointers): one 4 KiB header page, then layer after layer, each
// starting on a page. Arena, pinned buffer, wire and file use the same bytes. Immutable; any
// thread.
//
// Sections of a layer, in this order, each 64-byte aligned (h = query head, g = kv head):
//   counters  HeadCounters [Hq]
//   s         float [Hq, 2, F]      compensated sum: value, then its correction
//   H         float [Hq, F, d]
//   window K  T [Hkv, rows/16, d, 16]   sixteen rows interleaved, so that lanes are keys
//   window V  T [Hkv, rows, d]
//   cache K   T [caches, slots/16, d, 16]
//   cache V   T [caches, slots, d]
//   cache meta SlotMeta [caches, slots]
//   window mass float [Hq, rows], cache mass float [Hq, slots]   score `attention` only
//   window K and V, cache K and V exponents  int8 [Hkv, rows] twice, [caches, slots] twice: float8
// T is the cache dtype. caches is Hq, or Hkv when the heads of a group share theirs. The ring keeps
// window/chunk + 1 chunks; a chunk occupies ChunkRows() rows (chunk rounded up to 16); position j
// lies in ring chunk (j / C) % chunks, row j % C. slots is lambda rounded up to 16. Rows that hold
// no live pair are zero, always: equal states are equal bytes. In softmax mode there are only K and
// V of `window` rows (rounded up), position j in row j.
#ifndef LOLA_MEMORY_STREAM_LAYOUT_H_
#define LOLA_MEMORY_STREAM_LAYOUT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "memory/stream/settings.h"

namespace lola::memory {

inline constexpr size_t kPageBytes = 4096;
inline constexpr size_t kSectionAlign = 64;
inline constexpr size_t kRowBlock = 16;  // rows interleaved in one key block
// 1: the first release; 2: the same and what its settings did not have (LolaSettings::Extended).
inline constexpr uint32_t kRecordLayoutVersion = 1;
inline constexpr uint32_t kExtendedLayoutVersion = 2;
inline constexpr std::array<char, 8> kRecordMagic = {'L', 'O', 'L', 'A', 'R', 'E', 'C', '1'};

// First bytes of a record; the rest of the header page is zero. Little endian.
struct RecordHeader {
  std::array<char, 8> magic;
  uint32_t layout_version;
  uint32_t layers;
  uint64_t record_bytes;
  uint64_t position;  // tokens consumed
  std::array<std::byte, 16> model_fingerprint;
  std::array<std::byte, 16> settings_fingerprint;
};
static_assert(sizeof(RecordHeader) == 64);

struct HeadCounters {
  uint64_t absorbed;  // n: pairs in H
  uint64_t events;    // chunk events done
  uint32_t cached;    // pairs in the sparse cache, the shared one too
  uint32_t reserved[11];
};
static_assert(sizeof(HeadCounters) == 64);  // one cache line: heads may run on different threads

struct SlotMeta {
  int64_t position;    // of the pair; 0 when the slot is empty (see HeadCounters::cached)
  float score;         // the score it was last ranked by; -1 before the first ranking
  float recall_error;  // its last self-recall error; 0 before the first ranking
};
static_assert(sizeof(SlotMeta) == 16);

// A named byte range, for tools and snapshots.
struct Section {
  std::string name;  // "header", "layer.3.H", ...
  size_t offset;
  size_t bytes;
};

struct LayerOffsets {
  size_t begin = 0;  // page aligned; everything below is from the start of the record
  size_t counters = 0;
  size_t s = 0;
  size_t h = 0;
  size_t window_k = 0;
  size_t window_v = 0;
  size_t cache_k = 0;
  size_t cache_v = 0;
  size_t cache_meta = 0;
  size_t window_mass = 0;
  size_t cache_mass = 0;
  size_t window_k_exponents = 0;
  size_t window_v_exponents = 0;
  size_t cache_k_exponents = 0;
  size_t cache_v_exponents = 0;
  size_t end = 0;  // page aligned
};

class StateLayout {
 public:
  // REQUIRES: geometry and settings validate.
  StateLayout(const ModelGeometry& geometry, const LolaSettings& settings);

  const ModelGeometry& geometry() const { return geometry_; }
  const LolaSettings& settings() const { return settings_; }

  // Bytes of one record, a multiple of 4096: constant for a stream's whole life.
  size_t stride_bytes() const { return stride_bytes_; }
  const LayerOffsets& layer(uint32_t index) const { return layers_[index]; }

  uint32_t ring_chunks() const { return ring_chunks_; }  // window/chunk + 1; 1 in softmax mode
  uint32_t chunk_rows() const { return chunk_rows_; }    // rows a chunk occupies in the ring
  uint32_t ring_rows() const { return ring_chunks_ * chunk_rows_; }
  uint32_t cache_slots(uint32_t layer) const;  // lambda rounded up to 16
  // Query heads that own one sparse cache together, and sparse caches of a layer.
  uint32_t cache_heads() const {
    return settings_.cache_sharing == CacheSharing::kHead ? 1 : geometry_.group();
  }
  uint32_t caches() const { return geometry_.query_heads / cache_heads(); }
  uint32_t layout_version() const {
    return settings_.Extended() ? kExtendedLayoutVersion : kRecordLayoutVersion;
  }
  size_t row_bytes() const {
    return geometry_.head_dim * kernels::DtypeBytes(settings_.cache_dtype);
  }

  // Row of the ring that holds (or will hold) position j.
  uint32_t RingRow(uint64_t position) const;
  // First position a query at `position` sees in its window.
  uint64_t WindowBegin(uint64_t position) const;

  // Header page first, then every section of every layer in order of offset.
  std::vector<Section> Sections() const;

 private:
  ModelGeometry geometry_;
  LolaSettings settings_;
  uint32_t ring_chunks_ = 0;
  uint32_t chunk_rows_ = 0;
  size_t stride_bytes_ = 0;
  std::vector<LayerOffsets> layers_;
};

}  // namespace lola::memory

#endif  // LOLA_MEMORY_STREAM_LAYOUT_H_
