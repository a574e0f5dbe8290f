#include <cstdlib>
#include <cstring>
#include <utility>

#include "memory/stream/arena.h"
#include "memory/stream/stream_state.h"
#include "services/engine/runtime/resident_states.h"

namespace lola::engine {
namespace {

class HostStates : public ResidentStates {
 public:
  explicit HostStates(std::shared_ptr<memory::StreamArena> arena) : arena_(std::move(arena)) {}

  absl::StatusOr<size_t> Acquire() override { return arena_->Acquire(); }
  void Release(size_t slot) override { arena_->Release(slot); }
  absl::Status Reset(size_t slot, const memory::StateLayout& layout,
                     const std::array<std::byte, 16>& model_fingerprint) override {
    memory::StreamState(&layout, record(slot, layout.stride_bytes())).Reset(model_fingerprint);
    return absl::OkStatus();
  }
  // The slot's own bytes: a download writes where the state will be read.
  Staging Stage(size_t slot, size_t bytes) override { return {arena_, record(slot, bytes)}; }
  absl::Status Adopt(size_t, const memory::StateLayout&, const Staging&) override {
    return absl::OkStatus();
  }
  absl::StatusOr<StateCopy> Copy(size_t slot, std::span<std::byte> to) override {
    std::memcpy(to.data(), arena_->record(slot).data(), to.size());
    return StateCopy([] { return absl::OkStatus(); });
  }
  absl::Status CountCached(std::span<const Held> states, std::span<uint64_t> cached) override {
    for (size_t i = 0; i < states.size(); ++i) {
      cached[i] = CachedPairsOf(*states[i].layout, arena_->record(states[i].slot));
    }
    return absl::OkStatus();
  }
  std::byte* AllocateHost(size_t bytes) override {
    return static_cast<std::byte*>(std::aligned_alloc(memory::kPageBytes, bytes));
  }
  void FreeHost(std::byte* data) override { std::free(data); }
  std::span<std::byte> record(size_t slot, size_t bytes) override {
    return arena_->record(slot).first(bytes);
  }

 private:
  const std::shared_ptr<memory::StreamArena> arena_;
};

}  // namespace

uint64_t CachedPairsOf(const memory::StateLayout& layout, std::span<const std::byte> record) {
  const memory::ModelGeometry& geometry = layout.geometry();
  uint64_t pairs = 0;
  if (layout.settings().mode != memory::Mode::kLola) return pairs;
  for (uint32_t layer = 0; layer < geometry.layers; ++layer) {
    const std::byte* counters = record.data() + layout.layer(layer).counters;
    for (uint32_t head = 0; head < geometry.query_heads; ++head) {
      memory::HeadCounters one;
      std::memcpy(&one, counters + head * sizeof(one), sizeof(one));
      pairs += one.cached;
    }
  }
  return pairs;
}

absl::StatusOr<std::unique_ptr<ResidentStates>> MakeHostStates(size_t slot_bytes, size_t slots) {
  auto arena = memory::StreamArena::Create(slot_bytes, slots);
  if (!arena.ok()) return arena.status();
  return std::make_unique<HostStates>(*std::move(arena));
}

}  // namespace lola::engine
