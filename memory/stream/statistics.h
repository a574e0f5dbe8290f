// Plain counters of what layer memories did. Not thread-safe: one per worker thread, merged later.
#ifndef LOLA_MEMORY_STREAM_STATISTICS_H_
#define LOLA_MEMORY_STREAM_STATISTICS_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace lola::memory {

// Upper bounds of the recall error buckets: 2^-20, 2^-18, ... 2^18; the last bucket has no bound.
inline constexpr size_t kRecallErrorBuckets = 21;
double RecallErrorBucketBound(size_t bucket);

struct MemoryStats {
  uint64_t tokens = 0;         // rows attended, counted once per layer and kv head
  uint64_t events = 0;         // chunk events, per layer and query head
  uint64_t admissions = 0;     // pairs that entered a sparse cache
  uint64_t displacements = 0;  // pairs that left a sparse cache for H
  // Pairs in the sparse caches after their events, summed, and how many sizes that sums.
  uint64_t occupancy_sum = 0;
  uint64_t occupancy_count = 0;
  uint64_t absorptions = 0;       // pairs added to H (displaced ones included)
  uint64_t nonfinite_scores = 0;  // NaN or Inf among scores
  uint64_t nonfinite_rows = 0;    // output rows with a NaN or Inf
  // Self-recall errors of all scored pairs, and their sum.
  std::array<uint64_t, kRecallErrorBuckets> recall_error_histogram{};
  double recall_error_sum = 0;
  uint64_t recall_error_count = 0;

  // Non-zero: the stream's numbers are broken and the step must be refused.
  uint64_t nonfinite() const { return nonfinite_scores + nonfinite_rows; }
  // Pairs of an average sparse cache after an event; 0 before the first event.
  double average_occupancy() const {
    return occupancy_count == 0 ? 0.0 : static_cast<double>(occupancy_sum) / occupancy_count;
  }
  void AddRecallError(float recall_error);
  void Merge(const MemoryStats& other);
};

}  // namespace lola::memory

#endif  // LOLA_MEMORY_STREAM_STATISTICS_H_
