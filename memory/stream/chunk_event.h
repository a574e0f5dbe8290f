// What happens when a chunk leaves the window: every query head of the group ranks its cached pairs
// and the leaving ones, keeps the best lambda and absorbs the rest. Internal to this folder.
#ifndef LOLA_MEMORY_STREAM_CHUNK_EVENT_H_
#define LOLA_MEMORY_STREAM_CHUNK_EVENT_H_

#include <cstdint>

#include "memory/stream/layer_memory.h"
#include "memory/stream/layer_views.h"

namespace lola::memory {

struct ChunkEvent {
  const StateLayout& layout;
  std::byte* record;
  uint32_t layer;
  uint32_t kv_head;
  uint64_t first_position;  // of the leaving chunk
  const AdvanceParams& params;

  // Runs the event for the whole group and clears the chunk's ring rows.
  void Run() const;

 private:
  void LoadEvicted(const PairRows& chunk) const;
  void RunHead(uint32_t group_index) const;
  void GatherPairs(const HeadMemory& head) const;
  void ScorePairs(const HeadMemory& head, size_t pairs) const;
  void RankPairs(const HeadMemory& head, size_t pairs) const;
  void KeepAndAbsorb(const HeadMemory& head, size_t pairs, size_t keep) const;
};

}  // namespace lola::memory

#endif  // LOLA_MEMORY_STREAM_CHUNK_EVENT_H_
