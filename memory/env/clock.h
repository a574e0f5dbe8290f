#ifndef LOLA_MEMORY_ENV_CLOCK_H_
#define LOLA_MEMORY_ENV_CLOCK_H_

// Time behind one seam, so that leases and expiry can be tested without waiting.
// All methods may be called from any thread.

#include <cstdint>
#include <mutex>

namespace lola::memory {

class Clock {
 public:
  virtual ~Clock() = default;
  // Milliseconds since 1970, for records people read and for time to live. May jump.
  virtual int64_t UnixMs() const = 0;
  // Milliseconds that only grow, for leases and intervals. Meaningless across processes.
  virtual int64_t MonotonicMs() const = 0;

  // The process's real clock; lives for ever.
  static Clock* Real();
};

// Stands still until told otherwise.
class FakeClock : public Clock {
 public:
  explicit FakeClock(int64_t unix_ms = 1'700'000'000'000) : unix_ms_(unix_ms) {}
  int64_t UnixMs() const override;
  int64_t MonotonicMs() const override;
  void Advance(int64_t ms);

 private:
  mutable std::mutex mu_;
  int64_t unix_ms_;           // guarded by mu_
  int64_t monotonic_ms_ = 1;  // guarded by mu_
};

}  // namespace lola::memory

#endif  // LOLA_MEMORY_ENV_CLOCK_H_
