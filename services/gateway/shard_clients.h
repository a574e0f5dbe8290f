// Stubs of the memory shards, found by stream id through the partition map. Thread-safe.
#ifndef LOLA_SERVICES_GATEWAY_SHARD_CLIENTS_H_
#define LOLA_SERVICES_GATEWAY_SHARD_CLIENTS_H_

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "lola/v1/memory.grpc.pb.h"
#include "memory/cluster/partition_map.h"

namespace lola::gateway {

class ShardClients {
 public:
  // `channels` by shard id. Error: INVALID_ARGUMENT naming a shard of the map without a channel.
  static absl::StatusOr<std::unique_ptr<ShardClients>> Create(
      memory::PartitionMap map,
      const std::map<std::string, std::shared_ptr<grpc::Channel>>& channels);

  const memory::PartitionMap& map() const { return map_; }
  const memory::ShardPlace& PlaceOf(std::string_view stream_id) const {
    return map_.ShardOf(stream_id);
  }
  v1::Memory::Stub& StubOf(std::string_view stream_id) const {
    return *stubs_.at(PlaceOf(stream_id).shard_id);
  }
  v1::Memory::Stub& StubOfShard(const std::string& shard_id) const { return *stubs_.at(shard_id); }

 private:
  explicit ShardClients(memory::PartitionMap map) : map_(std::move(map)) {}
  const memory::PartitionMap map_;
  std::map<std::string, std::unique_ptr<v1::Memory::Stub>> stubs_;
};

}  // namespace lola::gateway

#endif  // LOLA_SERVICES_GATEWAY_SHARD_CLIENTS_H_
