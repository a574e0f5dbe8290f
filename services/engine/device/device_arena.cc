#include "services/engine/device/device_arena.h"

#include <algorithm>
#include <cstring>

#include "kernels/core/check.h"

namespace lola::engine {

using cuda::Queue;

absl::StatusOr<std::unique_ptr<DeviceArena>> DeviceArena::Create(cuda::Device* device,
                                                                 size_t stride_bytes, size_t slots,
                                                                 size_t stagings) {
  std::unique_ptr<DeviceArena> arena(new DeviceArena(device, stride_bytes, slots));
  absl::Status status = arena->stagings_.Allocate(device, stagings * stride_bytes, "staging");
  if (status.ok()) status = arena->slab_.Allocate(device, (slots + 1) * stride_bytes, "slots");
  if (!status.ok()) {
    if (!absl::IsResourceExhausted(status)) return status;
    arena->stagings_.Reset();
    const uint64_t records = device->info().free_bytes / stride_bytes;
    const uint64_t others = stagings + 1;  // the spare record too
    return absl::ResourceExhaustedError(absl::StrCat(status.message(), "; slots: ", slots, " of ",
                                                     stride_bytes, " bytes each, room is for ",
                                                     records > others ? records - others : 0));
  }
  arena->staging_marks_.resize(stagings);
  device->Zero(Queue::kCompute, arena->slab_.data(), arena->slab_.bytes());
  return arena;
}

absl::Status DeviceArena::Clear(size_t slot, const memory::RecordHeader& header) {
  LOLA_CHECK_LT(slot, slots());
  LOLA_CHECK_LE(header.record_bytes, stride_bytes_);
  device_->Zero(Queue::kCompute, record(slot), header.record_bytes);
  device_->Upload(Queue::kCompute, record(slot), &header, sizeof(header));
  device_->WaitOnHost(device_->Record(Queue::kCompute));
  positions_[slot] = header.position;
  if (!device_->error().empty()) return absl::UnavailableError(device_->error());
  return absl::OkStatus();
}

absl::Status DeviceArena::Load(size_t slot, std::span<const std::byte> bytes) {
  LOLA_CHECK_LT(slot, slots());
  LOLA_CHECK_LE(bytes.size(), stride_bytes_);
  memory::RecordHeader header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  device_->Upload(Queue::kCompute, record(slot), bytes.data(), bytes.size());
  device_->WaitOnHost(device_->Record(Queue::kCompute));
  positions_[slot] = header.position;
  if (!device_->error().empty()) return absl::UnavailableError(device_->error());
  return absl::OkStatus();
}

absl::StatusOr<DeviceArena::Copy> DeviceArena::CopyOut(size_t slot, std::span<std::byte> to) {
  LOLA_CHECK_LT(slot, slots());
  LOLA_CHECK_LE(to.size(), stride_bytes_);
  for (size_t i = 0; i < staging_marks_.size(); ++i) {
    if (!device_->Done(staging_marks_[i])) continue;
    std::byte* staging = stagings_.data() + i * stride_bytes_;
    device_->CopyWithin(Queue::kCompute, staging, record(slot), to.size());
    device_->WaitFor(Queue::kCopy, device_->Record(Queue::kCompute));
    device_->Download(Queue::kCopy, to.data(), staging, to.size());
    Copy copy;
    copy.arena = this;
    copy.mark = staging_marks_[i] = device_->Record(Queue::kCopy);
    copy.position = positions_[slot];
    copy.to = to;
    return copy;
  }
  return absl::ResourceExhaustedError("state copies: all stagings are in use");
}

void DeviceArena::AwaitStaging() {
  if (staging_marks_.empty()) return;
  device_->WaitOnHost(*std::min_element(staging_marks_.begin(), staging_marks_.end()));
}

absl::Status DeviceArena::CountCached(std::span<const ResidentStates::Held> states,
                                      std::span<uint64_t> cached) {
  std::vector<std::vector<memory::HeadCounters>> counters(states.size());
  for (size_t i = 0; i < states.size(); ++i) {
    const memory::StateLayout& layout = *states[i].layout;
    if (layout.settings().mode != memory::Mode::kLola) continue;
    const size_t heads = layout.geometry().query_heads;
    counters[i].resize(layout.geometry().layers * heads);
    for (uint32_t layer = 0; layer < layout.geometry().layers; ++layer) {
      device_->Download(Queue::kCompute, &counters[i][layer * heads],
                        record(states[i].slot) + layout.layer(layer).counters,
                        heads * sizeof(memory::HeadCounters));
    }
  }
  device_->WaitOnHost(device_->Record(Queue::kCompute));
  if (std::string error = device_->error(); !error.empty()) return absl::UnavailableError(error);
  for (size_t i = 0; i < states.size(); ++i) {
    cached[i] = 0;
    for (const memory::HeadCounters& one : counters[i]) cached[i] += one.cached;
  }
  return absl::OkStatus();
}

absl::Status DeviceArena::Copy::Wait() {
  arena->device_->WaitOnHost(mark);
  if (const std::string error = arena->device_->error(); !error.empty()) {
    return absl::UnavailableError(error);
  }
  memory::RecordHeader header;
  std::memcpy(&header, to.data(), sizeof(header));
  header.position = position;
  std::memcpy(to.data(), &header, sizeof(header));
  return absl::OkStatus();
}

}  // namespace lola::engine
