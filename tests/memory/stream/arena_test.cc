#include "memory/stream/arena.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <set>
#include <thread>

namespace lola::memory {
namespace {

using ::testing::HasSubstr;

TEST(ArenaTest, HandsOutDisjointPageAlignedRecords) {
  auto arena = StreamArena::Create(8192, 3);
  ASSERT_TRUE(arena.ok());
  std::set<std::byte*> starts;
  for (int i = 0; i < 3; ++i) {
    const absl::StatusOr<size_t> slot = (*arena)->Acquire();
    ASSERT_TRUE(slot.ok());
    const std::span<std::byte> record = (*arena)->record(*slot);
    EXPECT_EQ(record.size(), 8192u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(record.data()) % 4096, 0u);
    std::memset(record.data(), i, record.size());
    starts.insert(record.data());
  }
  EXPECT_EQ(starts.size(), 3u);
  EXPECT_EQ(*(*arena)->record(0).data(), std::byte{0});
  EXPECT_EQ(*(*arena)->record(2).data(), std::byte{2});
}

TEST(ArenaTest, RefusesWhenFullAndServesAgainAfterRelease) {
  auto arena = StreamArena::Create(4096, 2);
  ASSERT_TRUE(arena.ok());
  ASSERT_TRUE((*arena)->Acquire().ok());
  ASSERT_TRUE((*arena)->Acquire().ok());
  const absl::Status full = (*arena)->Acquire().status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()), HasSubstr("2 of 2"));
  (*arena)->Release(0);
  EXPECT_EQ((*arena)->used(), 1u);
  EXPECT_EQ((*arena)->Acquire().value(), 0u);
}

TEST(ArenaTest, RefusesSizesThatMakeNoArena) {
  EXPECT_EQ(StreamArena::Create(5000, 1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(StreamArena::Create(0, 1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(StreamArena::Create(4096, 0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(StreamArena::Create(4096, SIZE_MAX / 4096).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(StreamArena::Create(size_t{1} << 40, 1 << 7).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(ArenaTest, ThreadsNeverShareASlot) {
  auto arena = StreamArena::Create(4096, 4);
  ASSERT_TRUE(arena.ok());
  std::atomic<int> owners[4] = {};
  std::atomic<int> clashes{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        const absl::StatusOr<size_t> slot = (*arena)->Acquire();
        if (!slot.ok()) continue;
        if (owners[*slot].fetch_add(1) != 0) ++clashes;
        owners[*slot].fetch_sub(1);
        (*arena)->Release(*slot);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(clashes.load(), 0);
  EXPECT_EQ((*arena)->used(), 0u);
}

TEST(ArenaDeathTest, ReleasingTwiceIsAProgrammersError) {
  auto arena = StreamArena::Create(4096, 1);
  ASSERT_TRUE(arena.ok());
  EXPECT_DEATH((*arena)->Release(0), "slot 0 of 1");
}

}  // namespace
}  // namespace lola::memory
