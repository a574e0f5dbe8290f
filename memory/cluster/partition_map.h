#ifndef LOLA_MEMORY_CLUSTER_PARTITION_MAP_H_
#define LOLA_MEMORY_CLUSTER_PARTITION_MAP_H_

// Which shard serves which part of the stream space. A value: immutable after creation, any thread.
// The static map is a JSON file:
//   {"revision": 1, "partitions": 64,
//    "shards": [{"id": "shard-0", "address": "127.0.0.1:50071", "partitions": "0-31"},
//               {"id": "shard-1", "address": "127.0.0.1:50072", "partitions": [32, "33-63"]}]}
// Every partition belongs to exactly one shard. INVALID_ARGUMENT names what is wrong: a missing or
// doubly served partition, a number outside the range, an unknown key, a shard named twice.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "memory/ids.h"
#include "memory/limits.h"

namespace lola::memory {

struct ShardPlace {
  std::string shard_id;
  std::string address;                  // "host:port"
  std::vector<PartitionId> partitions;  // ascending
};

class PartitionMap {
 public:
  static absl::StatusOr<PartitionMap> FromJson(std::string_view json);
  // As FromJson; errors name the file.
  static absl::StatusOr<PartitionMap> LoadFile(const std::string& path);
  static absl::StatusOr<PartitionMap> FromShards(uint32_t partitions,
                                                 std::vector<ShardPlace> shards,
                                                 uint64_t revision = 1);
  // One shard that serves everything.
  static PartitionMap SingleShard(std::string shard_id, std::string address,
                                  uint32_t partitions = kPartitionsDefault);

  uint64_t revision() const { return revision_; }
  uint32_t partitions() const { return uint32_t(shard_of_.size()); }
  const std::vector<ShardPlace>& shards() const { return shards_; }

  PartitionId PartitionOf(std::string_view stream_id) const {
    return memory::PartitionOf(stream_id, partitions());
  }
  const ShardPlace& ShardOf(std::string_view stream_id) const {
    return shards_[shard_of_[PartitionOf(stream_id)]];
  }
  // REQUIRES: partition < partitions().
  const ShardPlace& ShardOfPartition(PartitionId partition) const;
  // Null when no shard has this id.
  const ShardPlace* FindShard(std::string_view shard_id) const;

 private:
  PartitionMap() = default;

  uint64_t revision_ = 1;
  std::vector<ShardPlace> shards_;
  std::vector<uint32_t> shard_of_;  // partition -> index into shards_
};

}  // namespace lola::memory

#endif  // LOLA_MEMORY_CLUSTER_PARTITION_MAP_H_
