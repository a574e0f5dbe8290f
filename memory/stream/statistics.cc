#include "memory/stream/statistics.h"

#include <cmath>

namespace lola::memory {

double RecallErrorBucketBound(size_t bucket) {
  if (bucket + 1 >= kRecallErrorBuckets) return INFINITY;
  return std::ldexp(1.0, 2 * static_cast<int>(bucket) - 20);
}

void MemoryStats::AddRecallError(float recall_error) {
  if (!std::isfinite(recall_error)) return;  // counted as a broken score already
  recall_error_sum += recall_error;
  ++recall_error_count;
  int exponent = 0;
  // error = fraction * 2^exponent with fraction in [0.5, 1): error <= 2^exponent.
  const float fraction = std::frexp(recall_error, &exponent);
  if (fraction == 0.5f) --exponent;  // a power of two belongs to its own bound
  const int bucket = recall_error <= 0.0f ? 0 : (exponent + 20 + 1) / 2;
  const int last = static_cast<int>(kRecallErrorBuckets) - 1;
  const int clamped = exponent < -20 ? 0 : (bucket > last ? last : bucket);
  ++recall_error_histogram[recall_error <= 0.0f ? 0 : clamped];
}

void MemoryStats::Merge(const MemoryStats& other) {
  tokens += other.tokens;
  events += other.events;
  admissions += other.admissions;
  displacements += other.displacements;
  absorptions += other.absorptions;
  occupancy_sum += other.occupancy_sum;
  occupancy_count += other.occupancy_count;
  nonfinite_scores += other.nonfinite_scores;
  nonfinite_rows += other.nonfinite_rows;
  for (size_t i = 0; i < recall_error_histogram.size(); ++i) {
    recall_error_histogram[i] += other.recall_error_histogram[i];
  }
  recall_error_sum += other.recall_error_sum;
  recall_error_count += other.recall_error_count;
}

}  // namespace lola::memory
