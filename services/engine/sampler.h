// Logits -> next token. Stateless but for scratch: the same (logits, parameters, position, recent
// tokens) give the same token on every machine of one instruction class, so that a generation
// continued after a crash equals the undisturbed one.
//
// Order of operations: repetition penalty; greedy pick if temperature is 0; otherwise division by
// the temperature, top-k, softmax, top-p, one draw. Cut-offs order candidates by (logit descending,
// id ascending), so ties go to the lowest id; without a cut-off the draw walks the ids upwards.
// Randomness: u = 53 bits of Mix(seed, position), Mix being the SplitMix64 finaliser applied to
// each word; nothing else is random.
//
// Not thread-safe: one Sampler per thread.
#ifndef LOLA_SERVICES_ENGINE_SAMPLER_H_
#define LOLA_SERVICES_ENGINE_SAMPLER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lola::engine {

struct SamplingParams {
  float temperature = 0.0f;         // 0 = greedy
  uint32_t top_k = 0;               // 0 = off
  float top_p = 1.0f;               // 1 = off
  float repetition_penalty = 1.0f;  // 1 = off
  uint32_t repetition_window = 0;   // newest tokens that are penalised; 0 = off
  uint64_t seed = 0;

  // INVALID_ARGUMENT naming the field and its value. Limits: temperature 0..100, top_p (0, 1],
  // repetition_penalty (0, 100], repetition_window <= kRepetitionWindowMax.
  absl::Status Validate() const;
};

inline constexpr uint32_t kRepetitionWindowMax = 4096;

struct SampledToken {
  int32_t id = 0;
  // Natural logarithm of the token's probability under the model's own distribution: softmax of the
  // raw logits, before penalty, temperature and cut-offs.
  float logprob = 0.0f;
};

class Sampler {
 public:
  // `position` is the position the chosen token will have. `recent` are the newest tokens of the
  // stream, oldest first; only the last `repetition_window` of them matter.
  // INTERNAL when a logit is NaN or +infinity, or when all of them are -infinity.
  // REQUIRES: params.Validate().ok(); logits is not empty.
  absl::StatusOr<SampledToken> Pick(std::span<const float> logits, const SamplingParams& params,
                                    uint64_t position, std::span<const int32_t> recent);

 private:
  // Divides positive and multiplies negative logits of recent tokens, each id once.
  void Penalise(const SamplingParams& params, std::span<const int32_t> recent);
  // Puts order_[0, count) into final order, given that order_[0, from) is; returns the true count.
  size_t Order(size_t from, size_t count);
  int32_t Draw(const SamplingParams& params, double uniform);

  std::vector<float> adjusted_;
  std::vector<int32_t> order_;
};

// The uniform number in [0, 1) that decides position `position` of a stream sampled with `seed`.
double UniformAt(uint64_t seed, uint64_t position);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_SAMPLER_H_
