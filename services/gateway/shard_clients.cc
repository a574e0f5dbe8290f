#include "services/gateway/shard_clients.h"

#include <grpcpp/channel.h>

namespace lola::gateway {

absl::StatusOr<std::unique_ptr<ShardClients>> ShardClients::Create(
    memory::PartitionMap map,
    const std::map<std::string, std::shared_ptr<grpc::Channel>>& channels) {
  auto clients = std::unique_ptr<ShardClients>(new ShardClients(std::move(map)));
  for (const memory::ShardPlace& place : clients->map_.shards()) {
    const auto found = channels.find(place.shard_id);
    if (found == channels.end()) {
      return absl::InvalidArgumentError("shard '" + place.shard_id + "' at '" + place.address +
                                        "' has no channel");
    }
    clients->stubs_[place.shard_id] = v1::Memory::NewStub(found->second);
  }
  return clients;
}

}  // namespace lola::gateway
