#ifndef LOLA_MEMORY_STORE_STORE_STATS_H_
#define LOLA_MEMORY_STORE_STORE_STATS_H_

// What a store counted since it was opened: plain numbers, copied out. services/metrics exports
// them.

#include <cstdint>

namespace lola::store {

struct StoreStats {
  // Present amounts.
  uint64_t streams = 0;
  uint64_t owned_streams = 0;  // with an owner in the record, whatever its lease
  uint64_t blobs = 0;
  uint64_t blob_bytes = 0;
  uint64_t log_tokens = 0;  // in the logs that streams write to
  uint64_t uploads = 0;     // snapshots being written now

  // Since the store was opened.
  uint64_t append_calls = 0;
  uint64_t append_entries = 0;
  uint64_t append_tokens = 0;   // written; a retry that was already there is not counted
  uint64_t append_retries = 0;  // entries whose tokens were already there
  uint64_t append_refused = 0;
  uint64_t fenced_writes = 0;  // refused because of a stale epoch
  uint64_t commits = 0;        // writes to the record store
  uint64_t commit_failures = 0;
  uint64_t acquires = 0;
  uint64_t takeovers = 0;  // while the old owner's lease ran
  uint64_t snapshots_put = 0;
  uint64_t snapshot_put_bytes = 0;
  uint64_t snapshots_refused = 0;  // damaged or not what the header said
  uint64_t snapshots_read = 0;
  uint64_t snapshot_read_bytes = 0;
  uint64_t broken_blobs = 0;  // damaged and set aside as *.broken, or missing
  uint64_t forks = 0;
  uint64_t rewinds = 0;
  uint64_t deletes = 0;
  uint64_t expired_streams = 0;
  uint64_t collected_blobs = 0;
  uint64_t collected_logs = 0;
  uint64_t collect_failures = 0;  // rounds of expiry and collection that left something undone
};

}  // namespace lola::store

#endif  // LOLA_MEMORY_STORE_STORE_STATS_H_
