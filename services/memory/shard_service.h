#ifndef LOLA_SERVICES_MEMORY_SHARD_SERVICE_H_
#define LOLA_SERVICES_MEMORY_SHARD_SERVICE_H_

// The gRPC service lola.v1.Memory over one StreamStore: one shard of the stream space. Usable in a
// process of its own (main.cc) or inside another one over an in-process channel.
//
//   auto shard = ShardService::Create(options);            // opens the store
//   builder.RegisterService((*shard)->service());          // before BuildAndStart
//   ...
//   (*shard)->Drain();                                     // new calls: UNAVAILABLE
//   server->Shutdown(deadline); (*shard)->Stop();          // then destroy
//
// Disk work runs on the service's own threads, never in a gRPC callback. When more than `queue_max`
// calls wait for one, or send snapshots or tokens, a call is refused with RESOURCE_EXHAUSTED.
// Streams of partitions that the map gives to another shard are refused with FAILED_PRECONDITION
// naming the partition and its shard. Every method may be called from any thread.

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "memory/cluster/partition_map.h"
#include "memory/limits.h"
#include "memory/store/stream_store.h"
#include "services/memory/shard_stats.h"

namespace grpc {
class Service;
}

namespace lola::shard {

struct ShardOptions {
  std::string shard_id = "shard-0";  // must be in the map
  memory::PartitionMap map = memory::PartitionMap::SingleShard("shard-0", "");
  store::StoreOptions store;  // `directory` is required; `partitions` is taken from the map
  size_t threads = memory::kShardThreadsDefault;
  size_t queue_max = memory::kShardQueueMax;
};

class ShardService {
 public:
  static absl::StatusOr<std::unique_ptr<ShardService>> Create(const ShardOptions& options);
  virtual ~ShardService() = default;

  // To be registered on a server builder; owned by this object, which must outlive the server.
  virtual grpc::Service* service() = 0;
  virtual ShardStats Stats() const = 0;
  // OK, or why this shard must be started anew: its disk failed and nothing can be written any
  // more.
  virtual absl::Status Health() const = 0;

  // New calls are refused with UNAVAILABLE; running ones end.
  virtual void Drain() = 0;
  // Waits for running calls' disk work and closes the store. The server must be shut down.
  virtual void Stop() = 0;
};

}  // namespace lola::shard

#endif  // LOLA_SERVICES_MEMORY_SHARD_SERVICE_H_
