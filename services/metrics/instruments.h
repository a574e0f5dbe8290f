// Counters that code anywhere may bump: plain atomics, no Prometheus. Thread-safe, wait-free.
#ifndef LOLA_SERVICES_METRICS_INSTRUMENTS_H_
#define LOLA_SERVICES_METRICS_INSTRUMENTS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace lola::metrics {

// counts[i]: values in (bounds[i-1], bounds[i]]; the last entry counts those above every bound.
struct HistogramData {
  std::vector<double> bounds;    // ascending upper bounds
  std::vector<uint64_t> counts;  // bounds.size() + 1, not cumulative
  double sum = 0;
};

// 16 buckets, each bound twice the one before: kFirst, 2 kFirst, 4 kFirst ... 2^15 kFirst.
// Latencies: first = 1e-4 gives 0.1 ms doubling to 3.3 s.
class DoublingHistogram {
 public:
  static constexpr size_t kBuckets = 16;
  explicit DoublingHistogram(double first_bound) : first_(first_bound) {}

  void Observe(double value) {
    size_t bucket = 0;
    for (double bound = first_; bucket < kBuckets && value > bound; bound *= 2) ++bucket;
    counts_[bucket].fetch_add(1, std::memory_order_relaxed);
    double sum = sum_.load(std::memory_order_relaxed);
    while (!sum_.compare_exchange_weak(sum, sum + value, std::memory_order_relaxed)) {
    }
  }

  HistogramData Data() const {
    HistogramData data;
    double bound = first_;
    for (size_t i = 0; i < kBuckets; ++i, bound *= 2) data.bounds.push_back(bound);
    for (const auto& count : counts_) data.counts.push_back(count.load(std::memory_order_relaxed));
    data.sum = sum_.load(std::memory_order_relaxed);
    return data;
  }

 private:
  const double first_;
  std::array<std::atomic<uint64_t>, kBuckets + 1> counts_{};
  std::atomic<double> sum_{0};
};

}  // namespace lola::metrics

#endif  // LOLA_SERVICES_METRICS_INSTRUMENTS_H_
