// A stage of a pipeline over gRPC, as the engine sees it. One thread per link connects, again and
// again while it is asked to, with growing pauses, and reads what the stage sends; one ends the
// session when an answer does not come at all.
#ifndef LOLA_SERVICES_WORKER_STAGE_CLIENT_H_
#define LOLA_SERVICES_WORKER_STAGE_CLIENT_H_

#include <chrono>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "services/engine/pipeline/stage_link.h"
#include "services/engine/runtime/statistics.h"

namespace grpc {
class Channel;
}  // namespace grpc

namespace lola::worker {

struct StageEndpoint {
  std::string address;
  std::shared_ptr<grpc::Channel> channel;
  std::string hint;  // what may be wrong with our options when nobody answers; may be empty
  // Connections that are cut are seen within two seconds. This is for a stage that is there and
  // does not go on: it must be longer than its slowest step.
  std::chrono::milliseconds answer_within{60'000};
};

// What a link counts.
struct StageLinkStats {
  std::string address;
  engine::LayerRange layers;
  std::string instruction_class;
  bool open = false;
  uint64_t sessions = 0;                        // opened; all but the first are reconnects
  uint64_t bytes_sent = 0, bytes_received = 0;  // payloads
  engine::Histogram round_trip_s;               // of a step, the stage's own work included
};

// Thread-safe.
class StageLinkCounters {
 public:
  StageLinkCounters(std::string address, const engine::LayerRange& layers,
                    std::string instruction_class) {
    stats_.address = std::move(address);
    stats_.layers = layers;
    stats_.instruction_class = std::move(instruction_class);
  }
  StageLinkStats Now() const {
    std::lock_guard lock(mu_);
    return stats_;
  }
  template <typename Change>
  void Update(const Change& change) {
    std::lock_guard lock(mu_);
    change(stats_);
  }

 private:
  mutable std::mutex mu_;
  StageLinkStats stats_;  // guarded by mu_
};

struct StageLinkPair {
  std::unique_ptr<engine::StageLink> link;
  std::shared_ptr<const StageLinkCounters> counters;
};

// Asks the stage which layers it has; asks again until `patience` is over while it cannot be
// reached. FAILED_PRECONDITION when it is older than this worker can use, UNAVAILABLE naming the
// address; UNIMPLEMENTED when something else listens there.
absl::StatusOr<StageLinkPair> ConnectStage(const StageEndpoint& endpoint,
                                           std::chrono::milliseconds patience);

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_STAGE_CLIENT_H_
