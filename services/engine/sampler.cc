#include "services/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"

namespace lola::engine {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
// Ordered candidates looked at first when only top_p cuts; doubled until the share is reached.
constexpr size_t kFirstCandidates = 64;

// Finaliser of SplitMix64: every input bit reaches every output bit.
uint64_t Mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

template <typename T>
absl::Status OutOfRange(const char* field, T value, const char* range) {
  return absl::InvalidArgumentError(
      absl::StrCat("sampling.", field, ": ", value, ", must be ", range));
}

absl::Status CheckLogits(std::span<const float> logits) {
  bool any = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity()) {
      return absl::InternalError(absl::StrCat("logit of token ", i, ": ", logits[i]));
    }
    any |= logits[i] != kMinusInfinity;
  }
  if (!any) return absl::InternalError("all logits are -inf");
  return absl::OkStatus();
}

float LogProbability(std::span<const float> logits, int32_t id) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return static_cast<float>(logits[id] - top - std::log(sum));
}

}  // namespace

double UniformAt(uint64_t seed, uint64_t position) {
  return static_cast<double>(Mix(Mix(seed) ^ position) >> 11) * 0x1p-53;
}

absl::Status SamplingParams::Validate() const {
  if (!(temperature >= 0.0f && temperature <= 100.0f)) {
    return OutOfRange("temperature", temperature, "from 0 to 100");
  }
  if (!(top_p > 0.0f && top_p <= 1.0f)) return OutOfRange("top_p", top_p, "above 0, at most 1");
  if (!(repetition_penalty > 0.0f && repetition_penalty <= 100.0f)) {
    return OutOfRange("repetition_penalty", repetition_penalty, "above 0, at most 100");
  }
  if (repetition_window > kRepetitionWindowMax) {
    return OutOfRange("repetition_window", repetition_window, "at most 4096");
  }
  return absl::OkStatus();
}

absl::StatusOr<SampledToken> Sampler::Pick(std::span<const float> logits,
                                           const SamplingParams& params, uint64_t position,
                                           std::span<const int32_t> recent) {
  const absl::Status checked = CheckLogits(logits);
  if (!checked.ok()) return checked;
  adjusted_.assign(logits.begin(), logits.end());
  Penalise(params, recent);
  SampledToken token;
  if (params.temperature == 0.0f) {
    token.id = static_cast<int32_t>(std::max_element(adjusted_.begin(), adjusted_.end()) -
                                    adjusted_.begin());
  } else {
    token.id = Draw(params, UniformAt(params.seed, position));
  }
  token.logprob = LogProbability(logits, token.id);
  return token;
}

void Sampler::Penalise(const SamplingParams& params, std::span<const int32_t> recent) {
  if (params.repetition_penalty == 1.0f || params.repetition_window == 0) return;
  const size_t count = std::min<size_t>(recent.size(), params.repetition_window);
  order_.assign(recent.end() - count, recent.end());
  std::sort(order_.begin(), order_.end());
  order_.erase(std::unique(order_.begin(), order_.end()), order_.end());
  for (const int32_t id : order_) {
    if (id < 0 || static_cast<size_t>(id) >= adjusted_.size()) continue;
    float& logit = adjusted_[id];
    if (logit == kMinusInfinity) continue;
    logit = logit > 0.0f ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    // A tiny or large penalty must not make an infinity: differences of two are no numbers.
    logit =
        std::clamp(logit, std::numeric_limits<float>::lowest(), std::numeric_limits<float>::max());
  }
}

size_t Sampler::Order(size_t from, size_t count) {
  const auto before = [this](int32_t a, int32_t b) {
    return adjusted_[a] != adjusted_[b] ? adjusted_[a] > adjusted_[b] : a < b;
  };
  count = std::min(count, order_.size());
  std::partial_sort(order_.begin() + from, order_.begin() + count, order_.end(), before);
  return count;
}

int32_t Sampler::Draw(const SamplingParams& params, double uniform) {
  const size_t vocab = adjusted_.size();
  const double top = *std::max_element(adjusted_.begin(), adjusted_.end());
  const auto weight = [&](int32_t id) {
    return std::exp((adjusted_[id] - top) / static_cast<double>(params.temperature));
  };
  order_.resize(vocab);
  std::iota(order_.begin(), order_.end(), 0);
  const bool cut_k = params.top_k > 0 && params.top_k < vocab;
  size_t candidates = vocab;  // order_[0, candidates) take part
  size_t ordered = 0;         // order_[0, ordered) stand in final order
  if (cut_k) candidates = ordered = Order(0, params.top_k);
  double total = 0.0;
  for (size_t i = 0; i < candidates; ++i) total += weight(order_[i]);
  if (params.top_p < 1.0f) {
    // The smallest ordered prefix that holds the share; always at least one candidate.
    const double share = total * params.top_p;
    double sum = 0.0;
    size_t kept = 0;
    while (kept < candidates && (kept == 0 || sum < share)) {
      if (kept == ordered) ordered = Order(ordered, std::max(kFirstCandidates, 2 * ordered));
      sum += weight(order_[kept++]);
    }
    candidates = kept;
    total = sum;
  }
  const double target = uniform * total;
  double sum = 0.0;
  int32_t last = order_[0];
  for (size_t i = 0; i < candidates; ++i) {
    const double w = weight(order_[i]);
    if (w == 0.0) continue;
    last = order_[i];
    sum += w;
    if (sum > target) break;
  }
  return last;
}

}  // namespace lola::engine
