// Limits and policies of the engine, each with its default. Plain values.
#ifndef LOLA_SERVICES_ENGINE_RUNTIME_OPTIONS_H_
#define LOLA_SERVICES_ENGINE_RUNTIME_OPTIONS_H_

#include <chrono>
#include <cstdint>

#include "absl/status/status.h"

namespace lola::engine {

struct EngineOptions {
  // Residency.
  uint32_t slots = 64;                              // states in memory at the same time
  uint64_t slot_bytes = 0;                          // 0 = what the model's default settings need
  uint32_t open_streams_max = 4096;                 // owned streams, resident or not
  std::chrono::milliseconds idle_demote{30'000};    // an idle state leaves its slot
  std::chrono::milliseconds idle_release{300'000};  // an idle stream without clients is given back
  // A running stream gives its slot to a waiting one after this long.
  std::chrono::milliseconds slot_slice{2'000};

  // Batching. Rows are tokens fed in one pass of the model.
  uint32_t step_rows = 0;  // 0 = as many as the runner takes
  // Of them, for prefill while others decode; 0 = an eighth, but at least 64 where they fit.
  uint32_t prefill_rows_beside_decode = 0;

  // Queues.
  uint32_t ops_per_stream_max = 64;
  uint64_t queued_tokens_per_stream_max = 1u << 20;
  uint64_t queued_tokens_max = 1u << 24;  // over all streams
  uint64_t unconsumed_tokens_max = 1u
                                   << 15;  // an append waits while so many are ahead of the state
  std::chrono::milliseconds retry_hint{200};  // told with RESOURCE_EXHAUSTED

  // Durability.
  uint32_t uncommitted_tokens_max = 8;  // sampled tokens of a stream not yet acknowledged
  uint64_t append_batch_tokens_max = 1u << 18;
  uint32_t append_batch_streams_max = 4096;  // a shard refuses more
  uint64_t checkpoint_tokens = 2048;         // at most so many tokens behind an automatic snapshot
  uint32_t snapshot_buffers = 4;             // state copies on their way to shards
  uint32_t snapshot_attempts = 4;
  std::chrono::milliseconds lease_renewal{1'000};

  // A shard that is away: streams wait, then fail with UNAVAILABLE.
  std::chrono::milliseconds unavailable_deadline{60'000};
  std::chrono::milliseconds retry_first{50};
  std::chrono::milliseconds retry_max{1'000};

  // A scheduler that has not gone round for so long is stuck: longer than any step.
  std::chrono::milliseconds stuck_after{120'000};

  uint32_t replay_page_tokens = 8192;  // log tokens in memory while a state is replayed

  // INVALID_ARGUMENT naming the field and its value.
  absl::Status Validate() const;
  // Puts numbers in the place of zeros that stand for what suits a runner of `rows_max` rows.
  // INVALID_ARGUMENT as Validate, or when the runner takes fewer than step_rows.
  absl::Status FitRows(size_t rows_max);
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_RUNTIME_OPTIONS_H_
