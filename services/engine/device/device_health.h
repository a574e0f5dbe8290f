// What a device that failed said first. A failed device does not come back: CUDA's errors stay.
// Thread-safe.
#ifndef LOLA_SERVICES_ENGINE_DEVICE_DEVICE_HEALTH_H_
#define LOLA_SERVICES_ENGINE_DEVICE_DEVICE_HEALTH_H_

#include <mutex>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace lola::engine {

class DeviceHealth {
 public:
  // Remembers UNAVAILABLE, and says it from then on.
  absl::Status Seen(absl::Status status) {
    if (!absl::IsUnavailable(status)) return status;
    std::lock_guard lock(mu_);
    if (lost_.ok()) lost_ = absl::UnavailableError(absl::StrCat("GPU lost: ", status.message()));
    return lost_;
  }
  absl::Status health() const {
    std::lock_guard lock(mu_);
    return lost_;
  }

 private:
  mutable std::mutex mu_;
  absl::Status lost_;  // guarded by mu_
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_DEVICE_DEVICE_HEALTH_H_
