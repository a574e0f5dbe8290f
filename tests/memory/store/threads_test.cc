// Many threads on one store. Runs under ThreadSanitizer: no gRPC in this process.
#include <atomic>
#include <thread>

#include "tests/memory/store/store_fixture.h"

namespace lola::store {
namespace {

class ThreadsTest : public StoreTest {
 protected:
  static void Run(int threads, const std::function<void(int)>& body) {
    std::vector<std::thread> running;
    for (int i = 0; i < threads; ++i) running.emplace_back(body, i);
    for (std::thread& thread : running) thread.join();
  }
};

TEST_F(ThreadsTest, AppendsOfManyThreadsAreAllThere) {
  constexpr int kThreads = 8;
  constexpr int kAppends = 60;
  for (int i = 0; i < kThreads; ++i) Create("s" + std::to_string(i));
  Run(kThreads, [&](int thread) {
    const std::string id = "s" + std::to_string(thread);
    const uint64_t epoch = Acquire(id);
    for (int i = 0; i < kAppends; ++i) {
      ASSERT_TRUE(Append(id, epoch, uint64_t(i) * 3, Count(i * 3, 3)).ok());
    }
  });
  Reopen();
  for (int i = 0; i < kThreads; ++i) {
    EXPECT_EQ(Tokens("s" + std::to_string(i)), Count(0, kAppends * 3));
  }
  EXPECT_EQ(store_->Stats().log_tokens, uint64_t(kThreads * kAppends * 3));
}

TEST_F(ThreadsTest, OverlappingBatchesDoNotDeadlock) {
  for (int i = 0; i < 6; ++i) {
    Create("s" + std::to_string(i));
    Acquire("s" + std::to_string(i));
  }
  Run(4, [&](int thread) {
    for (int round = 0; round < 50; ++round) {
      v1::AppendBatchRequest request;
      for (int i = 0; i < 6; ++i) {
        AddEntry("s" + std::to_string((i * (thread + 1)) % 7 % 6), 1, 0, {round}, &request);
        if (request.entries_size() == 3) break;
      }
      (void)store_->Append(request);
      (void)Fork("s0", "f" + std::to_string(thread) + "-" + std::to_string(round));
    }
  });
  ExpectClean();
}

TEST_F(ThreadsTest, OneOfManyAcquirersWins) {
  Create("s");
  std::atomic<int> won{0};
  Run(8, [&](int thread) {
    won += store_->Acquire(AcquireRequest("s", "w" + std::to_string(thread))).ok();
  });
  EXPECT_EQ(won, 1);
  EXPECT_EQ(Info("s").owner_epoch(), 1u);
}

TEST_F(ThreadsTest, OneCreatorMakesTheStream) {
  std::atomic<int> made{0};
  Run(8, [&](int thread) {
    v1::CreateStreamRequest request = CreateRequest("s");
    request.set_request_id(std::to_string(thread));
    made += store_->Create(request).ok();
  });
  EXPECT_EQ(made, 1);
  EXPECT_EQ(store_->Stats().streams, 1u);
}

// Every thread has a family of streams to itself, and knows what each of them holds; all meet in
// the collector.
TEST_F(ThreadsTest, LogsThatArePassedOnWhileTheCollectorLooksStayWhole) {
  store_.reset();
  options_.collect_every_ms = 1;
  Reopen();
  Run(4, [&](int thread) {
    std::string id = "s" + std::to_string(thread) + "-";
    Create(id);
    std::vector<int32_t> tokens = Count(0, 1500);
    ASSERT_TRUE(Append(id, Acquire(id), 0, tokens).ok());
    for (int round = 0; round < 25; ++round) {
      const std::string child = "s" + std::to_string(thread) + "-" + std::to_string(round);
      ASSERT_TRUE(Fork(id, child).ok());
      ASSERT_TRUE(store_->Delete(id).ok());
      id = child;
      tokens.resize(tokens.size() - 100 - size_t(round) * 7);
      ASSERT_TRUE(Rewind(id, tokens.size()).ok());
      const std::vector<int32_t> more = Count(round * 10'000, 1300);
      ASSERT_TRUE(Append(id, Acquire(id), tokens.size(), more).ok());
      tokens.insert(tokens.end(), more.begin(), more.end());
      ASSERT_EQ(Tokens(id), tokens) << round;
    }
  });
  ExpectClean();
}

TEST_F(ThreadsTest, AllVerbsTogetherLeaveACleanStore) {
  constexpr int kRounds = 40;
  store_.reset();
  options_.collect_every_ms = 1;
  Reopen();
  for (int i = 0; i < 3; ++i) Create("s" + std::to_string(i));
  Run(6, [&](int thread) {
    for (int round = 0; round < kRounds; ++round) {
      const std::string id = "s" + std::to_string((thread + round) % 3);
      const std::string child = "c" + std::to_string(thread) + "-" + std::to_string(round);
      v1::AcquireRequest acquire = AcquireRequest(id, "w" + std::to_string(thread));
      acquire.set_takeover(true);
      auto owner = store_->Acquire(acquire);
      if (!owner.ok()) continue;
      const uint64_t end = owner->info().committed_position();
      (void)Append(id, owner->epoch(), end, Count(0, 40));
      (void)Put(id, owner->epoch(), end, std::string(300, 'x'));
      for (const auto& snapshot : owner->info().snapshots()) (void)Get(id, snapshot.blob_id());
      (void)Fork(id, child);
      if (round % 3 == 0) (void)Rewind(id, end / 2);
      if (round % 2 == 0) (void)store_->Delete(child);
    }
  });
  ExpectClean();
  const StoreStats before = store_->Stats();
  Reopen();
  EXPECT_EQ(store_->Stats().streams, before.streams);
  EXPECT_EQ(store_->Stats().log_tokens, before.log_tokens);
  EXPECT_EQ(store_->Stats().blobs, before.blobs);
  EXPECT_EQ(store_->Stats().blob_bytes, before.blob_bytes);
  EXPECT_EQ(store_->Stats().owned_streams, before.owned_streams);
}

}  // namespace
}  // namespace lola::store
