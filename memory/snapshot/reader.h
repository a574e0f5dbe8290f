// Puts a snapshot blob back into a stream record, or refuses it with a reason: wrong magic,
// version, model, geometry, settings, position, digest or checksum. Not thread-safe: one reader per
// blob.
#ifndef LOLA_MEMORY_SNAPSHOT_READER_H_
#define LOLA_MEMORY_SNAPSHOT_READER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/snapshot/preface.h"
#include "memory/snapshot/writer.h"

namespace lola::memory {

class SnapshotReader {
 public:
  // `record` receives the state: layout.stride_bytes() bytes, owned by the caller. Its content is
  // undefined until Finish answered OK (and must be Reset or thrown away if it does not).
  // `position`, when given, is what the blob must say.
  SnapshotReader(const SnapshotIdentity& expected, const StateLayout& layout,
                 std::span<std::byte> record, std::optional<uint64_t> position = std::nullopt);
  ~SnapshotReader();
  SnapshotReader(const SnapshotReader&) = delete;
  SnapshotReader& operator=(const SnapshotReader&) = delete;

  // Next bytes of the blob in any portions; checks the preface before the first record byte is
  // written. FAILED_PRECONDITION (another model, settings, version: field and both values) or
  // DATA_LOSS (damage: section).
  absl::Status Feed(std::span<const std::byte> bytes);
  // OK: the record holds the state, its digest recomputed and equal. Returns the position.
  absl::StatusOr<uint64_t> Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The same for a blob in memory. Returns the position.
absl::StatusOr<uint64_t> ReadSnapshot(std::span<const std::byte> blob,
                                      const SnapshotIdentity& expected, const StateLayout& layout,
                                      std::span<std::byte> record,
                                      std::optional<uint64_t> position = std::nullopt);

}  // namespace lola::memory

#endif  // LOLA_MEMORY_SNAPSHOT_READER_H_
