// The stream memory written down plainly in float64 on vectors of pairs: no ring, no slots, no
// blocks, no splitting. The judge of LayerMemory.
#ifndef LOLA_TESTS_MEMORY_STREAM_REFERENCE_MODEL_H_
#define LOLA_TESTS_MEMORY_STREAM_REFERENCE_MODEL_H_

#include <cstdint>
#include <set>
#include <vector>

#include "memory/stream/settings.h"

namespace lola::memory::test {

using Row = std::vector<double>;

struct Pair {
  int64_t position;
  Row key;  // raw
  Row value;
};

// One query head of one layer.
class ReferenceHead {
 public:
  // map_q, map_k: [d, f] row-major.
  ReferenceHead(const LolaSettings& settings, uint32_t lambda, std::vector<double> frequencies,
                std::vector<float> map_q, std::vector<float> map_k, double gate);

  // The output for the token at `position`, after it was pushed; then its event, if any.
  Row Step(int64_t position, const Row& q, const Row& k, const Row& v);

  // When set, selection follows this set instead of the own scores (near ties may fall either way).
  void ForceNextSelection(std::set<int64_t> kept) { forced_ = std::move(kept); }

  std::set<int64_t> CachedPositions() const;
  std::set<int64_t> WindowPositions() const;
  std::set<int64_t> AbsorbedPositions() const { return absorbed_; }
  const std::vector<Row>& h() const { return h_; }
  const Row& s() const { return s_; }
  // Gap between the worst kept and the best dropped score of the last event, relative to the
  // latter.
  double last_margin() const { return last_margin_; }

 private:
  Row Rotate(const Row& x, double angle_position) const;
  Row Features(const Row& x, const std::vector<float>& map) const;
  Row MemoryKey(const Pair& pair) const;
  double ScoreOf(const Pair& pair, const std::vector<Pair>& eligible) const;
  double Weight(double logit, double top) const;
  void RunEvent(int64_t position);
  void AbsorbPair(const Pair& pair);
  Row Mix(int64_t position, const Row& q, const std::vector<double>& logits,
          const std::vector<const Pair*>& pairs) const;

  LolaSettings settings_;
  uint32_t lambda_;
  std::vector<double> frequencies_;
  std::vector<float> map_q_;
  std::vector<float> map_k_;
  double gate_;
  std::vector<Pair> window_;
  std::vector<Pair> cache_;
  std::set<int64_t> absorbed_;
  std::vector<Row> h_;
  Row s_;
  std::set<int64_t> forced_;
  double last_margin_ = 0;
};

}  // namespace lola::memory::test

#endif  // LOLA_TESTS_MEMORY_STREAM_REFERENCE_MODEL_H_
