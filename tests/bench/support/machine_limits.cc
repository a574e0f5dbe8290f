#include "tests/bench/support/machine_limits.h"

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

namespace lola::bench {
namespace {

constexpr size_t kBlockBytes = size_t{192} << 20;  // per thread; far beyond any last-level cache
constexpr int kRounds = 5;

std::atomic<uint64_t> sink{0};  // results land here so that no loop can be dropped

// Rounds of work(thread) on all threads at once; the median of amount / seconds.
double MedianRate(int threads, double amount, const std::function<void(int)>& work) {
  std::vector<double> rates;
  for (int round = 0; round <= kRounds; ++round) {
    std::atomic<int> ready{0};
    std::atomic<bool> go{false};
    std::vector<std::thread> workers;
    for (int t = 0; t < threads; ++t) {
      workers.emplace_back([&, t] {
        ++ready;
        while (!go.load(std::memory_order_acquire)) {
        }
        work(t);
      });
    }
    while (ready.load() < threads) std::this_thread::yield();
    const auto start = std::chrono::steady_clock::now();
    go.store(true, std::memory_order_release);
    for (std::thread& worker : workers) worker.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (round > 0) rates.push_back(amount / seconds.count());  // the first touches the pages
  }
  std::sort(rates.begin(), rates.end());
  return rates[rates.size() / 2];
}

__attribute__((target("avx512f"))) uint64_t Sum512(const uint8_t* data, size_t bytes) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  for (size_t i = 0; i + 256 <= bytes; i += 256) {
    a = _mm512_add_epi64(a, _mm512_loadu_si512(data + i));
    b = _mm512_add_epi64(b, _mm512_loadu_si512(data + i + 64));
    c = _mm512_add_epi64(c, _mm512_loadu_si512(data + i + 128));
    d = _mm512_add_epi64(d, _mm512_loadu_si512(data + i + 192));
  }
  a = _mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d));
  uint64_t lanes[8];
  _mm512_storeu_si512(lanes, a);
  return lanes[0] + lanes[7];
}

uint64_t SumPortable(const uint8_t* data, size_t bytes) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 64 <= bytes; i += 64) {
    uint64_t words[8];
    std::memcpy(words, data + i, 64);
    for (int j = 0; j < 8; ++j) sums[j] += words[j];
  }
  uint64_t sum = 0;
  for (uint64_t s : sums) sum += s;
  return sum;
}

constexpr int kFmaSteps = 2'000'000;

__attribute__((target("avx512f"))) void Fma512() {
  __m512 sums[16];
  const __m512 x = _mm512_set1_ps(1.0000001f), y = _mm512_set1_ps(1e-9f);
  for (__m512& sum : sums) sum = _mm512_set1_ps(1.0f);
  for (int i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 16
    for (__m512& sum : sums) sum = _mm512_fmadd_ps(sum, x, y);
  }
  float lanes[16];
  for (const __m512& sum : sums) {
    _mm512_storeu_ps(lanes, sum);
    sink += static_cast<uint64_t>(lanes[0]);
  }
}

__attribute__((target("avx2,fma"))) void Fma256() {
  __m256 sums[12];
  const __m256 x = _mm256_set1_ps(1.0000001f), y = _mm256_set1_ps(1e-9f);
  for (__m256& sum : sums) sum = _mm256_set1_ps(1.0f);
  for (int i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 12
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(sum, x, y);
  }
  float lanes[8];
  for (const __m256& sum : sums) {
    _mm256_storeu_ps(lanes, sum);
    sink += static_cast<uint64_t>(lanes[0]);
  }
}

}  // namespace

double ReadBandwidth(int threads) {
  const bool wide = __builtin_cpu_supports("avx512f");
  std::vector<std::vector<uint8_t>> blocks(static_cast<size_t>(threads));
  return MedianRate(threads, static_cast<double>(kBlockBytes) * threads, [&](int t) {
    std::vector<uint8_t>& block = blocks[static_cast<size_t>(t)];
    if (block.empty()) block.assign(kBlockBytes, 1);
    sink += wide ? Sum512(block.data(), block.size()) : SumPortable(block.data(), block.size());
  });
}

double CopyBandwidth(int threads) {
  std::vector<std::vector<uint8_t>> from(static_cast<size_t>(threads)), to(from.size());
  return MedianRate(threads, static_cast<double>(kBlockBytes) * threads, [&](int t) {
    const auto i = static_cast<size_t>(t);
    if (from[i].empty()) {
      from[i].assign(kBlockBytes, 1);
      to[i].assign(kBlockBytes, 2);
    }
    std::memcpy(to[i].data(), from[i].data(), kBlockBytes);
    sink += to[i][kBlockBytes / 2];
  });
}

double FmaRate(int threads) {
  if (__builtin_cpu_supports("avx512f")) {
    return MedianRate(threads, 2.0 * 16 * 16 * kFmaSteps * threads, [](int) { Fma512(); });
  }
  return MedianRate(threads, 2.0 * 12 * 8 * kFmaSteps * threads, [](int) { Fma256(); });
}

}  // namespace lola::bench
