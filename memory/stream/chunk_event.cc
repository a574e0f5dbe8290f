#include "memory/stream/chunk_event.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "kernels/absorb/absorb.h"
#include "kernels/feature_map/feature_map.h"
#include "kernels/recall_score/recall_score.h"
#include "kernels/redundancy/redundancy.h"
#include "kernels/rope/rope.h"
#include "kernels/select/select.h"
#include "memory/stream/scratch.h"

namespace lola::memory {
namespace {

using kernels::Candidate;

// Score of a pair that was admitted without a ranking.
constexpr float kUnranked = -1.0f;

float RoundTo(kernels::Dtype dtype, float value) {
  return dtype == kernels::Dtype::kFloat32 ? value : kernels::ToFloat(kernels::ToBFloat16(value));
}

}  // namespace

void ChunkEvent::Run() const {
  const size_t ring_row = layout.RingRow(first_position);
  const PairRows chunk = WindowRows(layout, record, layer, kv_head).From(ring_row);
  LoadEvicted(chunk);
  for (uint32_t i = 0; i < layout.geometry().group(); ++i) RunHead(i);
  chunk.Clear(layout.chunk_rows());
}

// With constant memory positions the window holds keys rotated by their place in the chunk; memory
// holds them as they were. The result is rounded as the cache will hold it, so that a pair has one
// set of features for its whole life.
void ChunkEvent::LoadEvicted(const PairRows& chunk) const {
  ScratchBuffers& scratch = params.scratch->buffers();
  const size_t d = layout.geometry().head_dim;
  const bool rotated = layout.settings().memory_positions == MemoryPositions::kConstant;
  for (size_t row = 0; row < layout.settings().chunk; ++row) {
    float* key = scratch.evicted_keys.data() + row * d;
    chunk.Load(row, key, scratch.evicted_values.data() + row * d);
    if (!rotated) continue;
    const float* cos = params.rope->distance_cos + row * (d / 2);
    const float* sin = params.rope->distance_sin + row * (d / 2);
    kernels::RotateRow(key, cos, sin, d, /*inverse=*/true, key);
    for (size_t i = 0; i < d; ++i) key[i] = RoundTo(layout.settings().cache_dtype, key[i]);
  }
}

void ChunkEvent::RunHead(uint32_t group_index) const {
  const HeadMemory head =
      HeadOf(layout, record, layer, kv_head * layout.geometry().group() + group_index);
  ScratchBuffers& scratch = params.scratch->buffers();
  const size_t d = layout.geometry().head_dim;
  const size_t chunk = layout.settings().chunk;
  const size_t cached = head.counters->cached;
  const size_t lambda = layout.settings().CachePairs(layer);
  const size_t pairs = cached + chunk;
  ++params.stats->events;
  ++head.counters->events;
  if (pairs <= lambda) {
    for (size_t i = 0; i < chunk; ++i) {
      head.cache.Store(cached + i, scratch.evicted_keys.data() + i * d,
                       scratch.evicted_values.data() + i * d);
      head.meta[cached + i] = {static_cast<int64_t>(first_position + i), kUnranked, 0.0f};
    }
    head.counters->cached = static_cast<uint32_t>(pairs);
    params.stats->admissions += chunk;
    return;
  }
  GatherPairs(head);
  const kernels::FeatureMapParams map{
      .input = scratch.keys.data(),
      .input_stride = d,
      .map = params.weights.map_k + group_index * d * layout.geometry().map_dim(),
      .rows = pairs,
      .head_dim = d,
      .map_dim = layout.geometry().map_dim(),
      .output = scratch.features.data()};
  kernels::FeatureMap(map);
  if (lambda > 0) {
    ScorePairs(head, pairs);
    RankPairs(head, pairs);
  } else {
    for (size_t i = 0; i < pairs; ++i) {
      scratch.candidates[i] = {0.0f, static_cast<uint32_t>(i),
                               static_cast<int64_t>(first_position + i)};
    }
  }
  KeepAndAbsorb(head, pairs, lambda);
}

// Cached pairs by slot, then the leaving ones by position.
void ChunkEvent::GatherPairs(const HeadMemory& head) const {
  ScratchBuffers& scratch = params.scratch->buffers();
  const size_t d = layout.geometry().head_dim;
  const size_t cached = head.counters->cached;
  const size_t moved = layout.settings().chunk * d;
  for (size_t slot = 0; slot < cached; ++slot) {
    head.cache.Load(slot, scratch.keys.data() + slot * d, scratch.values.data() + slot * d);
  }
  std::copy_n(scratch.evicted_keys.data(), moved, scratch.keys.data() + cached * d);
  std::copy_n(scratch.evicted_values.data(), moved, scratch.values.data() + cached * d);
}

// Self-recall errors of all pairs against the state before this event.
void ChunkEvent::ScorePairs(const HeadMemory& head, size_t pairs) const {
  ScratchBuffers& scratch = params.scratch->buffers();
  const size_t d = layout.geometry().head_dim;
  const size_t f = layout.geometry().feature_dim;
  kernels::RecallScoreParams score{.features = scratch.features.data(),
                                   .values = scratch.values.data(),
                                   .h = head.h,
                                   .s = head.s,
                                   .rows = pairs,
                                   .feature_dim = f,
                                   .head_dim = d,
                                   .epsilon = layout.settings().score_epsilon,
                                   .empty_state = head.counters->absorbed == 0,
                                   .scores = scratch.recall_errors.data()};
  if (layout.settings().score == Score::kLeaveOneOut) {
    // The state as it would be with every pair in it; each pair then takes itself out again.
    std::copy_n(head.h, f * d, scratch.trial_h.data());
    std::copy_n(head.s, 2 * f, scratch.trial_s.data());
    kernels::Absorb({.features = scratch.features.data(),
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
    score.leave_self_out = true;
  }
  kernels::RecallScore(score);
  for (size_t i = 0; i < pairs; ++i) params.stats->AddRecallError(scratch.recall_errors[i]);
}

// Turns recall errors into the scores the settings ask for.
void ChunkEvent::RankPairs(const HeadMemory& head, size_t pairs) const {
  ScratchBuffers& scratch = params.scratch->buffers();
  const LolaSettings& settings = layout.settings();
  const size_t d = layout.geometry().head_dim;
  const size_t cached = head.counters->cached;
  const bool discounted = settings.redundancy_threshold > 0;
  if (discounted) {
    kernels::Redundancy({.values = scratch.values.data(),
                         .rows = pairs,
                         .head_dim = d,
                         .threshold = settings.redundancy_threshold,
                         .counts = scratch.counts.data(),
                         .scratch = scratch.redundancy.data()});
  }
  for (size_t i = 0; i < pairs; ++i) {
    const int64_t position =
        i < cached ? head.meta[i].position : static_cast<int64_t>(first_position + i - cached);
    float score = scratch.recall_errors[i];
    switch (settings.score) {
      case Score::kSre:
      case Score::kLeaveOneOut:
        break;
      case Score::kValueNorm:
        score = 0;
        for (size_t k = 0; k < d; ++k) {
          const float v = scratch.values[i * d + k];
          score += v * v;
        }
        break;
      case Score::kRandom:
        score = kernels::RandomScore(position);
        break;
      case Score::kRecency:
        score = static_cast<float>(position);
        break;
    }
    if (discounted) score /= static_cast<float>(scratch.counts[i]);
    const bool kept_score = !settings.rescore && i < cached && head.meta[i].score != kUnranked;
    scratch.candidates[i] = {kept_score ? head.meta[i].score : score, static_cast<uint32_t>(i),
                             position};
  }
}

void ChunkEvent::KeepAndAbsorb(const HeadMemory& head, size_t pairs, size_t keep) const {
  ScratchBuffers& scratch = params.scratch->buffers();
  const size_t d = layout.geometry().head_dim;
  const size_t f = layout.geometry().feature_dim;
  const size_t cached = head.counters->cached;
  const std::span<Candidate> all(scratch.candidates.data(), pairs);
  params.stats->nonfinite_scores += kernels::SelectTop(all, keep);
  const std::span<Candidate> kept = all.first(keep);
  const std::span<Candidate> dropped = all.subspan(keep);
  const auto by_position = [](const Candidate& a, const Candidate& b) {
    return a.position < b.position;
  };
  std::sort(dropped.begin(), dropped.end(), by_position);
  for (size_t i = 0; i < dropped.size(); ++i) {
    const size_t pair = dropped[i].index;
    std::copy_n(scratch.features.data() + pair * f, f, scratch.dropped_features.data() + i * f);
    std::copy_n(scratch.values.data() + pair * d, d, scratch.dropped_values.data() + i * d);
  }
  kernels::Absorb({.features = scratch.dropped_features.data(),
                   .values = scratch.dropped_values.data(),
                   .rows = dropped.size(),
                   .feature_dim = f,
                   .head_dim = d,
                   .h = head.h,
                   .s = head.s,
                   .s_correction = head.s_correction});
  head.counters->absorbed += dropped.size();
  params.stats->absorptions += dropped.size();

  // Slots: a kept pair stays where it is; new pairs take the lowest free slots in position order.
  size_t free = 0;
  for (const Candidate& c : dropped) {
    if (c.index < cached) scratch.free_slots[free++] = c.index;
  }
  params.stats->displacements += free;
  for (size_t slot = cached; slot < keep; ++slot) {
    scratch.free_slots[free++] = static_cast<uint32_t>(slot);
  }
  std::sort(scratch.free_slots.begin(), scratch.free_slots.begin() + free);
  std::sort(kept.begin(), kept.end(), by_position);
  size_t next = 0;
  for (const Candidate& c : kept) {
    const bool admitted = c.index >= cached;
    const size_t slot = admitted ? scratch.free_slots[next++] : c.index;
    if (admitted) {
      head.cache.Store(slot, scratch.keys.data() + c.index * d,
                       scratch.values.data() + c.index * d);
    }
    head.meta[slot] = {c.position, c.score, scratch.recall_errors[c.index]};
  }
  params.stats->admissions += next;
  head.counters->cached = static_cast<uint32_t>(keep);
}

}  // namespace lola::memory
