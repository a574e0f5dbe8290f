#include "memory/stream/arena.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "memory/stream/layout.h"

namespace lola::memory {

absl::StatusOr<std::unique_ptr<StreamArena>> StreamArena::Create(size_t stride_bytes,
                                                                 size_t slots) {
  if (stride_bytes == 0 || stride_bytes % kPageBytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("stride_bytes ", stride_bytes, " is not a multiple of ", kPageBytes));
  }
  if (slots == 0 || slots > std::numeric_limits<size_t>::max() / 2 / stride_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("slots ", slots, " of ", stride_bytes, " bytes make no arena"));
  }
  const size_t bytes = stride_bytes * slots;
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("arena of ", slots, " slots x ", stride_bytes,
                                                     " bytes: ", std::strerror(errno)));
  }
  // Huge pages make the first touch and every later copy cheaper; failure changes nothing.
  (void)madvise(data, bytes, MADV_HUGEPAGE);
  std::memset(data, 0, bytes);  // first touch now, not in the middle of a step
  return std::unique_ptr<StreamArena>(
      new StreamArena(static_cast<std::byte*>(data), bytes, stride_bytes, slots));
}

StreamArena::StreamArena(std::byte* data, size_t mapped_bytes, size_t stride_bytes, size_t slots)
    : data_(data),
      mapped_bytes_(mapped_bytes),
      stride_bytes_(stride_bytes),
      slots_(slots),
      taken_(slots, false) {}

StreamArena::~StreamArena() { munmap(data_, mapped_bytes_); }

absl::StatusOr<size_t> StreamArena::Acquire() {
  std::lock_guard lock(mu_);
  for (size_t slot = 0; slot < slots_ && used_ < slots_; ++slot) {
    if (taken_[slot]) continue;
    taken_[slot] = true;
    ++used_;
    return slot;
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("all stream slots of the arena are taken: ", used_, " of ", slots_));
}

void StreamArena::Release(size_t slot) {
  std::lock_guard lock(mu_);
  LOLA_CHECK(slot < slots_ && taken_[slot]) << "slot " << slot << " of " << slots_;
  taken_[slot] = false;
  --used_;
}

std::span<std::byte> StreamArena::record(size_t slot) const {
  LOLA_CHECK_LT(slot, slots_);
  return {data_ + slot * stride_bytes_, stride_bytes_};
}

size_t StreamArena::used() const {
  std::lock_guard lock(mu_);
  return used_;
}

}  // namespace lola::memory
