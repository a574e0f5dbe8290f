// The states of the streams that are resident: equal records in slots, in host memory or on a
// device. Not thread-safe (the scheduler's), except StateCopy and the memory that Stage returned,
// which one other thread may use.
//
// UNAVAILABLE from any of them means that what holds the states has failed: see
// ModelRunner::health.
#ifndef LOLA_SERVICES_ENGINE_RUNTIME_RESIDENT_STATES_H_
#define LOLA_SERVICES_ENGINE_RUNTIME_RESIDENT_STATES_H_

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/stream/layout.h"

namespace lola::engine {

// A record on its way to host memory.
using StateCopy = std::function<absl::Status()>;  // blocks until the bytes are there; call once

class ResidentStates {
 public:
  virtual ~ResidentStates() = default;

  // A free slot, or RESOURCE_EXHAUSTED.
  virtual absl::StatusOr<size_t> Acquire() = 0;
  virtual void Release(size_t slot) = 0;

  // Makes the slot an empty stream.
  virtual absl::Status Reset(size_t slot, const memory::StateLayout& layout,
                             const std::array<std::byte, 16>& model_fingerprint) = 0;
  // Host memory of `bytes` to fill with a record that is to become the slot's, by Adopt. It stays
  // valid as long as somebody holds it.
  struct Staging {
    std::shared_ptr<void> owner;
    std::span<std::byte> bytes;
  };
  virtual Staging Stage(size_t slot, size_t bytes) = 0;
  // Brings what was staged near the slot, beside steps of other slots. `arrived` is called once, on
  // any thread, perhaps before the return; then Adopt makes it the slot's state. Until then the
  // slot is not given out again, released or not.
  using Arrived = std::function<void(absl::Status)>;
  virtual void Bring(size_t, const memory::StateLayout&, const Staging&, const Arrived& arrived) {
    arrived(absl::OkStatus());
  }
  virtual absl::Status Adopt(size_t slot, const memory::StateLayout& layout,
                             const Staging& staging) = 0;
  // Starts a copy of the record as of the last step into `to`, which must stay until the copy was
  // waited for or dropped, and is the record's size. RESOURCE_EXHAUSTED: too many are under way.
  virtual absl::StatusOr<StateCopy> Copy(size_t slot, std::span<std::byte> to) = 0;

  // Memory that Copy fills fast. Any thread may free; null when there is none.
  virtual std::byte* AllocateHost(size_t bytes) = 0;
  virtual void FreeHost(std::byte* data) = 0;

  // Pairs in the sparse caches of each state as of the last step. Waits for an answer where the
  // states are elsewhere: not for many at once.
  struct Held {
    size_t slot = 0;
    const memory::StateLayout* layout = nullptr;
  };
  virtual absl::Status CountCached(std::span<const Held> states, std::span<uint64_t> cached) = 0;

  // The record itself where it lies in host memory, else empty.
  virtual std::span<std::byte> record(size_t slot, size_t bytes) = 0;
};

// Pairs in the sparse caches of a record.
uint64_t CachedPairsOf(const memory::StateLayout& layout, std::span<const std::byte> record);

// Slots in host memory.
absl::StatusOr<std::unique_ptr<ResidentStates>> MakeHostStates(size_t slot_bytes, size_t slots);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_RUNTIME_RESIDENT_STATES_H_
