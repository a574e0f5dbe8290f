// The stream memory written down plainly in float64 on vectors of pairs: no ring, no slots, no
// blocks, no splitting. The judge of LayerMemory.
#ifndef LOLA_TESTS_MEMORY_STREAM_REFERENCE_MODEL_H_
#define LOLA_TESTS_MEMORY_STREAM_REFERENCE_MODEL_H_

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "memory/stream/settings.h"

namespace lola::memory::test {

using Row = std::vector<double>;

struct Pair {
  int64_t position;
  Row key;  // raw
  Row value;
  double score = -1;  // it was last ranked by; -1 before the first ranking
};

// One query head of one layer: attention, scores and absorption. Which pairs stay is its cache's
// business.
class ReferenceHead {
 public:
  // map_q, map_k: [d, f] row-major.
  ReferenceHead(const LolaSettings& settings, std::vector<double> frequencies,
                std::vector<float> map_q, std::vector<float> map_k, double gate);

  // The output for the token at `position`, after it was pushed.
  Row Attend(int64_t position, const Row& q, const Row& k, const Row& v);
  // Takes the pairs that leave the window after `position` out of it.
  std::vector<Pair> TakeLeaving(int64_t position);
  // Before division by redundancy.
  double ScoreOf(const Pair& pair, const std::vector<Pair>& eligible) const;
  void SetCache(const std::vector<Pair>& cache) { cache_ = cache; }
  void AbsorbPair(const Pair& pair);

  const std::vector<Pair>& cache() const { return cache_; }
  const std::vector<Pair>& window() const { return window_; }
  const std::set<int64_t>& absorbed() const { return absorbed_; }

 private:
  Row Rotate(const Row& x, double angle_position) const;
  Row Features(const Row& x, const std::vector<float>& map) const;
  Row Rounded(const Row& x) const;
  Row MemoryKey(const Pair& pair) const;
  double RecallError(const Pair& pair, const std::vector<Pair>& eligible) const;
  Row Mix(int64_t position, const Row& q, const std::vector<double>& logits,
          const std::vector<const Pair*>& pairs);

  LolaSettings settings_;
  std::vector<double> frequencies_;
  std::vector<float> map_q_;
  std::vector<float> map_k_;
  double gate_;
  std::vector<Pair> window_;
  std::vector<Pair> cache_;
  std::set<int64_t> absorbed_;
  std::map<int64_t, double> mass_;  // attention weight received, by position
  std::vector<Row> h_;
  Row s_;
};

// A sparse cache and the query heads that own it: one, or all of a group.
class ReferenceCache {
 public:
  ReferenceCache(const LolaSettings& settings, uint32_t lambda, std::vector<ReferenceHead> heads)
      : settings_(settings), lambda_(lambda), heads_(std::move(heads)) {}

  // The outputs of all heads for the token at `position`; then the event, if one is due.
  std::vector<Row> Step(int64_t position, const std::vector<Row>& q, const Row& k, const Row& v);

  // When set, selection follows this set instead of the own scores (near ties may fall either way).
  void ForceNextSelection(std::set<int64_t> kept) { forced_ = std::move(kept); }

  std::set<int64_t> CachedPositions() const;
  std::set<int64_t> WindowPositions() const;
  const std::set<int64_t>& AbsorbedPositions() const { return heads_[0].absorbed(); }
  // Gap between the worst kept and the best dropped score of the last event, relative to the
  // latter.
  double last_margin() const { return last_margin_; }

 private:
  void RunEvent(int64_t position);
  double ScoreOf(const Pair& pair, const std::vector<Pair>& eligible) const;
  std::set<int64_t> Select(std::vector<Pair> eligible);

  LolaSettings settings_;
  uint32_t lambda_;
  std::vector<ReferenceHead> heads_;
  std::set<int64_t> forced_;
  double last_margin_ = 0;
};

}  // namespace lola::memory::test

#endif  // LOLA_TESTS_MEMORY_STREAM_REFERENCE_MODEL_H_
