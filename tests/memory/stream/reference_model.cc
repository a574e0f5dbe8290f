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

ReferenceHead::ReferenceHead(const LolaSettings& settings, std::vector<double> frequencies,
                             std::vector<float> map_q, std::vector<float> map_k, double gate)
    : settings_(settings),
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

// A row of e4m3 numbers times the least power of two that holds its largest; other types of rows
// are not rounded here but by their cases' tolerance.
Row ReferenceHead::Rounded(const Row& x) const {
  if (settings_.cache_dtype != kernels::Dtype::kFloat8) return x;
  double largest = 0;
  for (const double value : x) largest = std::max(largest, std::abs(value));
  double scale = 0x1p-60;
  while (largest > 464 * scale) scale *= 2;
  Row y = x;
  for (double& value : y) {
    const double exponent = std::max(-6.0, std::floor(std::log2(std::abs(value) / scale)));
    const double step = scale * std::exp2(exponent - 3);
    value = std::nearbyint(value / step) * step;
  }
  return y;
}

// The key as memory holds it: rotated by its position (rotary) or raw (constant).
Row ReferenceHead::MemoryKey(const Pair& pair) const {
  if (settings_.memory_positions == MemoryPositions::kConstant) return pair.key;
  return Rotate(pair.key, static_cast<double>(pair.position));
}

Row ReferenceHead::Attend(int64_t position, const Row& q, const Row& k, const Row& v) {
  // The window holds keys rotated by their position or their place in the chunk.
  const bool rotary = settings_.memory_positions == MemoryPositions::kRotary;
  const auto angle = static_cast<double>(rotary ? position : position % settings_.chunk);
  window_.push_back({position, Rotate(Rounded(Rotate(k, angle)), -angle), Rounded(v)});
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
  return Mix(position, q, logits, pairs);
}

Row ReferenceHead::Mix(int64_t position, const Row& q, const std::vector<double>& logits,
                       const std::vector<const Pair*>& pairs) {
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
  for (size_t j = 0; j < pairs.size(); ++j) {
    mass_[pairs[j]->position] += ws * std::exp(logits[j] - shift) / denominator;
  }
  return numerator;
}

// Of the pair's value from its key, against H, s or against what they would be with all of E.
double ReferenceHead::RecallError(const Pair& pair, const std::vector<Pair>& eligible) const {
  const size_t d = pair.value.size();
  const Score kind = settings_.score;
  const bool without = kind == Score::kLeaveOneOut || kind == Score::kRelativeLeaveOneOut;
  const bool all = kind == Score::kHypothetical || kind == Score::kRelativeHypothetical;
  const Row phi = Features(MemoryKey(pair), map_k_);
  std::vector<Row> h = h_;
  Row s = s_;
  for (const Pair& other : eligible) {
    if (!all && (!without || other.position == pair.position)) continue;
    const Row features = Features(MemoryKey(other), map_k_);
    for (size_t f = 0; f < features.size(); ++f) {
      s[f] += features[f];
      for (size_t i = 0; i < d; ++i) h[f][i] += features[f] * other.value[i];
    }
  }
  const double mass = Dot(phi, s) + settings_.score_epsilon;
  double error = 0;
  for (size_t i = 0; i < d; ++i) {
    double recalled = 0;
    for (size_t f = 0; f < phi.size(); ++f) recalled += phi[f] * h[f][i];
    if (absorbed_.empty() && !without && !all) recalled = 0;
    error += std::pow(recalled / mass - pair.value[i], 2);
  }
  return error;
}

double ReferenceHead::ScoreOf(const Pair& pair, const std::vector<Pair>& eligible) const {
  switch (settings_.score) {
    case Score::kSre:
    case Score::kLeaveOneOut:
    case Score::kHypothetical:
      return RecallError(pair, eligible);
    case Score::kRelativeSre:
      if (absorbed_.empty()) return 1;
      [[fallthrough]];
    case Score::kRelativeLeaveOneOut:
    case Score::kRelativeHypothetical:
      return RecallError(pair, eligible) / (Dot(pair.value, pair.value) + settings_.score_epsilon);
    case Score::kValueNorm:
      return Dot(pair.value, pair.value);
    case Score::kKeyNorm:
      return Dot(pair.key, pair.key);
    case Score::kRandom:
      return kernels::RandomScore(pair.position);
    case Score::kRecency:
      return static_cast<double>(pair.position);
    case Score::kAttention:
      return mass_.at(pair.position);
  }
  return 0;
}

std::vector<Pair> ReferenceHead::TakeLeaving(int64_t position) {
  std::vector<Pair> leaving;
  const int64_t first_kept = position + 1 - settings_.window;
  while (!window_.empty() && window_.front().position < first_kept) {
    leaving.push_back(window_.front());
    if (settings_.memory_positions == MemoryPositions::kConstant) {
      leaving.back().key = Rounded(leaving.back().key);
    }
    window_.erase(window_.begin());
  }
  return leaving;
}

void ReferenceHead::AbsorbPair(const Pair& pair) {
  absorbed_.insert(pair.position);
  const Row phi = Features(MemoryKey(pair), map_k_);
  for (size_t f = 0; f < phi.size(); ++f) {
    s_[f] += phi[f];
    for (size_t i = 0; i < pair.value.size(); ++i) h_[f][i] += phi[f] * pair.value[i];
  }
}

