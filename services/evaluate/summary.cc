#include "services/evaluate/summary.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <tuple>

#include "kernels/core/check.h"

namespace lola::evaluate {

std::pair<double, double> WilsonOfMean(double mean, uint64_t count) {
  LOLA_CHECK_GT(count, 0u);
  const double z = 1.959963984540054, n = static_cast<double>(count);
  const double middle = mean + z * z / (2 * n);
  const double spread = z * std::sqrt(mean * (1 - mean) / n + z * z / (4 * n * n));
  const double scale = 100.0 / (1 + z * z / n);
  return {std::max(0.0, (middle - spread) * scale), std::min(100.0, (middle + spread) * scale)};
}

std::pair<double, double> WilsonInterval(uint64_t right, uint64_t count) {
  return WilsonOfMean(static_cast<double>(right) / static_cast<double>(count), count);
}

std::pair<double, double> MeanInterval(const BitCount& count) {
  LOLA_CHECK_GT(count.tokens, 1u);
  const double n = static_cast<double>(count.tokens), mean = count.bits / n;
  const double variance = std::max(0.0, (count.squares - n * mean * mean) / (n - 1));
  const double spread = 1.959963984540054 * std::sqrt(variance / n);
  return {mean - spread, mean + spread};
}

namespace {

void Add(const std::map<uint64_t, BitCount>& from, std::map<uint64_t, BitCount>& to) {
  for (const auto& [key, count] : from) {
    to[key].tokens += count.tokens;
    to[key].bytes += count.bytes;
    to[key].bits += count.bits;
    to[key].squares += count.squares;
  }
}

}  // namespace

Summary Summarise(const std::vector<SampleResult>& results) {
  Summary summary;
  summary.samples = results.size();
  double total = 0.0;
  for (const SampleResult& result : results) {
    Add(result.by_position, summary.bits_by_position);
    Add(result.by_multiple, summary.bits_by_multiple);
    for (const Answer& answer : result.answers) {
      ++summary.questions;
      total += answer.verdict.score;
      if (!answer.verdict.which.empty()) ++summary.updates[answer.verdict.which];
      const uint64_t position = std::max<uint64_t>(1, answer.position);
      for (size_t i = 0; i < answer.told.size(); ++i) {
        const bool found = answer.verdict.found[i];
        ++summary.references;
        summary.found += found ? 1 : 0;
        const uint64_t tenth = std::min<uint64_t>(9, 10 * answer.told[i] / position);
        summary.by_depth[tenth].Add(found);
        const uint64_t distance = answer.answer_at - std::min(answer.answer_at, answer.told[i]);
        summary.by_distance[std::bit_floor(std::max<uint64_t>(1, distance))].Add(found);
        summary.by_position[std::bit_floor(position)].Add(found);
      }
    }
  }
  if (summary.questions > 0) {
    const double mean = total / static_cast<double>(summary.questions);
    summary.score = 100.0 * mean;
    std::tie(summary.low, summary.high) = WilsonOfMean(mean, summary.questions);
  }
  return summary;
}

}  // namespace lola::evaluate
