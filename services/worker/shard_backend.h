// The engine's StreamBackend over lola.v1.Memory: finds the shard of a stream by the partition map
// and speaks for one worker instance. Makes one attempt per call; the engine decides what to
// repeat. Thread-safe; nothing blocks. Callbacks run on gRPC threads.
#ifndef LOLA_SERVICES_WORKER_SHARD_BACKEND_H_
#define LOLA_SERVICES_WORKER_SHARD_BACKEND_H_

#include <chrono>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "memory/cluster/partition_map.h"
#include "services/engine/runtime/stream_backend.h"

namespace grpc {
class Channel;
}

namespace lola::worker {

struct ShardBackendOptions {
  memory::PartitionMap map = memory::PartitionMap::SingleShard("shard-0", "");
  std::map<std::string, std::shared_ptr<grpc::Channel>> shards;  // by shard id
  std::string instance;                                          // new for every process start
  std::chrono::milliseconds lease{5'000};
  std::chrono::milliseconds deadline{5'000};             // of one small call
  std::chrono::milliseconds transfer_deadline{120'000};  // of one snapshot
};

class ShardBackend : public engine::StreamBackend {
 public:
  // INVALID_ARGUMENT naming a shard of the map that has no channel.
  static absl::StatusOr<std::shared_ptr<ShardBackend>> Create(ShardBackendOptions options);
  // The address written into records as owner: known once the server listens. Before the first
  // Acquire.
  virtual void SetAddress(std::string address) = 0;
};

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_SHARD_BACKEND_H_
