// State records on a device, in the bytes of memory/stream/layout.h. Copies out pass through a
// staging record on the device, so that the next step does not wait for the host link.
//
// Not thread-safe, except Copy::Wait (any one thread).
#ifndef LOLA_SERVICES_ENGINE_DEVICE_DEVICE_ARENA_H_
#define LOLA_SERVICES_ENGINE_DEVICE_DEVICE_ARENA_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/device.h"
#include "memory/stream/layout.h"
#include "services/engine/device/device_memory.h"
#include "services/engine/runtime/resident_states.h"

namespace lola::engine {

class DeviceArena {
 public:
  // `stagings` copies may be under way at the same time. RESOURCE_EXHAUSTED says how many slots
  // would fit.
  static absl::StatusOr<std::unique_ptr<DeviceArena>> Create(cuda::Device* device,
                                                             size_t stride_bytes, size_t slots,
                                                             size_t stagings);

  size_t slots() const { return positions_.size(); }
  size_t stride_bytes() const { return stride_bytes_; }
  unsigned char* record(size_t slot) const {
    return reinterpret_cast<unsigned char*>(slab_.data()) + slot * stride_bytes_;
  }
  // A record of zeros that padding rows may write to.
  unsigned char* spare() const { return record(slots()); }

  uint64_t position(size_t slot) const { return positions_[slot]; }
  void SetPosition(size_t slot, uint64_t position) { positions_[slot] = position; }

  // Makes the slot an empty stream's record: zeros written on the device, and this header.
  // UNAVAILABLE when the device failed.
  absl::Status Clear(size_t slot, const memory::RecordHeader& header);
  // Makes the slot hold these bytes (a whole record). They may be freed on return.
  // UNAVAILABLE when the device failed.
  absl::Status Load(size_t slot, std::span<const std::byte> record);

  // The slot's record as of everything enqueued so far.
  class Copy {
   public:
    // Blocks until the bytes are there, with the right position in the header. UNAVAILABLE when the
    // device failed.
    absl::Status Wait();

   private:
    friend class DeviceArena;
    DeviceArena* arena = nullptr;
    size_t staging = 0;
    cuda::Mark mark = 0;
    uint64_t position = 0;
    std::span<std::byte> to;
  };
  // RESOURCE_EXHAUSTED while all stagings are in use. `to` is page-locked for speed, any memory
  // otherwise. Every copy is waited for, once.
  absl::StatusOr<Copy> CopyOut(size_t slot, std::span<std::byte> to);
  // Blocks until one of the stagings is free.
  void AwaitStaging();

  // Pairs in the sparse caches of each slot's record as of everything enqueued so far; one wait.
  // UNAVAILABLE when the device failed.
  absl::Status CountCached(std::span<const ResidentStates::Held> states,
                           std::span<uint64_t> cached);

 private:
  DeviceArena(cuda::Device* device, size_t stride_bytes, size_t slots)
      : device_(device), stride_bytes_(stride_bytes), positions_(slots) {}

  cuda::Device* const device_;
  const size_t stride_bytes_;
  std::vector<uint64_t> positions_;
  DeviceArray<std::byte> slab_;            // slots, then the spare record
  DeviceArray<std::byte> stagings_;        // [stagings, stride]
  std::vector<cuda::Mark> staging_marks_;  // free when done
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_DEVICE_DEVICE_ARENA_H_
