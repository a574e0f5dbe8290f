// Owned device memory. Not thread-safe.
#ifndef LOLA_SERVICES_ENGINE_DEVICE_DEVICE_MEMORY_H_
#define LOLA_SERVICES_ENGINE_DEVICE_DEVICE_MEMORY_H_

#include <cstddef>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/device.h"

namespace lola::engine {

// `count` elements of T on the device; freed with this object, which must die before the device.
template <typename T>
class DeviceArray {
 public:
  DeviceArray() = default;
  ~DeviceArray() { Reset(); }
  DeviceArray(DeviceArray&& other) noexcept { *this = std::move(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    Reset();
    device_ = std::exchange(other.device_, nullptr);
    data_ = std::exchange(other.data_, nullptr);
    count_ = std::exchange(other.count_, 0);
    return *this;
  }

  // RESOURCE_EXHAUSTED naming `what`, the bytes wanted and the bytes free; UNAVAILABLE when the
  // device has failed.
  absl::Status Allocate(cuda::Device* device, size_t count, const char* what) {
    Reset();
    if (count == 0) return absl::OkStatus();
    data_ = static_cast<T*>(device->Allocate(count * sizeof(T)));
    if (data_ == nullptr) {
      if (std::string error = device->error(); !error.empty()) return absl::UnavailableError(error);
      const cuda::DeviceInfo info = device->info();
      return absl::ResourceExhaustedError(absl::StrCat(info.name, ": ", what, " needs ",
                                                       count * sizeof(T), " bytes, free are ",
                                                       info.free_bytes, " of ", info.memory_bytes));
    }
    device_ = device;
    count_ = count;
    return absl::OkStatus();
  }
  void Reset() {
    if (data_ != nullptr) device_->Free(data_);
    data_ = nullptr;
    count_ = 0;
  }

  T* data() const { return data_; }
  size_t size() const { return count_; }
  size_t bytes() const { return count_ * sizeof(T); }

 private:
  cuda::Device* device_ = nullptr;
  T* data_ = nullptr;
  size_t count_ = 0;
};

// Page-locked host memory of one device; copies to and from it run beside the host.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  ~PinnedBuffer() { Reset(); }
  PinnedBuffer(PinnedBuffer&& other) noexcept { *this = std::move(other); }
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    Reset();
    device_ = std::exchange(other.device_, nullptr);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    return *this;
  }

  absl::Status Allocate(cuda::Device* device, size_t bytes, const char* what) {
    Reset();
    data_ = static_cast<std::byte*>(device->AllocatePinned(bytes));
    if (data_ == nullptr) {
      if (std::string error = device->error(); !error.empty()) return absl::UnavailableError(error);
      return absl::ResourceExhaustedError(
          absl::StrCat(what, ": no ", bytes, " bytes of page-locked memory"));
    }
    device_ = device;
    bytes_ = bytes;
    return absl::OkStatus();
  }
  void Reset() {
    if (data_ != nullptr) device_->FreePinned(data_);
    data_ = nullptr;
    bytes_ = 0;
  }

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  cuda::Device* device_ = nullptr;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_DEVICE_DEVICE_MEMORY_H_
