// What the machine can do, measured when asked: the denominators of the benchmarks. Each takes a
// fraction of a second; values are medians of several rounds with `threads` threads.
#ifndef LOLA_TESTS_BENCH_SUPPORT_MACHINE_LIMITS_H_
#define LOLA_TESTS_BENCH_SUPPORT_MACHINE_LIMITS_H_

namespace lola::bench {

// Bytes per second summed from memory much larger than the last-level cache.
double ReadBandwidth(int threads);
// Payload bytes per second of memcpy between blocks much larger than the last-level cache.
double CopyBandwidth(int threads);
// fp32 fused multiply-adds, as floating point operations per second (two each).
double FmaRate(int threads);

}  // namespace lola::bench

#endif  // LOLA_TESTS_BENCH_SUPPORT_MACHINE_LIMITS_H_
