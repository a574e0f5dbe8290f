// Any text is either refused or a map in which every partition has one shard.
#include <cstdlib>

#include "memory/cluster/partition_map.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto map =
      lola::memory::PartitionMap::FromJson({reinterpret_cast<const char*>(data), size});
  if (!map.ok()) {
    if (!absl::IsInvalidArgument(map.status())) std::abort();
    return 0;
  }
  size_t served = 0;
  for (const auto& shard : map->shards()) served += shard.partitions.size();
  if (served != map->partitions()) std::abort();
  for (uint32_t id = 0; id < map->partitions(); ++id) (void)map->ShardOfPartition(id);
  return 0;
}
