// Turns a stream record into a snapshot blob: preface + the record's bytes unchanged. The record is
// not copied: pieces of the blob point into it, so it must not change while the writer lives (a
// worker copies the record first when the stream goes on). Reading pieces is thread-safe.
#ifndef LOLA_MEMORY_SNAPSHOT_WRITER_H_
#define LOLA_MEMORY_SNAPSHOT_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/snapshot/preface.h"
#include "memory/stream/layout.h"
#include "memory/stream/settings.h"

namespace lola::memory {

// What a blob must say to be usable: which model and settings it belongs to.
struct SnapshotIdentity {
  std::string model_fingerprint;  // 32 hex digits
  ModelGeometry geometry;
  LolaSettings settings;
};

class SnapshotWriter {
 public:
  // Computes all checksums and the state digest (about the time of reading the record once).
  // INVALID_ARGUMENT when the record does not fit the identity.
  static absl::StatusOr<SnapshotWriter> Create(const SnapshotIdentity& identity,
                                               const StateLayout& layout,
                                               std::span<const std::byte> record);

  uint64_t size_bytes() const { return preface_bytes_.size() + record_.size(); }
  uint64_t position() const { return preface_.position; }
  const Hash128& digest() const { return preface_.digest; }
  const Preface& preface() const { return preface_; }

  // The longest run of blob bytes at `offset` that lies in one piece of memory, at most
  // `max_bytes`; empty at the end. Valid while the writer and the record live.
  std::span<const std::byte> Piece(uint64_t offset, size_t max_bytes) const;

  // The whole blob in one buffer: tests and small tools.
  std::vector<std::byte> ToBytes() const;

 private:
  Preface preface_;
  std::string preface_bytes_;
  std::span<const std::byte> record_;
};

}  // namespace lola::memory

#endif  // LOLA_MEMORY_SNAPSHOT_WRITER_H_
