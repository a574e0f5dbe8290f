// What a gateway counted: plain numbers for services/metrics. GatewayStats is a copy; GatewayCounts
// is the live form, bumped from any thread.
#ifndef LOLA_SERVICES_GATEWAY_GATEWAY_STATS_H_
#define LOLA_SERVICES_GATEWAY_GATEWAY_STATS_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "services/metrics/instruments.h"

namespace lola::gateway {

struct GatewayStats {
  uint64_t calls = 0;           // Stream and Generate calls begun
  uint64_t calls_refused = 0;   // ended by a client's fault (bad request, unknown stream, limits)
  uint64_t calls_failed = 0;    // ended by ours (UNAVAILABLE, INTERNAL, DATA_LOSS)
  uint64_t operator_calls = 0;  // unary calls
  uint64_t operator_failures = 0;
  uint64_t open_streams = 0;      // client calls open now
  uint64_t tokens_delivered = 0;  // model tokens sent to clients, replays included
  uint64_t tokens_appended = 0;
  uint64_t failovers = 0;  // workers lost under an open call
  uint64_t moves = 0;      // calls that followed a released stream
  uint64_t takeovers = 0;  // attachments that asked for a take-over
  uint64_t attach_retries = 0;
  uint64_t position_gaps = 0;        // P4 violations seen: must stay 0
  uint64_t position_duplicates = 0;  // P4 violations seen: must stay 0
  uint64_t workers = 0;
  uint64_t workers_healthy = 0;
  metrics::HistogramData time_to_first_token_seconds;
  metrics::HistogramData inter_token_seconds;
  metrics::HistogramData attach_seconds;  // routing until the worker has opened the stream
};

struct GatewayCounts {
  std::atomic<uint64_t> calls{0}, calls_refused{0}, calls_failed{0}, operator_calls{0},
      operator_failures{0}, open_streams{0}, tokens_delivered{0}, tokens_appended{0}, failovers{0},
      moves{0}, takeovers{0}, attach_retries{0}, position_gaps{0}, position_duplicates{0};
  // 1 ms doubling to 33 s; 0.1 ms doubling to 3.3 s; 1 ms doubling to 33 s.
  metrics::DoublingHistogram time_to_first_token_seconds{1e-3};
  metrics::DoublingHistogram inter_token_seconds{1e-4};
  metrics::DoublingHistogram attach_seconds{1e-3};
};

}  // namespace lola::gateway

#endif  // LOLA_SERVICES_GATEWAY_GATEWAY_STATS_H_
