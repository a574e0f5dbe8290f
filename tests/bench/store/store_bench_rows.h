// The measured rows of store_bench and their raw peers: what the same disk and memory do without a
// store. Each works in a folder of its own. One thread unless it says otherwise.
#ifndef LOLA_TESTS_BENCH_STORE_STORE_BENCH_ROWS_H_
#define LOLA_TESTS_BENCH_STORE_STORE_BENCH_ROWS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace lola::bench {

struct Rate {
  double per_second = 0;  // operations
  double p50_us = 0;      // of one call
  double p99_us = 0;
};

// `bytes` appended to one file and synced, again and again.
Rate RawSyncedAppends(const std::string& folder, size_t bytes, double seconds);
// One call appends one token to each of `streams` streams; per_second counts streams' entries.
Rate BatchAppends(const std::string& folder, size_t streams, bool durable, double seconds);
// `callers` threads append one token to one stream each, at the same time.
Rate ConcurrentAppends(const std::string& folder, size_t callers, double seconds);
// Forks of a stream with a snapshot of `bytes` and 4096 tokens.
Rate Forks(const std::string& folder, size_t bytes, size_t forks);

struct Throughput {
  double memcpy = 0;     // bytes per second, all of them
  double raw_write = 0;  // new file, one write call per MiB, fdatasync
  double put = 0;        // into the store: staged, checksummed, synced, published
  double raw_read = 0;   // page cache
  double get = 0;        // out of the store: checksum verified
};
// Medians over `rounds` blobs of `bytes`; what is read is compared first.
Throughput Snapshots(const std::string& folder, size_t bytes, int rounds);

}  // namespace lola::bench

#endif  // LOLA_TESTS_BENCH_STORE_STORE_BENCH_ROWS_H_
