// What a pair is worth: EventCache::ScorePairs.
#include <algorithm>
#include <cmath>

#include "kernels/absorb/absorb.h"
#include "kernels/recall_score/recall_score.h"
#include "kernels/redundancy/redundancy.h"
#include "memory/stream/event_cache.h"

namespace lola::memory {
namespace {

float SquaredNorm(const float* x, size_t n) {
  float sum = 0;
  for (size_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

// Scored against the state as it would be with all of E in it.
bool AgainstTrialState(Score score) {
  return score == Score::kLeaveOneOut || score == Score::kRelativeLeaveOneOut ||
         score == Score::kHypothetical || score == Score::kRelativeHypothetical;
}

}  // namespace

// Self-recall errors of one head for all pairs, against the state before this event.
void EventCache::RecallErrors(size_t head, float* errors) const {
  const HeadMemory& memory = heads[head];
  const size_t d = head_dim();
  const size_t f = feature_dim();
  const Score kind = settings().score;
  kernels::RecallScoreParams score{.features = Features(head),
                                   .values = scratch.values.data(),
                                   .h = memory.h,
                                   .s = memory.s,
                                   .rows = pairs,
                                   .feature_dim = f,
                                   .head_dim = d,
                                   .epsilon = settings().score_epsilon,
                                   .empty_state = memory.counters->absorbed == 0,
                                   .scores = errors};
  if (AgainstTrialState(kind)) {
    std::copy_n(memory.h, f * d, scratch.trial_h.data());
    std::copy_n(memory.s, 2 * f, scratch.trial_s.data());
    kernels::Absorb({.features = Features(head),
                     .values = scratch.values.data(),
                     .rows = pairs,
                     .feature_dim = f,
                     .head_dim = d,
                     .h = scratch.trial_h.data(),
                     .s = scratch.trial_s.data(),
                     .s_correction = scratch.trial_s.data() + f});
    score.h = scratch.trial_h.data();
    score.s = scratch.trial_s.data();
    score.empty_state = false;
    // Each pair takes itself out again.
    score.leave_self_out = kind == Score::kLeaveOneOut || kind == Score::kRelativeLeaveOneOut;
  }
  kernels::RecallScore(score);
  for (size_t i = 0; i < pairs; ++i) stats.AddRecallError(errors[i]);
}

// Sum or maximum over the heads so far; a NaN stays one.
void EventCache::Combine(size_t head, const float* from, float* into) const {
  if (head == 0) {
    std::copy_n(from, pairs, into);
    return;
  }
  const bool largest = settings().cache_sharing == CacheSharing::kGroupMax;
  for (size_t i = 0; i < pairs; ++i) {
    if (!largest) {
      into[i] += from[i];
    } else if (from[i] > into[i] || std::isnan(from[i])) {
      into[i] = from[i];
    }
  }
}

float EventCache::ScoreOf(size_t pair) const {
  const size_t d = head_dim();
  switch (settings().score) {
    case Score::kSre:
    case Score::kLeaveOneOut:
    case Score::kHypothetical:
      return scratch.recall_errors[pair];
    case Score::kRelativeSre:
      // An empty state recalls nothing of any pair: all alike, whatever rounding would say.
      if (heads[0].counters->absorbed == 0) return 1.0f;
      [[fallthrough]];
    case Score::kRelativeLeaveOneOut:
    case Score::kRelativeHypothetical:
      return scratch.recall_errors[pair] /
             (SquaredNorm(scratch.values.data() + pair * d, d) + settings().score_epsilon);
    case Score::kValueNorm:
      return SquaredNorm(scratch.values.data() + pair * d, d);
    case Score::kKeyNorm:
      return SquaredNorm(scratch.keys.data() + pair * d, d);
    case Score::kRandom:
      return kernels::RandomScore(Position(pair));
    case Score::kRecency:
      return static_cast<float>(Position(pair));
    case Score::kAttention:
      return scratch.scores[pair];
  }
  return 0.0f;
}

void EventCache::ScorePairs() const {
  for (size_t head = 0; head < heads.size(); ++head) {
    RecallErrors(head, scratch.head_errors.data());
    Combine(head, scratch.head_errors.data(), scratch.recall_errors.data());
    if (settings().score == Score::kAttention) Combine(head, Masses(head), scratch.scores.data());
  }
  const bool discounted = settings().redundancy_threshold > 0;
  if (discounted) {
    kernels::Redundancy({.values = scratch.values.data(),
                         .rows = pairs,
                         .head_dim = head_dim(),
                         .threshold = settings().redundancy_threshold,
                         .counts = scratch.counts.data(),
                         .scratch = scratch.redundancy.data()});
  }
  const SlotMeta* meta = heads[0].meta;
  for (size_t i = 0; i < pairs; ++i) {
    float score = ScoreOf(i);
    if (discounted) score /= static_cast<float>(scratch.counts[i]);
    const bool kept_score = !settings().rescore && i < cached && meta[i].score != kUnranked;
    scratch.candidates[i] = {kept_score ? meta[i].score : score, static_cast<uint32_t>(i),
                             Position(i)};
  }
}

}  // namespace lola::memory
