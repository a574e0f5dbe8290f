#ifndef LOLA_MEMORY_ENV_FAILPOINT_H_
#define LOLA_MEMORY_ENV_FAILPOINT_H_

// Named places before and after each durable step where a test can stop the process, make the step
// fail, or hold it. Armed by the environment, at the first use in the process:
//   LOLA_FAILPOINTS="name=kill@3;other=error;third=sleep:20"
// kill    ends the process at once, as SIGKILL would (no handler, no flush)
// error   the place answers INTERNAL "failpoint <name>"
// sleep:n holds the place for n milliseconds
// @n      acts from the n-th passage on (kill: there), counted from 1; without it from the first
// Unarmed, a place costs one relaxed load. All functions may be called from any thread.

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace lola::memory {

// One place in the code; made by the macros, lives for ever.
class Failpoint {
 public:
  explicit Failpoint(const char* name);
  const char* name() const { return name_; }
  // OK unless armed with `error`.
  absl::Status Pass() {
    if (!armed_.load(std::memory_order_relaxed)) return absl::OkStatus();
    return PassSlow();
  }

 private:
  friend class FailpointRegistry;
  absl::Status PassSlow();

  const char* const name_;
  std::atomic<bool> armed_{false};
};

// Arms by the text above, replacing what was armed; "" disarms all. INVALID_ARGUMENT names the part
// that cannot be read. Names of places that were not reached yet are kept for later.
absl::Status ArmFailpoints(std::string_view text);

// How often an armed place was passed since it was armed, the passage it holds included; 0 when it
// is not armed. So a test can wait until another thread stands where `sleep` holds it.
uint64_t FailpointPassages(std::string_view name);

// Places reached so far in this process, sorted.
std::vector<std::string> ReachedFailpoints();

}  // namespace lola::memory

// Inside a function that returns absl::Status or absl::StatusOr: leaves it when armed with `error`.
#define LOLA_FAILPOINT(name)                                                   \
  do {                                                                         \
    static ::lola::memory::Failpoint lola_failpoint(name);                     \
    if (absl::Status lola_status = lola_failpoint.Pass(); !lola_status.ok()) { \
      return lola_status;                                                      \
    }                                                                          \
  } while (false)

#endif  // LOLA_MEMORY_ENV_FAILPOINT_H_
