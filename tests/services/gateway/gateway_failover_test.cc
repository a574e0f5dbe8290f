// Calls that stay open while workers die, release streams or misbehave.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/services/gateway/world.h"

namespace lola::gateway {
namespace {

using ::testing::HasSubstr;

TEST_F(GatewayWorld, WorkerDyingInMidGenerationIsInvisible) {
  auto client = Open("s");
  client->Append("a", "hello");
  ASSERT_TRUE(client->ReadUntilDone("a"));
  FakeWorker& first = Owner("s");
  first.dies_after = 20;  // with three tokens logged that nobody saw
  client->Generate("g", 60);
  ASSERT_TRUE(client->ReadUntilDone("g")) << client->call->Finish().error_message();
  EXPECT_EQ(client->tokens, Expected(5, 60));
  EXPECT_EQ(client->moved, 1);
  EXPECT_TRUE(first.dead);
  EXPECT_TRUE(client->End().ok());
  const GatewayStats stats = gateway_->Stats();
  EXPECT_EQ(stats.failovers, 1u);
  EXPECT_EQ(stats.position_gaps + stats.position_duplicates, 0u);
}

TEST_F(GatewayWorld, SecondDeathIsSurvivedWhenTheFirstWorkerIsBack) {
  auto client = Open("s");
  client->Append("a", "hello");
  ASSERT_TRUE(client->ReadUntilDone("a"));
  FakeWorker& first = Owner("s");
  FakeWorker& second = Other("s");
  first.dies_after = 10;
  second.dies_after = 10;
  client->Generate("g", 40);
  std::thread medic([&] {
    while (!second.dead) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    first.dies_after = -1;
    first.dead = false;
  });
  const bool done = client->ReadUntilDone("g");
  medic.join();
  ASSERT_TRUE(done) << client->call->Finish().error_message();
  EXPECT_EQ(client->tokens, Expected(5, 40));
}

TEST_F(GatewayWorld, QueuedOperationsAreCarriedOutOnceAfterADeath) {
  auto client = Open("s");
  client->Append("a", "hello");
  ASSERT_TRUE(client->ReadUntilDone("a"));
  Owner("s").dies_after = 10;
  client->Generate("g1", 20);
  client->Append("b", "more");
  client->Generate("g2", 15);
  ASSERT_TRUE(client->ReadUntilDone("g2")) << client->call->Finish().error_message();
  std::vector<int32_t> expected = Expected(5, 20);
  const std::vector<int32_t> tail = Expected(29, 15);
  expected.insert(expected.end(), tail.begin(), tail.end());
  EXPECT_EQ(client->tokens, expected);
  std::lock_guard lock(store_.mu);
  EXPECT_EQ(store_.streams["s"].ids.size(), 44u);
}

TEST_F(GatewayWorld, MigrationUnderAnOpenGenerationIsInvisible) {
  auto client = Open("s");
  client->Append("a", "hello");
  ASSERT_TRUE(client->ReadUntilDone("a"));
  const std::string source = OwnerOf("s");
  client->Generate("g", 400);
  std::thread mover([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    grpc::ClientContext context;
    v1::MigrateRequest request;
    request.set_stream_id("s");
    v1::MigrateReply reply;
    const grpc::Status status = cluster_->Migrate(&context, request, &reply);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(reply.source(), source);
    EXPECT_NE(reply.target(), source);
  });
  const bool done = client->ReadUntilDone("g");
  mover.join();
  ASSERT_TRUE(done) << client->call->Finish().error_message();
  EXPECT_EQ(client->tokens, Expected(5, 400));
  EXPECT_NE(OwnerOf("s"), source);
  EXPECT_EQ(client->moved, 1);
}

TEST_F(GatewayWorld, IdleClientFollowsAReleasedStreamWithItsNextOperation) {
  auto client = Open("s");
  client->Append("a", "hello");
  ASSERT_TRUE(client->ReadUntilDone("a"));
  const std::string source = OwnerOf("s");
  grpc::ClientContext context;
  v1::MigrateRequest request;
  request.set_stream_id("s");
  v1::MigrateReply reply;
  ASSERT_TRUE(cluster_->Migrate(&context, request, &reply).ok());
  client->Generate("g", 5);
  ASSERT_TRUE(client->ReadUntilDone("g")) << client->call->Finish().error_message();
  EXPECT_EQ(client->tokens, Expected(5, 5));
  EXPECT_NE(OwnerOf("s"), source);
}

// What failed in an outage long over must not be taken for lost when it is well again.
TEST_F(GatewayWorld, AWorkerThatIsBackIsNotOverruledForAnOldDeath) {
  auto client = Open("s");
  client->Append("a", "hello");
  ASSERT_TRUE(client->ReadUntilDone("a"));
  FakeWorker& first = Owner("s");
  const std::string address = OwnerOf("s");
  first.dies_after = 5;
  client->Generate("g", 20);
  ASSERT_TRUE(client->ReadUntilDone("g"));
  first.dies_after = -1;
  first.dead = false;
  while (gateway_->Stats().workers_healthy < 2) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  // Without a word to this gateway the stream goes back there.
  v1::ReleaseStreamRequest release;
  release.set_stream_id("s");
  v1::ReleaseStreamReply released;
  ASSERT_TRUE(Owner("s").Release(nullptr, &release, &released).ok());
  v1::PrepareStreamRequest prepare;
  prepare.set_stream_id("s");
  v1::PrepareStreamReply prepared;
  ASSERT_TRUE(first.Prepare(nullptr, &prepare, &prepared).ok());
  const uint64_t takeovers = gateway_->Stats().takeovers;
  // The released call ends first: the next operation looks for the stream.
  while (gateway_->Stats().moves < 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  client->Generate("h", 5);
  ASSERT_TRUE(client->ReadUntilDone("h"));
  EXPECT_EQ(OwnerOf("s"), address);
  EXPECT_EQ(gateway_->Stats().takeovers, takeovers);
}

// A model that hangs ends no call: the worker says that it is not well, and nobody waits for it.
TEST_F(GatewayWorld, CallsLeaveAWorkerThatSaysItIsUnwell) {
  auto client = Open("s");
  client->Append("a", "hello");
  ASSERT_TRUE(client->ReadUntilDone("a"));
  FakeWorker& first = Owner("s");
  client->Generate("g", 400);
  while (first.tokens_sent < 20) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  first.hangs = true;
  ASSERT_TRUE(client->ReadUntilDone("g")) << client->call->Finish().error_message();
  EXPECT_EQ(client->tokens, Expected(5, 400));
  EXPECT_EQ(client->moved, 1);
  first.dead = true;
}

// One late answer of a busy worker is no death.
TEST_F(GatewayWorld, AWorkerThatIsLateOnceStaysInUse) {
  workers_[0]->late_answers = 1;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  while (std::chrono::steady_clock::now() < end) {
    ASSERT_EQ(gateway_->Stats().workers_healthy, 2u);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(workers_[0]->late_answers, 0);
}

TEST_F(GatewayWorld, LostPositionIsAnInternalErrorAndCounted) {
  auto client = Open("s");
  client->Append("a", "hello");
  ASSERT_TRUE(client->ReadUntilDone("a"));
  Owner("s").lies_at = 10;
  client->Generate("g", 20);
  EXPECT_FALSE(client->ReadUntilDone("g"));
  const grpc::Status status = client->call->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(status.error_message(), HasSubstr("position 15"));
  EXPECT_EQ(gateway_->Stats().position_gaps, 1u);
}

TEST_F(GatewayWorld, NoWorkerAtAllEndsWithUnavailableThatNamesWhatWasTried) {
  auto client = Open("s");
  client->Append("a", "hello");
  ASSERT_TRUE(client->ReadUntilDone("a"));
  for (auto& worker : workers_) worker->dead = true;
  client->Generate("g", 5);
  EXPECT_FALSE(client->ReadUntilDone("g"));
  const grpc::Status status = client->call->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr(Name(0)));
  EXPECT_THAT(status.error_message(), HasSubstr(Name(1)));
}

TEST_F(GatewayWorld, ShardAwayForAMomentOnlyDelaysTheOpen) {
  shard_a_.away = shard_b_.away = true;
  auto client = Open("s");
  client->Append("a", "hello");
  std::thread medic([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    shard_a_.away = shard_b_.away = false;
  });
  const bool done = client->ReadUntilDone("a");
  medic.join();
  EXPECT_TRUE(done);
}

TEST_F(GatewayWorld, DrainingWorkerGetsNoNewStreams) {
  workers_[0]->draining = true;
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  for (int i = 0; i < 8; ++i) {
    const std::string id = "s" + std::to_string(i);
    auto client = Open(id);
    client->Append("a", "x");
    ASSERT_TRUE(client->ReadUntilDone("a"));
    EXPECT_EQ(OwnerOf(id), Name(1));
  }
}

TEST_F(GatewayWorld, ClientThatDoesNotReadStopsTheWorkerInsteadOfGrowingMemory) {
  auto client = Open("s");
  client->Append("a", "hello");
  ASSERT_TRUE(client->ReadUntilDone("a"));
  FakeWorker& owner = Owner("s");
  owner.token_delay_us = 0;
  client->Generate("g", 200000);
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  const uint64_t before = owner.tokens_sent;
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LE(owner.tokens_sent - before, 1u) << "the pressure must reach the worker";
  EXPECT_LT(before, 150000u);
  client->context.TryCancel();
  client->call->Finish();
}

}  // namespace
}  // namespace lola::gateway
