#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/support/machine_limits.cc"
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>

#include "hwy/foreach_target.h"

#include "kernels/core/cpu.h"
#include "kernels/core/simd-inl.h"
#include "kernels/core/thread_pool.h"
#include "tests/bench/support/bench_timer.h"
#include "tests/bench/support/machine_limits.h"

HWY_BEFORE_NAMESPACE();
namespace lola::kernels {
namespace HWY_NAMESPACE {

// Twelve independent chains of fused multiply-adds; returns the operations done.
double FmaChains(size_t steps, float* sink) {
  const DF df;
  VF acc[12];
  for (VF& a : acc) a = hn::Set(df, 1.0f);
  VF x = hn::Set(df, 0.999f);
  VF y = hn::Set(df, 1e-3f);
  for (size_t i = 0; i < steps; ++i) {
    LOLA_UNROLL(12)
    for (size_t c = 0; c < 12; ++c) acc[c] = hn::MulAdd(acc[c], x, y);
  }
  VF sum = hn::Zero(df);
  for (VF& a : acc) sum = hn::Add(sum, a);
  *sink = ReduceSum(sum);
  return 2.0 * 12 * kLanes * static_cast<double>(steps);
}

// Sums four streams at once, with fetches ahead: what a kernel that only reads can reach.
void ReadAll(const float* data, size_t n, float* sink) {
  const DF df;
  VF sum[8];
  for (VF& s : sum) s = hn::Zero(df);
  const size_t part = n / 4;
  for (size_t i = 0; i + 2 * kLanes <= part; i += 2 * kLanes) {
    LOLA_UNROLL(4)
    for (size_t c = 0; c < 4; ++c) {
      const float* p = data + c * part + i;
      __builtin_prefetch(p + 256);
      __builtin_prefetch(p + 256 + kLanes);
      sum[2 * c] = hn::Add(sum[2 * c], LoadF(p));
      sum[2 * c + 1] = hn::Add(sum[2 * c + 1], LoadF(p + kLanes));
    }
  }
  for (size_t c = 1; c < 8; ++c) sum[0] = hn::Add(sum[0], sum[c]);
  *sink = ReduceSum(sum[0]);
}

}  // namespace HWY_NAMESPACE
}  // namespace lola::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lola::kernels {
HWY_EXPORT(FmaChains);
HWY_EXPORT(ReadAll);

namespace {

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) double DotChains(size_t steps,
                                                                                 float* sink) {
  __m512 acc[12];
  for (__m512& a : acc) a = _mm512_setzero_ps();
  __m512i x = _mm512_set1_epi32(0x3f003f00);
  for (size_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < 12; ++c) acc[c] = _mm512_dpbf16_ps(acc[c], (__m512bh)x, (__m512bh)x);
    asm volatile("" : "+v"(x));
  }
  for (int c = 1; c < 12; ++c) acc[0] = _mm512_add_ps(acc[0], acc[c]);
  *sink = _mm512_reduce_add_ps(acc[0]);
  return 4.0 * 12 * 16 * static_cast<double>(steps);
}

// Four chains of sums on the matrix tiles, all of zeros: the tiles take no shorter for it.
__attribute__((target("amx-tile,amx-bf16"))) double TileChains(size_t steps, float* sink) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t line_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  asm volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);  // zeroes the tiles
  for (size_t i = 0; i < steps; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  *sink = 0.0f;
  return 2.0 * 16 * 16 * 32 * 4 * static_cast<double>(steps);
}
#else
double DotChains(size_t, float*) { return 0; }
double TileChains(size_t, float*) { return 0; }
#endif

double Rate(int threads, double budget_s, const std::function<double(float*)>& work) {
  ThreadPool pool(threads);
  std::vector<float> sinks(64 * threads);
  double done = 0;
  const double seconds = bench::MedianSeconds(bench::ClockFor(threads), budget_s, [&] {
    pool.ParallelFor(threads, [&](size_t i, int) {
      const double operations = work(&sinks[64 * i]);
      if (i == 0) done = operations * threads;
    });
  });
  return done / seconds * 1e-9;
}

}  // namespace
}  // namespace lola::kernels

namespace lola::bench {

double FmaLimitGflops(int threads, double budget_s) {
  return kernels::Rate(threads, budget_s, [](float* sink) {
    return HWY_DYNAMIC_DISPATCH(kernels::FmaChains)(1 << 20, sink);
  });
}

double Bf16DotLimitGflops(int threads, double budget_s) {
  if (!kernels::HasBf16Dot()) return 0;
  return kernels::Rate(threads, budget_s,
                       [](float* sink) { return kernels::DotChains(1 << 20, sink); });
}

double Bf16TileLimitGflops(int threads, double budget_s) {
  if (!kernels::HasBf16Tiles()) return 0;
  return kernels::Rate(threads, budget_s,
                       [](float* sink) { return kernels::TileChains(1 << 16, sink); });
}

double ReadLimitGbps(int threads, double budget_s) {
  constexpr size_t kFloats = size_t{64} << 20;  // 256 MiB, eight times the last-level cache
  static const float* const data = [] {
    // Huge pages, as the packed weights have.
    void* memory = std::aligned_alloc(size_t{2} << 20, kFloats * sizeof(float));
    (void)madvise(memory, kFloats * sizeof(float), MADV_HUGEPAGE);
    std::fill_n(static_cast<float*>(memory), kFloats, 1.0f);
    return static_cast<const float*>(memory);
  }();
  kernels::ThreadPool pool(threads);
  std::vector<float> sinks(64 * threads);
  const double seconds = MedianSeconds(ClockFor(threads), budget_s, [&] {
    const size_t part = kFloats / threads;
    pool.ParallelFor(threads, [&](size_t i, int) {
      HWY_DYNAMIC_DISPATCH(kernels::ReadAll)(data + i * part, part, &sinks[64 * i]);
    });
  });
  return kFloats * 4 / seconds * 1e-9;
}

}  // namespace lola::bench
#endif  // HWY_ONCE
