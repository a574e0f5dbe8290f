#include "memory/cluster/partition_map.h"

#include <algorithm>
#include <initializer_list>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "memory/env/file_env.h"
#include "nlohmann/json.hpp"

namespace lola::memory {
namespace {

using Json = nlohmann::json;

absl::Status Wrong(const std::string& message) {
  return absl::InvalidArgumentError("partition map: " + message);
}

absl::Status CheckKeys(const Json& object, const std::string& where,
                       std::initializer_list<const char*> known) {
  if (!object.is_object()) return Wrong(where + " is not an object");
  for (const auto& [key, value] : object.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      return Wrong(absl::StrCat(where, " has the unknown key ", Quoted(key)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Number(const Json& value, const std::string& what, uint64_t max) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > max) {
    return Wrong(
        absl::StrCat(what, " is ", Quoted(value.dump()), ", wants a number of at most ", max));
  }
  return value.get<uint64_t>();
}

absl::StatusOr<std::string> Text(const Json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end()) return Wrong(absl::StrCat(where, " lacks ", key));
  if (!found->is_string()) return Wrong(absl::StrCat(where, ": ", key, " is not a string"));
  return found->get<std::string>();
}

// "7" or "0-31", both ends inside.
absl::Status AddRange(const std::string& text, const std::string& where,
                      std::vector<PartitionId>* out) {
  const size_t dash = text.find('-');
  uint32_t first = 0;
  uint32_t last = 0;
  const bool readable =
      absl::SimpleAtoi(text.substr(0, dash), &first) &&
      absl::SimpleAtoi(dash == std::string::npos ? text : text.substr(dash + 1), &last);
  if (!readable || last < first || last >= kPartitionsMax) {
    return Wrong(absl::StrCat(where, ": partitions ", Quoted(text),
                              " is no number or range such as \"0-31\" below ", kPartitionsMax));
  }
  for (PartitionId id = first; id <= last; ++id) out->push_back(id);
  return absl::OkStatus();
}

absl::Status AddPartitions(const Json& value, const std::string& where,
                           std::vector<PartitionId>* out) {
  if (value.is_string()) return AddRange(value.get<std::string>(), where, out);
  if (value.is_number()) {
    auto id = Number(value, where + ": a partition", kPartitionsMax - 1);
    if (!id.ok()) return id.status();
    out->push_back(PartitionId(*id));
    return absl::OkStatus();
  }
  return Wrong(where + ": partitions holds something that is neither number nor range");
}

absl::StatusOr<ShardPlace> ReadShard(const Json& json, size_t index) {
  const std::string where = absl::StrCat("shards[", index, "]");
  if (absl::Status status = CheckKeys(json, where, {"id", "address", "partitions"}); !status.ok()) {
    return status;
  }
  ShardPlace shard;
  auto id = Text(json, "id", where);
  if (!id.ok()) return id.status();
  shard.shard_id = *std::move(id);
  auto address = Text(json, "address", where);
  if (!address.ok()) return address.status();
  shard.address = *std::move(address);
  const auto partitions = json.find("partitions");
  if (partitions == json.end()) return Wrong(where + " lacks partitions");
  const Json list = partitions->is_array() ? *partitions : Json::array({*partitions});
  if (list.size() > kPartitionsMax) return Wrong(where + ": partitions is too long");
  for (const Json& part : list) {
    if (absl::Status status = AddPartitions(part, where, &shard.partitions); !status.ok()) {
      return status;
    }
    if (shard.partitions.size() > kPartitionsMax) return Wrong(where + ": partitions repeat");
  }
  return shard;
}

}  // namespace

absl::StatusOr<PartitionMap> PartitionMap::FromJson(std::string_view text) {
  // Without exceptions: an unreadable text gives a discarded value.
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return Wrong("is not JSON");
  if (absl::Status status = CheckKeys(json, "the file", {"revision", "partitions", "shards"});
      !status.ok()) {
    return status;
  }
  if (!json.contains("partitions")) return Wrong("lacks partitions");
  auto partitions = Number(json["partitions"], "partitions", kPartitionsMax);
  if (!partitions.ok()) return partitions.status();
  uint64_t revision = 1;
  if (json.contains("revision")) {
    auto number = Number(json["revision"], "revision", ~uint64_t{0});
    if (!number.ok()) return number.status();
    revision = *number;
  }
  if (!json.contains("shards") || !json["shards"].is_array()) {
    return Wrong("lacks shards, a list");
  }
  std::vector<ShardPlace> shards;
  if (json["shards"].size() > kShardsMax) {
    return Wrong(absl::StrCat("has ", json["shards"].size(), " shards, at most ", kShardsMax));
  }
  for (const Json& entry : json["shards"]) {
    auto shard = ReadShard(entry, shards.size());
    if (!shard.ok()) return shard.status();
    shards.push_back(*std::move(shard));
  }
  return FromShards(uint32_t(*partitions), std::move(shards), revision);
}

absl::StatusOr<PartitionMap> PartitionMap::LoadFile(const std::string& path) {
  auto text = ReadWholeFile(*FileEnv::Real(), path);
  if (!text.ok()) return text.status();
  auto map = FromJson(*text);
  if (map.ok()) return map;
  return absl::Status(map.status().code(),
                      absl::StrCat(path, ": ", std::string(map.status().message())));
}

absl::StatusOr<PartitionMap> PartitionMap::FromShards(uint32_t partitions,
                                                      std::vector<ShardPlace> shards,
                                                      uint64_t revision) {
  if (partitions == 0 || partitions > kPartitionsMax) {
    return Wrong(absl::StrCat("partitions is ", partitions, ", wants 1 to ", kPartitionsMax));
  }
  if (shards.size() > kShardsMax) {
    return Wrong(absl::StrCat("has ", shards.size(), " shards, at most ", kShardsMax));
  }
  constexpr uint32_t kNobody = ~uint32_t{0};
  PartitionMap map;
  map.revision_ = revision;
  map.shard_of_.assign(partitions, kNobody);
  std::set<std::string> names;
  for (uint32_t i = 0; i < shards.size(); ++i) {
    ShardPlace& shard = shards[i];
    if (shard.shard_id.empty()) return Wrong(absl::StrCat("shards[", i, "]: id is empty"));
    if (!names.insert(shard.shard_id).second) {
      return Wrong(absl::StrCat("shard id ", Quoted(shard.shard_id), " is used twice"));
    }
    std::sort(shard.partitions.begin(), shard.partitions.end());
    for (const PartitionId id : shard.partitions) {
      if (id >= partitions) {
        return Wrong(absl::StrCat("shard ", Quoted(shard.shard_id), ": partition ", id,
                                  " is not below partitions = ", partitions));
      }
      if (map.shard_of_[id] != kNobody) {
        return Wrong(absl::StrCat("partition ", id, " is served by ",
                                  Quoted(shards[map.shard_of_[id]].shard_id), " and by ",
                                  Quoted(shard.shard_id)));
      }
      map.shard_of_[id] = i;
    }
  }
  for (PartitionId id = 0; id < partitions; ++id) {
    if (map.shard_of_[id] == kNobody) {
      return Wrong(absl::StrCat("partition ", id, " is served by no shard"));
    }
  }
  map.shards_ = std::move(shards);
  return map;
}

PartitionMap PartitionMap::SingleShard(std::string shard_id, std::string address,
                                       uint32_t partitions) {
  ShardPlace shard{std::move(shard_id), std::move(address), {}};
  for (PartitionId id = 0; id < partitions; ++id) shard.partitions.push_back(id);
  PartitionMap map;
  map.shards_.push_back(std::move(shard));
  map.shard_of_.assign(partitions, 0);
  return map;
}

const ShardPlace& PartitionMap::ShardOfPartition(PartitionId partition) const {
  return shards_[shard_of_.at(partition)];
}

const ShardPlace* PartitionMap::FindShard(std::string_view shard_id) const {
  for (const ShardPlace& shard : shards_) {
    if (shard.shard_id == shard_id) return &shard;
  }
  return nullptr;
}

}  // namespace lola::memory
