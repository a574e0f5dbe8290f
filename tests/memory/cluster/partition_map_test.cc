#include "memory/cluster/partition_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "memory/env/file_env.h"
#include "memory/env/random.h"

namespace lola::memory {
namespace {

using ::testing::HasSubstr;

constexpr char kTwoShards[] = R"({"revision": 7, "partitions": 8, "shards": [
  {"id": "a", "address": "h1:1", "partitions": "0-3"},
  {"id": "b", "address": "h2:2", "partitions": [7, "4-6"]}]})";

TEST(PartitionMap, ReadsListsAndRanges) {
  const auto map = PartitionMap::FromJson(kTwoShards);
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_EQ(map->revision(), 7u);
  EXPECT_EQ(map->partitions(), 8u);
  EXPECT_EQ(map->shards()[1].partitions, (std::vector<PartitionId>{4, 5, 6, 7}));
  EXPECT_EQ(map->ShardOfPartition(3).shard_id, "a");
  EXPECT_EQ(map->ShardOfPartition(4).address, "h2:2");
  EXPECT_EQ(map->FindShard("b")->address, "h2:2");
  EXPECT_EQ(map->FindShard("c"), nullptr);
}

TEST(PartitionMap, EveryStreamHasTheShardOfItsPartition) {
  const auto map = PartitionMap::FromJson(kTwoShards);
  ASSERT_TRUE(map.ok());
  int of_a = 0;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = "stream-" + std::to_string(i);
    EXPECT_EQ(&map->ShardOf(id), &map->ShardOfPartition(PartitionOf(id, 8)));
    of_a += map->ShardOf(id).shard_id == "a";
  }
  EXPECT_NEAR(of_a, 500, 100);
}

TEST(PartitionMap, SingleShardServesEverything) {
  const PartitionMap map = PartitionMap::SingleShard("only", "here");
  EXPECT_EQ(map.partitions(), kPartitionsDefault);
  EXPECT_EQ(map.shards()[0].partitions.size(), kPartitionsDefault);
  EXPECT_EQ(map.ShardOf("anything").shard_id, "only");
}

struct BadMap {
  const char* json;
  const char* says;
};

class BadPartitionMapTest : public ::testing::TestWithParam<BadMap> {};

TEST_P(BadPartitionMapTest, IsRefusedByName) {
  const absl::Status status = PartitionMap::FromJson(GetParam().json).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadPartitionMapTest,
    ::testing::Values(
        BadMap{"", "not JSON"}, BadMap{"[]", "not an object"},
        BadMap{R"({"partitions": 2, "shards": [], "colour": 1})", "unknown key \"colour\""},
        BadMap{R"({"shards": []})", "lacks partitions"},
        BadMap{R"({"partitions": 2})", "lacks shards"},
        BadMap{R"({"partitions": 0, "shards": []})", "partitions is 0"},
        BadMap{R"({"partitions": 1e9, "shards": []})", "partitions is"},
        BadMap{R"({"partitions": -1, "shards": []})", "partitions is"},
        BadMap{R"({"partitions": 2, "shards": []})", "partition 0 is served by no shard"},
        BadMap{R"({"partitions": 2, "shards": [{"id": "a", "address": "x", "partitions": "0"}]})",
               "partition 1 is served by no shard"},
        BadMap{R"({"partitions": 2, "shards": [{"id": "a", "address": "x", "partitions": "0-1"},
                  {"id": "b", "address": "x", "partitions": [1]}]})",
               "partition 1 is served by \"a\" and by \"b\""},
        BadMap{R"({"partitions": 2, "shards": [{"id": "a", "address": "x", "partitions": "0-2"}]})",
               "partition 2 is not below partitions = 2"},
        BadMap{R"({"partitions": 2, "shards": [{"id": "a", "address": "x", "partitions": "1-0"}]})",
               "\"1-0\""},
        BadMap{R"({"partitions": 2, "shards": [{"id": "a", "address": "x", "partitions": "0-x"}]})",
               "\"0-x\""},
        BadMap{R"({"partitions": 1, "shards": [{"address": "x", "partitions": "0"}]})", "lacks id"},
        BadMap{R"({"partitions": 1, "shards": [{"id": "a", "partitions": "0"}]})", "lacks address"},
        BadMap{R"({"partitions": 1, "shards": [{"id": "a", "address": "x"}]})", "lacks partitions"},
        BadMap{R"({"partitions": 1, "shards": [{"id": 4, "address": "x", "partitions": "0"}]})",
               "id is not a string"},
        BadMap{R"({"partitions": 1, "shards": [{"id": "a", "adress": "x", "partitions": "0"}]})",
               "shards[0] has the unknown key \"adress\""},
        BadMap{R"({"partitions": 2, "shards": [{"id": "a", "address": "x", "partitions": "0"},
                  {"id": "a", "address": "y", "partitions": "1"}]})",
               "\"a\" is used twice"}));

TEST(PartitionMap, ErrorsOfAFileNameTheFile) {
  const std::string path = ::testing::TempDir() + "/map_" + NewUid() + ".json";
  EXPECT_EQ(PartitionMap::LoadFile(path).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(WriteWholeFile(*FileEnv::Real(), path, "{").ok());
  EXPECT_THAT(std::string(PartitionMap::LoadFile(path).status().message()), HasSubstr(path));
  ASSERT_TRUE(FileEnv::Real()->Remove(path).ok());
}

}  // namespace
}  // namespace lola::memory