std::vector<Row> ReferenceCache::Step(int64_t position, const std::vector<Row>& q, const Row& k,
                                      const Row& v) {
  std::vector<Row> outputs;
  for (size_t h = 0; h < heads_.size(); ++h) {
    outputs.push_back(heads_[h].Attend(position, q[h], k, v));
  }
  const int64_t end = position + 1;
  if (settings_.mode == Mode::kLola && end % settings_.chunk == 0 &&
      end >= settings_.window + settings_.chunk) {
    RunEvent(position);
  }
  return outputs;
}

double ReferenceCache::ScoreOf(const Pair& pair, const std::vector<Pair>& eligible) const {
  double score = 0;
  for (const ReferenceHead& head : heads_) {
    const double own = head.ScoreOf(pair, eligible);
    // What a head does not decide alone is not added up once for every head.
    const bool common = settings_.score == Score::kValueNorm ||
                        settings_.score == Score::kKeyNorm || settings_.score == Score::kRandom ||
                        settings_.score == Score::kRecency;
    const bool largest = settings_.cache_sharing == CacheSharing::kGroupMax || common;
    score = largest ? std::max(score, own) : score + own;
  }
  if (settings_.redundancy_threshold == 0) return score;
  int count = 0;
  for (const Pair& other : eligible) {
    double distance = 0;
    for (size_t i = 0; i < pair.value.size(); ++i) {
      distance += std::pow(other.value[i] - pair.value[i], 2);
    }
    const double limit = settings_.redundancy_threshold * std::sqrt(Dot(pair.value, pair.value));
    count += std::sqrt(distance) <= limit ? 1 : 0;
  }
  return score / count;
}

// The sinks, then the others from the best down: lambda of them, or as many as hold the mass.
std::set<int64_t> ReferenceCache::Select(std::vector<Pair> eligible) {
  std::sort(eligible.begin(), eligible.end(), [&](const Pair& a, const Pair& b) {
    const bool a_sink = a.position < settings_.sinks, b_sink = b.position < settings_.sinks;
    if (a_sink != b_sink) return a_sink;
    return a.score != b.score ? a.score > b.score : a.position < b.position;
  });
  size_t keep = std::min<size_t>(lambda_, eligible.size());
  if (settings_.adaptive_mass > 0) {
    double total = 0, held = 0;
    for (const Pair& pair : eligible) total += pair.position < settings_.sinks ? 0 : pair.score;
    size_t prefix = 0;
    while (prefix < eligible.size() &&
           (eligible[prefix].position < settings_.sinks ||
            held < static_cast<double>(settings_.adaptive_mass) * total)) {
      held += eligible[prefix].position < settings_.sinks ? 0 : eligible[prefix].score;
      ++prefix;
    }
    const size_t least = std::min<size_t>({keep, settings_.cache_pairs_min, lambda_});
    keep = std::clamp(prefix, least, keep);
  }
  last_margin_ = keep == 0 || keep == eligible.size()
                     ? INFINITY
                     : (eligible[keep - 1].score - eligible[keep].score) / eligible[keep].score;
  std::set<int64_t> kept;
  for (size_t i = 0; i < keep; ++i) kept.insert(eligible[i].position);
  return kept;
}

void ReferenceCache::RunEvent(int64_t position) {
  std::vector<Pair> eligible = heads_[0].cache();
  std::vector<Pair> leaving;
  for (ReferenceHead& head : heads_) leaving = head.TakeLeaving(position);
  eligible.insert(eligible.end(), leaving.begin(), leaving.end());
  if (eligible.size() <= lambda_ && AbsorbedPositions().empty()) {
    for (ReferenceHead& head : heads_) head.SetCache(eligible);
    return;
  }
  const std::vector<Pair> all = eligible;
  for (size_t i = 0; i < all.size(); ++i) {
    if (settings_.rescore || all[i].score < 0) eligible[i].score = ScoreOf(all[i], all);
  }
  const std::set<int64_t> own = Select(eligible);
  std::set<int64_t> kept = std::exchange(forced_, {});
  if (kept.empty()) kept = own;
  std::sort(eligible.begin(), eligible.end(),
            [](const Pair& a, const Pair& b) { return a.position < b.position; });
  std::vector<Pair> cache;
  for (const Pair& pair : eligible) {
    if (kept.contains(pair.position)) {
      cache.push_back(pair);
      continue;
    }
    for (ReferenceHead& head : heads_) head.AbsorbPair(pair);
  }
  for (ReferenceHead& head : heads_) head.SetCache(cache);
}

std::set<int64_t> ReferenceCache::CachedPositions() const {
  std::set<int64_t> positions;
  for (const Pair& pair : heads_[0].cache()) positions.insert(pair.position);
  return positions;
}

std::set<int64_t> ReferenceCache::WindowPositions() const {
  std::set<int64_t> positions;
  for (const Pair& pair : heads_[0].window()) positions.insert(pair.position);
  return positions;
}

}  // namespace lola::memory::test
