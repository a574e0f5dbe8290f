// What the machine can do, measured when asked, because this hardware's absolute speed changes with
// its neighbours: the denominators of the benchmarks. Medians over about `budget_s` seconds with
// `threads` threads (one thread: by its own clock, see bench_timer.h).
#ifndef LOLA_TESTS_BENCH_SUPPORT_MACHINE_LIMITS_H_
#define LOLA_TESTS_BENCH_SUPPORT_MACHINE_LIMITS_H_

namespace lola::bench {

// Billions of float32 multiply-adds x 2 per second, registers only.
double FmaLimitGflops(int threads, double budget_s);
// The same for the bfloat16 dot instruction; 0 where the processor has none.
double Bf16DotLimitGflops(int threads, double budget_s);
// The same for the matrix tiles; 0 where there are none.
double Bf16TileLimitGflops(int threads, double budget_s);
// GB/s of reading a buffer larger than the caches.
double ReadLimitGbps(int threads, double budget_s);

}  // namespace lola::bench

#endif  // LOLA_TESTS_BENCH_SUPPORT_MACHINE_LIMITS_H_
