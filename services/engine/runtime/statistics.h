// What the engine counts, as plain numbers; services/metrics turns them into series. Values are
// copied out by Engine::statistics(), any thread.
#ifndef LOLA_SERVICES_ENGINE_RUNTIME_STATISTICS_H_
#define LOLA_SERVICES_ENGINE_RUNTIME_STATISTICS_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "memory/stream/statistics.h"

namespace lola::engine {

// 20 buckets with doubling upper bounds: first, 2 first, ... 2^19 first; the last count is above.
struct Histogram {
  static constexpr size_t kBuckets = 20;
  double first_bound = 1e-4;
  std::array<uint64_t, kBuckets + 1> counts{};
  double sum = 0;

  void Observe(double value) {
    size_t bucket = 0;
    for (double bound = first_bound; bucket < kBuckets && value > bound; bound *= 2) ++bucket;
    ++counts[bucket];
    sum += value;
  }
  uint64_t count() const {
    uint64_t total = 0;
    for (uint64_t n : counts) total += n;
    return total;
  }
};

// How a device runs its steps; all 0 elsewhere.
struct RunnerCounters {
  uint64_t recordings = 0;  // kinds of decode steps that were recorded
  uint64_t replays = 0;     // steps that ran as a replay of one
  // Kinds of steps that could not be recorded: they run launch by launch, slower and the same.
  uint64_t refused_recordings = 0;
};

struct EngineStatistics {
  // Work.
  uint64_t steps = 0;
  uint64_t prefill_tokens = 0;    // fed without sampling: client text and replays
  uint64_t replayed_tokens = 0;   // of them, to bring a state up to its log
  uint64_t decode_tokens = 0;     // sampled
  uint64_t appended_tokens = 0;   // written by clients
  uint64_t delivered_tokens = 0;  // given to clients, replays included
  uint64_t appends = 0, generations = 0, cancelled = 0;
  uint64_t failed_ops = 0, rejected_ops = 0;  // refused by a full queue
  uint64_t bad_logits = 0;                    // NaN or infinity: refused
  Histogram time_to_first_token_s;            // 0.1 ms doubling to 52 s, from request to delivery
  Histogram inter_token_s;
  Histogram step_s;
  Histogram commit_wait_s;  // per token, sampled to released: the price of commit-before-release
  Histogram restore_s;
  Histogram snapshot_copy_s{.first_bound = 1e-6};  // how long a checkpoint holds up the next step
  Histogram snapshot_upload_s;

  // Now.
  uint32_t slots = 0, slots_used = 0;
  uint32_t open_streams = 0, attachments = 0;
  uint32_t queued_ops = 0, waiting_for_slot = 0;
  uint64_t queued_tokens = 0;
  uint64_t uncommitted_tokens = 0;  // durable-position lag, summed over streams
  uint64_t uncommitted_tokens_of_one_max = 0;
  // Over resident streams, once a second; where states are not in this process's memory, of some
  // streams at a time, so that one may be behind.
  uint64_t cached_pairs = 0, cache_capacity = 0;
  bool draining = false;
  bool model_lost = false;  // a device or a process that runs the model is away

  // Residency and safety.
  uint64_t promotions = 0, demotions = 0, preemptions = 0;
  uint64_t snapshots = 0, snapshot_failures = 0, snapshot_bytes = 0;
  uint64_t restores = 0, recoveries = 0;  // recoveries: the log went beyond the snapshot's position
  uint64_t skipped_snapshots = 0;
  // Restores that went on from what another instruction class had computed last.
  uint64_t class_changes = 0;
  uint64_t fenced_writes = 0;
  uint64_t append_batches = 0, append_retries = 0, lease_renewal_failures = 0;
  uint64_t released_streams = 0;
  uint64_t model_losses = 0;  // each cost all resident states

  RunnerCounters runner;
  memory::MemoryStats memory;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_RUNTIME_STATISTICS_H_
