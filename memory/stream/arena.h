// A slab of equal state records, taken and touched once at start; nothing is allocated later.
//
// Thread-safe: Acquire and Release may be called from any thread. The bytes of a slot belong to
// whoever acquired it until Release.
#ifndef LOLA_MEMORY_STREAM_ARENA_H_
#define LOLA_MEMORY_STREAM_ARENA_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lola::memory {

class StreamArena {
 public:
  // INVALID_ARGUMENT for sizes that make no sense, RESOURCE_EXHAUSTED when the system has not the
  // memory. `stride_bytes` is a multiple of 4096.
  static absl::StatusOr<std::unique_ptr<StreamArena>> Create(size_t stride_bytes, size_t slots);
  ~StreamArena();
  StreamArena(const StreamArena&) = delete;
  StreamArena& operator=(const StreamArena&) = delete;

  // The lowest free slot, or RESOURCE_EXHAUSTED. Its bytes are whatever the last user left.
  absl::StatusOr<size_t> Acquire();
  // REQUIRES: `slot` is acquired.
  void Release(size_t slot);

  std::span<std::byte> record(size_t slot) const;  // page aligned, stride_bytes() long
  size_t stride_bytes() const { return stride_bytes_; }
  size_t slots() const { return slots_; }
  size_t used() const;

 private:
  StreamArena(std::byte* data, size_t mapped_bytes, size_t stride_bytes, size_t slots);

  std::byte* const data_;
  const size_t mapped_bytes_;
  const size_t stride_bytes_;
  const size_t slots_;

  mutable std::mutex mu_;
  std::vector<bool> taken_;  // guarded by mu_
  size_t used_ = 0;          // guarded by mu_
};

}  // namespace lola::memory

#endif  // LOLA_MEMORY_STREAM_ARENA_H_
