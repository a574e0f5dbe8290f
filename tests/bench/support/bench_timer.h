// Timing for benchmarks of kernels: median of repetitions.
#ifndef LOLA_TESTS_BENCH_SUPPORT_BENCH_TIMER_H_
#define LOLA_TESTS_BENCH_SUPPORT_BENCH_TIMER_H_

#include <time.h>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace lola::bench {

enum class Clock {
  kWall,
  kThread,  // CPU time of the calling thread: neighbours on the same core do not count
};

inline double Now(Clock clock) {
  timespec now;
  clock_gettime(clock == Clock::kWall ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Work of one thread is timed by its own clock, work of several by the wall.
inline Clock ClockFor(int threads) { return threads == 1 ? Clock::kThread : Clock::kWall; }

// Median seconds of one call; repeats for about `budget_s`, at least three times.
template <typename Fn>
double MedianSeconds(Clock clock, double budget_s, const Fn& fn) {
  std::vector<double> seconds;
  fn();  // warm caches and page tables
  const double end = Now(clock) + budget_s;
  while (seconds.size() < 3 || Now(clock) < end) {
    const double start = Now(clock);
    fn();
    seconds.push_back(Now(clock) - start);
  }
  std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
  return seconds[seconds.size() / 2];
}

}  // namespace lola::bench

#endif  // LOLA_TESTS_BENCH_SUPPORT_BENCH_TIMER_H_
