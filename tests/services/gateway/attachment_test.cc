// An attachment by itself: what it does before its gateway knows its workers, while it ends, and
// when a worker refuses a stream.
#include "services/gateway/attachment.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>

#include "services/rpc/server_runner.h"
#include "tests/services/gateway/fakes.h"

namespace lola::gateway {
namespace {

class Sink final : public ClientSink {
 public:
  void Send(v1::StreamReply reply) override { opened += reply.has_opened() ? 1 : 0; }
  size_t Waiting() const override { return 0; }
  void ReadNext() override { ++reads; }
  void End(const absl::Status& status) override {
    ending = status;
    ended = true;
  }
  std::atomic<int> opened{0}, reads{0};
  std::atomic<bool> ended{false};
  absl::Status ending;  // once `ended`
};

bool Eventually(const std::function<bool()>& holds) {
  for (int i = 0; i < 3000 && !holds(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return holds();
}

// One shard and two workers; the pool asks them when a test says so, and then not again for long.
class AttachmentTest : public ::testing::Test {
 protected:
  AttachmentTest() {
    servers_.push_back(*rpc::Server::StartInProcess({&shard_}));
    shards_ = *ShardClients::Create(memory::PartitionMap::SingleShard("a", ""),
                                    {{"a", servers_.back()->InProcessChannel()}});
    std::vector<WorkerEndpoint> endpoints;
    for (FakeWorker* worker : {&first_, &second_}) {
      servers_.push_back(*rpc::Server::StartInProcess({worker}));
      endpoints.push_back(
          {worker == &first_ ? "first:1" : "second:1", servers_.back()->InProcessChannel()});
    }
    pool_ = std::make_unique<WorkerPool>(std::move(endpoints), std::chrono::hours(1));
    world_.shards = shards_.get();
    world_.workers = pool_.get();
    world_.counts = &counts_;
    v1::StreamInfo& info = store_.streams["s"].info;
    info.set_stream_id("s");
    info.set_owner("first:1");
    info.set_owner_epoch(1);
    info.set_lease_remaining_ms(60000);
    v1::StreamRequest open;
    open.mutable_open()->set_stream_id("s");
    attachment_ = std::make_shared<Attachment>(world_, &sink_, open);
  }
  ~AttachmentTest() override {
    attachment_->Abandon(absl::CancelledError("the test is over"));
    first_.dead = second_.dead = true;
    for (auto& server : servers_) server->Shutdown(std::chrono::milliseconds(0));
    pool_->Stop();
  }

  FakeStore store_;
  FakeShard shard_{&store_, "a"};
  FakeWorker first_{&store_, "first:1"}, second_{&store_, "second:1"};
  std::vector<std::unique_ptr<rpc::Server>> servers_;
  std::unique_ptr<ShardClients> shards_;
  std::unique_ptr<WorkerPool> pool_;
  GatewayCounts counts_;
  AttachmentWorld world_;
  Sink sink_;
  std::shared_ptr<Attachment> attachment_;
};

// A drain between a call's registration and its start has ended it already.
TEST_F(AttachmentTest, ADrainBeforeTheStartEndsItForGood) {
  attachment_->Drain();
  ASSERT_TRUE(sink_.ended);
  EXPECT_TRUE(absl::IsUnavailable(sink_.ending)) << sink_.ending;
  attachment_->Start();
  EXPECT_EQ(sink_.reads, 0);
  EXPECT_EQ(shard_.describes, 0);
}

// Clients come back at the moment a gateway is started anew: their streams must stay where they
// are.
TEST_F(AttachmentTest, AnOwnerThatWasNotAskedYetIsNotOverruled) {
  attachment_->Start();
  ASSERT_TRUE(Eventually([this] { return sink_.opened == 1; }));
  EXPECT_EQ(first_.attaches, 1);
  EXPECT_EQ(counts_.takeovers, 0u);
}

// A worker that refuses one stream, because its shard is away, answers: the streams it has stay.
TEST_F(AttachmentTest, AWorkerThatRefusesOneStreamIsNotTakenForDead) {
  pool_->Start();
  ASSERT_TRUE(Eventually([this] { return pool_->healthy() == 2; }));
  first_.refuses = true;
  attachment_->Start();
  ASSERT_TRUE(Eventually([this] { return sink_.opened == 1; }));
  EXPECT_EQ(second_.takeovers, 1) << "this stream goes elsewhere";
  EXPECT_TRUE(pool_->Usable("first:1"));
}

}  // namespace
}  // namespace lola::gateway
