// One sparse cache during one chunk event, and the two things done with it: score its pairs, keep
// the best. Internal to this folder.
//
// E, the eligible pairs, are the cached ones by slot and then the leaving chunk by position. Their
// keys and values, and their features for every head that owns the cache, lie in the scratch.
#ifndef LOLA_MEMORY_STREAM_EVENT_CACHE_H_
#define LOLA_MEMORY_STREAM_EVENT_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "memory/stream/layer_memory.h"
#include "memory/stream/layer_views.h"
#include "memory/stream/scratch.h"

namespace lola::memory {

// Score of a pair that was admitted without a ranking.
inline constexpr float kUnranked = -1.0f;

struct EventCache {
  const StateLayout& layout;
  uint32_t layer;
  uint64_t first_position;            // of the leaving chunk
  std::span<const HeadMemory> heads;  // all owners; they share rows, meta and count
  ScratchBuffers& scratch;
  MemoryStats& stats;
  size_t cached;
  size_t pairs;  // of E

  const LolaSettings& settings() const { return layout.settings(); }
  size_t head_dim() const { return layout.geometry().head_dim; }
  size_t feature_dim() const { return layout.geometry().feature_dim; }
  int64_t Position(size_t pair) const {
    if (pair < cached) return heads[0].meta[pair].position;
    return static_cast<int64_t>(first_position + pair - cached);
  }
  float* Features(size_t head) const {
    return scratch.features.data() + head * pairs * feature_dim();
  }
  float* Masses(size_t head) const { return scratch.masses.data() + head * pairs; }

  // Fills scratch.recall_errors and scratch.candidates as the settings' score asks. A cache of
  // several heads ranks by the sum (or the largest) of its heads' scores, heads in order.
  void ScorePairs() const;

  // Keeps the best candidates in the cache and adds the others to every owner's H and s. A kept
  // pair keeps its slot unless the cache shrinks below it; other pairs take the lowest free slots
  // in order of position.
  void KeepAndAbsorb() const;

 private:
  void RecallErrors(size_t head, float* errors) const;
  void Combine(size_t head, const float* from, float* into) const;
  float ScoreOf(size_t pair) const;
  size_t Choose() const;
  void Absorb(size_t head, std::span<const kernels::Candidate> dropped) const;
  void Place(std::span<kernels::Candidate> kept, std::span<const kernels::Candidate> dropped) const;
};

}  // namespace lola::memory

#endif  // LOLA_MEMORY_STREAM_EVENT_CACHE_H_
