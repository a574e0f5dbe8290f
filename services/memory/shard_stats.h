// What a shard counted since its start: plain numbers, copied out. services/metrics exports them.
#ifndef LOLA_SERVICES_MEMORY_SHARD_STATS_H_
#define LOLA_SERVICES_MEMORY_SHARD_STATS_H_

#include <cstdint>

#include "memory/store/store_stats.h"

namespace lola::shard {

struct ShardStats {
  store::StoreStats store;
  uint64_t calls = 0;
  uint64_t calls_failed = 0;      // any status but OK
  uint64_t calls_overloaded = 0;  // refused because the queue was full
  uint64_t calls_misrouted = 0;   // refused because of the partition
  uint64_t queued = 0;            // waiting for a thread now
};

}  // namespace lola::shard

#endif  // LOLA_SERVICES_MEMORY_SHARD_STATS_H_
