// Timing for the kernel benchmarks: median of repetitions, and the machine's limits measured in the
// same run, because this hardware's absolute speed changes with its neighbours.
#ifndef LOLA_TESTS_BENCH_KERNELS_BENCH_TIMER_H_
#define LOLA_TESTS_BENCH_KERNELS_BENCH_TIMER_H_

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

// Billions of float32 multiply-adds x 2 per second, registers only, on `threads` threads.
double FmaLimitGflops(int threads, double budget_s);
// The same for the bfloat16 dot instruction; 0 where the processor has none.
double Bf16DotLimitGflops(int threads, double budget_s);
// GB/s of reading a buffer larger than the caches, on `threads` threads.
double ReadLimitGbps(int threads, double budget_s);

}  // namespace lola::bench

#endif  // LOLA_TESTS_BENCH_KERNELS_BENCH_TIMER_H_
