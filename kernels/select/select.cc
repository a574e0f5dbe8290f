#include "kernels/select/select.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/check.h"

namespace lola::kernels {
namespace {

size_t CountNonFinite(std::span<const Candidate> candidates) {
  return static_cast<size_t>(
      std::count_if(candidates.begin(), candidates.end(),
                    [](const Candidate& candidate) { return !std::isfinite(candidate.score); }));
}

}  // namespace

bool RanksBefore(const Candidate& a, const Candidate& b) {
  const bool a_nan = std::isnan(a.score);
  const bool b_nan = std::isnan(b.score);
  if (a_nan != b_nan) return b_nan;
  if (!a_nan && a.score != b.score) return a.score > b.score;
  return a.position < b.position;
}

size_t SelectTop(std::span<Candidate> candidates, size_t keep) {
  LOLA_CHECK_LE(keep, candidates.size());
  const size_t broken = CountNonFinite(candidates);
  if (keep > 0 && keep < candidates.size()) {
    std::nth_element(candidates.begin(), candidates.begin() + (keep - 1), candidates.end(),
                     RanksBefore);
  }
  return broken;
}

size_t SelectTopRef(std::span<Candidate> candidates, size_t keep) {
  LOLA_CHECK_LE(keep, candidates.size());
  std::sort(candidates.begin(), candidates.end(), RanksBefore);
  return CountNonFinite(candidates);
}

size_t MassPrefix(std::span<const Candidate> ranked, double share) {
  double total = 0;
  for (const Candidate& candidate : ranked) total += candidate.score;
  double held = 0;
  size_t count = 0;
  // A NaN makes every comparison false: all are taken, and the caller has counted it.
  while (count < ranked.size() && !(held >= share * total)) held += ranked[count++].score;
  return count;
}

float RandomScore(int64_t position) {
  uint64_t x = static_cast<uint64_t>(position) + 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  return static_cast<float>(x >> 40) * 0x1p-24f;
}

}  // namespace lola::kernels
