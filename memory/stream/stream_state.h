// View over one state record: header, layers, digest, inspection. Owns nothing and is cheap to
// make. Not thread-safe, except that layers may be advanced in parallel as layer_memory.h says.
#ifndef LOLA_MEMORY_STREAM_STREAM_STATE_H_
#define LOLA_MEMORY_STREAM_STREAM_STATE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "memory/stream/layer_memory.h"
#include "memory/stream/layout.h"

namespace lola::memory {

using Digest128 = std::array<std::byte, 16>;  // XXH3-128, canonical (big endian) byte order

// Lower-case hex, for messages and tools.
std::string ToHex(std::span<const std::byte> bytes);

// One pair of a head's sparse cache.
struct CachedPairView {
  uint32_t slot;
  uint64_t position;
  float score;
  float recall_error;
};

struct HeadView {
  uint64_t absorbed = 0;
  uint64_t events = 0;
  std::vector<CachedPairView> pairs;  // by position ascending
};

// The header of an empty stream's record: with it and zeros a record is as Reset leaves it.
RecordHeader EmptyHeader(const StateLayout& layout,
                         const std::array<std::byte, 16>& model_fingerprint);

class StreamState {
 public:
  // REQUIRES: record.size() == layout->stride_bytes(); both outlive the view.
  StreamState(const StateLayout* layout, std::span<std::byte> record);

  // Makes the record an empty stream at position 0.
  void Reset(const std::array<std::byte, 16>& model_fingerprint);
  // Writes the header page alone, for a record put together from its layers.
  void WriteHeader(const std::array<std::byte, 16>& model_fingerprint, uint64_t position);

  // Ok when the header fits the layout (magic, version, sizes, settings) and, unless empty, the
  // model. DATA_LOSS or FAILED_PRECONDITION naming field and both values. Also checks that counters
  // and slot positions make sense, so that no record can make Advance read or write out of bounds.
  absl::Status Check(std::span<const std::byte> model_fingerprint = {}) const;

  const RecordHeader& header() const;
  uint64_t position() const { return header().position; }
  // Called once per step, after every layer and head consumed the rows.
  void SetPosition(uint64_t position);

  // RESOURCE_EXHAUSTED when `rows` more tokens do not fit (softmax mode only).
  absl::Status CheckRoom(uint64_t rows) const;

  LayerMemory Layer(uint32_t layer) { return LayerMemory(layout_, record_.data(), layer); }

  // Hash of the whole record: equal states have equal bytes.
  Digest128 Digest() const;

  HeadView InspectHead(uint32_t layer, uint32_t query_head) const;

 private:
  RecordHeader& mutable_header();
  absl::Status CheckMemory() const;

  const StateLayout* layout_;
  std::span<std::byte> record_;
};

}  // namespace lola::memory

#endif  // LOLA_MEMORY_STREAM_STREAM_STATE_H_
