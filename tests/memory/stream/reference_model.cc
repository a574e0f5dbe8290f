#include "tests/memory/stream/reference_model.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/select/select.h"

namespace lola::memory::test {
namespace {

double Dot(const Row& a, const Row& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

ReferenceHead::ReferenceHead(const LolaSettings& settings, uint32_t lambda,
                             std::vector<double> frequencies, std::vector<float> map_q,
                             std::vector<float> map_k, double gate)
    : settings_(settings),
      lambda_(lambda),
      frequencies_(std::move(frequencies)),
      map_q_(std::move(map_q)),
      map_k_(std::move(map_k)),
      gate_(gate) {
  const size_t d = frequencies_.size() * 2;
  const size_t f = map_q_.size() / d * 2;
  h_.assign(f, Row(d, 0.0));
  s_.assign(f, 0.0);
}

Row ReferenceHead::Rotate(const Row& x, double position) const {
  const size_t half = frequencies_.size();
  Row y(x.size());
  for (size_t i = 0; i < half; ++i) {
    const double c = std::cos(position * frequencies_[i]);
    const double s = std::sin(position * frequencies_[i]);
    y[i] = x[i] * c - x[i + half] * s;
    y[i + half] = x[i + half] * c + x[i] * s;
  }
  return y;
}

Row ReferenceHead::Features(const Row& x, const std::vector<float>& map) const {
  const size_t f = map.size() / x.size();
  Row z(f, 0.0);
  for (size_t j = 0; j < f; ++j) {
    for (size_t i = 0; i < x.size(); ++i) z[j] += x[i] * map[i * f + j];
  }
  Row phi;
  for (const double sign : {1.0, -1.0}) {
    double sum = 0;
    for (const double value : z) sum += std::exp(sign * value);
    for (const double value : z) phi.push_back(std::max(std::exp(sign * value) / sum, 1e-12));
  }
  return phi;
}

// The key as memory holds it: rotated by its position (rotary) or raw (constant).
Row ReferenceHead::MemoryKey(const Pair& pair) const {
  if (settings_.memory_positions == MemoryPositions::kConstant) return pair.key;
  return Rotate(pair.key, static_cast<double>(pair.position));
}

Row ReferenceHead::Step(int64_t position, const Row& q, const Row& k, const Row& v) {
  window_.push_back({position, k, v});
  const bool constant = settings_.memory_positions == MemoryPositions::kConstant;
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size()));
  const double p = static_cast<double>(position);
  std::vector<double> logits;
  std::vector<const Pair*> pairs;
  for (const Pair& pair : cache_) {
    const double at = constant ? settings_.memory_distance : p;
    logits.push_back(scale * Dot(Rotate(q, at), MemoryKey(pair)));
    pairs.push_back(&pair);
  }
  for (const Pair& pair : window_) {
    const double distance = p - static_cast<double>(pair.position);
    logits.push_back(scale * Dot(Rotate(q, distance), pair.key));
    pairs.push_back(&pair);
  }
  Row y = Mix(position, q, logits, pairs);
  const int64_t end = position + 1;
  if (settings_.mode == Mode::kLola && end % settings_.chunk == 0 &&
      end >= settings_.window + settings_.chunk) {
    RunEvent(position);
  }
  return y;
}

Row ReferenceHead::Mix(int64_t position, const Row& q, const std::vector<double>& logits,
                       const std::vector<const Pair*>& pairs) const {
  const size_t d = q.size();
  const double n = static_cast<double>(absorbed_.size());
  const bool linear = n > 0;
  const double top = *std::max_element(logits.begin(), logits.end());
  double shift = top;
  double ws = 1, wl = 0, epsilon = 0;
  if (linear) {
    const double share = settings_.mass_cap > 0 ? std::min(1.0, settings_.mass_cap / n) : 1.0;
    switch (settings_.mixing) {
      case Mixing::kGatedNatural:
        shift = std::max(0.0, top);
        ws = gate_;
        wl = share * (1.0 - gate_) * std::exp(-shift);
        epsilon = 1e-6 * std::exp(-shift);
        break;
      case Mixing::kNatural:
        shift = std::max(0.0, top);
        wl = share * std::exp(-shift);
        epsilon = 1e-6 * std::exp(-shift);
        break;
      case Mixing::kLolcats:
        ws = gate_;
        wl = share;
        break;
    }
  }
  Row numerator(d, 0.0);
  double denominator = epsilon;
  for (size_t j = 0; j < pairs.size(); ++j) {
    const double weight = ws * std::exp(logits[j] - shift);
    denominator += weight;
    for (size_t i = 0; i < d; ++i) numerator[i] += weight * pairs[j]->value[i];
  }
  if (linear) {
    const bool constant = settings_.memory_positions == MemoryPositions::kConstant;
    const Row phi = Features(
        Rotate(q, constant ? settings_.memory_distance : static_cast<double>(position)), map_q_);
    denominator += wl * Dot(phi, s_);
    for (size_t f = 0; f < phi.size(); ++f) {
      for (size_t i = 0; i < d; ++i) numerator[i] += wl * phi[f] * h_[f][i];
    }
  }
  for (double& value : numerator) value /= denominator;
  return numerator;
}

double ReferenceHead::ScoreOf(const Pair& pair, const std::vector<Pair>& eligible) const {
  const size_t d = pair.value.size();
  double score = 0;
  switch (settings_.score) {
    case Score::kValueNorm:
      score = Dot(pair.value, pair.value);
      break;
    case Score::kRandom:
      score = kernels::RandomScore(pair.position);
      break;
    case Score::kRecency:
      score = static_cast<double>(pair.position);
      break;
    case Score::kSre:
    case Score::kLeaveOneOut: {
      const Row phi = Features(MemoryKey(pair), map_k_);
      std::vector<Row> h = h_;
      Row s = s_;
      const bool others = settings_.score == Score::kLeaveOneOut;
      for (const Pair& other : eligible) {
        if (!others || other.position == pair.position) continue;
        const Row features = Features(MemoryKey(other), map_k_);
        for (size_t f = 0; f < features.size(); ++f) {
          s[f] += features[f];
          for (size_t i = 0; i < d; ++i) h[f][i] += features[f] * other.value[i];
        }
      }
      const double mass = Dot(phi, s) + settings_.score_epsilon;
      for (size_t i = 0; i < d; ++i) {
        double recalled = 0;
        for (size_t f = 0; f < phi.size(); ++f) recalled += phi[f] * h[f][i];
        if (absorbed_.empty() && !others) recalled = 0;
        score += std::pow(recalled / mass - pair.value[i], 2);
      }
      break;
    }
  }
  if (settings_.redundancy_threshold > 0) {
    int count = 0;
    for (const Pair& other : eligible) {
      double distance = 0;
      for (size_t i = 0; i < d; ++i) distance += std::pow(other.value[i] - pair.value[i], 2);
      const double limit = settings_.redundancy_threshold * std::sqrt(Dot(pair.value, pair.value));
      count += std::sqrt(distance) <= limit ? 1 : 0;
    }
    score /= count;
  }
  return score;
}

void ReferenceHead::RunEvent(int64_t position) {
  std::vector<Pair> eligible = cache_;
  const int64_t first_kept = position + 1 - settings_.window;
  while (!window_.empty() && window_.front().position < first_kept) {
    eligible.push_back(window_.front());
    window_.erase(window_.begin());
  }
  if (eligible.size() <= lambda_) {
    cache_ = eligible;
    return;
  }
  std::vector<std::pair<double, Pair>> ranked;
  for (const Pair& pair : eligible) ranked.push_back({ScoreOf(pair, eligible), pair});
  std::sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second.position < b.second.position;
  });
  last_margin_ = lambda_ == 0
                     ? INFINITY
                     : (ranked[lambda_ - 1].first - ranked[lambda_].first) / ranked[lambda_].first;
  std::set<int64_t> kept = std::exchange(forced_, {});
  if (kept.empty()) {
    for (size_t i = 0; i < lambda_; ++i) kept.insert(ranked[i].second.position);
  }
  std::sort(eligible.begin(), eligible.end(),
            [](const Pair& a, const Pair& b) { return a.position < b.position; });
  cache_.clear();
  for (const Pair& pair : eligible) {
    if (kept.contains(pair.position)) {
      cache_.push_back(pair);
    } else {
      AbsorbPair(pair);
    }
  }
}

void ReferenceHead::AbsorbPair(const Pair& pair) {
  absorbed_.insert(pair.position);
  const Row phi = Features(MemoryKey(pair), map_k_);
  for (size_t f = 0; f < phi.size(); ++f) {
    s_[f] += phi[f];
    for (size_t i = 0; i < pair.value.size(); ++i) h_[f][i] += phi[f] * pair.value[i];
  }
}

std::set<int64_t> ReferenceHead::CachedPositions() const {
  std::set<int64_t> positions;
  for (const Pair& pair : cache_) positions.insert(pair.position);
  return positions;
}

std::set<int64_t> ReferenceHead::WindowPositions() const {
  std::set<int64_t> positions;
  for (const Pair& pair : window_) positions.insert(pair.position);
  return positions;
}

}  // namespace lola::memory::test
