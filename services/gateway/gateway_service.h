// The gateway: lola.v1.Inference and lola.v1.Cluster over workers and shards. Keeps nothing: any
// gateway serves any stream. Usable in a process of its own (main.cc) or inside another one.
//
//   auto gateway = GatewayService::Create(options);        // starts asking workers how they are
//   Server::Start(server_options, (*gateway)->services());
//   ...
//   (*gateway)->Drain(deadline); server->Shutdown(grace); (*gateway)->Stop();   // then destroy
//
// Every method may be called from any thread.
#ifndef LOLA_SERVICES_GATEWAY_GATEWAY_SERVICE_H_
#define LOLA_SERVICES_GATEWAY_GATEWAY_SERVICE_H_

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "memory/cluster/partition_map.h"
#include "services/gateway/gateway_stats.h"

namespace grpc {
class Channel;
class Service;
}  // namespace grpc

namespace lola::gateway {

struct GatewayOptions {
  memory::PartitionMap map = memory::PartitionMap::SingleShard("shard-0", "");
  // Channel per shard id and per worker address; the address is the one workers write into stream
  // records.
  std::map<std::string, std::shared_ptr<grpc::Channel>> shards;
  std::vector<std::pair<std::string, std::shared_ptr<grpc::Channel>>> workers;
  std::string peer_hint;  // added to what is told about workers that do not answer; may be empty
  std::chrono::milliseconds outage_max{30000};     // a call without a worker ends after this
  std::chrono::milliseconds health_every{1000};    // workers are asked how they are
  std::chrono::milliseconds shard_deadline{2000};  // one question to a shard while routing
  uint64_t calls_max = 16384;  // Stream and Generate calls open now; more are refused
  size_t operator_threads = 8;
  size_t operator_queue_max = 256;
};

class GatewayService {
 public:
  // INVALID_ARGUMENT: no workers, no calls, a worker named twice or asked all the time, a shard
  // without a channel.
  static absl::StatusOr<std::unique_ptr<GatewayService>> Create(const GatewayOptions& options);
  virtual ~GatewayService() = default;

  // To be registered on a server builder; owned by this object, which must outlive the server.
  virtual std::vector<grpc::Service*> services() = 0;
  virtual GatewayStats Stats() const = 0;

  // Ends idle client calls at once, busy ones when their operation is done, all at the deadline.
  // Clients get UNAVAILABLE and attach to another gateway.
  virtual void Drain(std::chrono::milliseconds deadline) = 0;
  virtual void Stop() = 0;
};

}  // namespace lola::gateway

#endif  // LOLA_SERVICES_GATEWAY_GATEWAY_SERVICE_H_
