#include "memory/env/clock.h"

#include <chrono>

namespace lola::memory {
namespace {

class RealClock : public Clock {
 public:
  int64_t UnixMs() const override { return Ms(std::chrono::system_clock::now()); }
  int64_t MonotonicMs() const override { return Ms(std::chrono::steady_clock::now()); }

 private:
  template <typename TimePoint>
  static int64_t Ms(TimePoint time) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
  }
};

}  // namespace

Clock* Clock::Real() {
  static RealClock* const clock = new RealClock;  // never destroyed: used until the process ends
  return clock;
}

int64_t FakeClock::UnixMs() const {
  std::lock_guard lock(mu_);
  return unix_ms_;
}

int64_t FakeClock::MonotonicMs() const {
  std::lock_guard lock(mu_);
  return monotonic_ms_;
}

void FakeClock::Advance(int64_t ms) {
  std::lock_guard lock(mu_);
  unix_ms_ += ms;
  monotonic_ms_ += ms;
}

}  // namespace lola::memory
