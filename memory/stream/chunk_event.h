// What happens when a chunk leaves the window: every sparse cache of the group ranks its pairs and
// the leaving ones, keeps the best and gives the rest to its heads' H and s. Internal to this
// folder.
#ifndef LOLA_MEMORY_STREAM_CHUNK_EVENT_H_
#define LOLA_MEMORY_STREAM_CHUNK_EVENT_H_

#include <cstdint>

#include "memory/stream/event_cache.h"
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
  // The cache owned by query heads first .. first + layout.cache_heads() - 1 of the group.
  void RunCache(uint32_t first) const;
  void AdmitAll(const EventCache& cache) const;
  void GatherPairs(const EventCache& cache, uint32_t first) const;
};

}  // namespace lola::memory

#endif  // LOLA_MEMORY_STREAM_CHUNK_EVENT_H_
