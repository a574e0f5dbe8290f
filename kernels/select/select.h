// Which pairs a sparse cache keeps: the highest scores, earlier positions first among equals.
//
// The order is total, so the chosen set is unique. NaN ranks below every number (two NaN by
// position) and is counted. Any thread.
#ifndef LOLA_KERNELS_SELECT_SELECT_H_
#define LOLA_KERNELS_SELECT_SELECT_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace lola::kernels {

struct Candidate {
  float score;
  uint32_t index;    // the caller's
  int64_t position;  // distinct
};

// True when a is kept in preference to b.
bool RanksBefore(const Candidate& a, const Candidate& b);

// Moves the `keep` best candidates to the front (in no particular order) and returns how many
// scores were NaN or infinite. REQUIRES: keep <= candidates.size().
size_t SelectTop(std::span<Candidate> candidates, size_t keep);
size_t SelectTopRef(std::span<Candidate> candidates, size_t keep);  // full sort

// The fewest leading candidates whose scores hold at least `share` of the sum of all: summed in
// float64 in the order given. REQUIRES: ranked by RanksBefore, scores not negative, 0 < share <= 1.
size_t MassPrefix(std::span<const Candidate> ranked, double share);

// A fixed hash of a position, as a score in [0, 1): the random control.
float RandomScore(int64_t position);

}  // namespace lola::kernels

#endif  // LOLA_KERNELS_SELECT_SELECT_H_
