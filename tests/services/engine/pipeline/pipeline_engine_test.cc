// The engine over a pipeline whose stages die and come back: nothing acknowledged is lost and no
// token changes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/services/engine/pipeline/local_stage_link.h"
#include "tests/services/engine/runtime/engine_testing.h"

namespace lola::engine {
namespace {

using ::testing::HasSubstr;

constexpr size_t kPrompt = 150;
constexpr uint64_t kGenerated = 120;

ModelConfig FourLayers() {
  ModelConfig config = *NamedGeometry("tiny");
  config.geometry.layers = 4;
  config.defaults = SmallSettings();
  return config;
}

std::shared_ptr<const Model> Whole() {
  static const std::shared_ptr<const Model> model = *Model::Random(FourLayers(), 7, {});
  return model;
}

const CutModel& Cut() {
  static const CutModel cut(FourLayers(), 7, {1, 3});
  return cut;
}

std::unique_ptr<ModelRunner> Single(size_t rows) { return MakeModelRunner(Whole(), rows, 1); }
std::unique_ptr<ModelRunner> InStages(size_t rows) { return Cut().Runner(rows); }

void RunTurn(Worker& worker, const std::string& stream) {
  auto session = worker.Open(stream, /*takeover=*/true);
  worker.Append(session, 1, RandomText(kPrompt, 1), 0);
  worker.Generate(session, 2, kGenerated, kPrompt);
  ASSERT_TRUE(session.client->WaitDone(2));
}

struct Expected {
  std::vector<int32_t> tokens;
  std::string digest;
};
const Expected& Undisturbed() {
  static const Expected expected = [] {
    auto store = std::make_shared<FakeStore>();
    Worker worker(store, SmallOptions(), "single", Single);
    RunTurn(worker, "s");
    return Expected{store->Tokens("s"), worker.Inspect("s")->state_digest};
  }();
  return expected;
}

class PipelineEngine : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const auto& stage : Cut().stages) {
      stage->away = false;
      stage->steps_to_death = -1;
    }
  }
  std::shared_ptr<FakeStore> store_ = std::make_shared<FakeStore>();
};

TEST_F(PipelineEngine, GivesTheTokensAndTheStateOfASingleWorker) {
  EngineOptions options = SmallOptions();
  options.slots = 2;  // three streams take turns: demoted, restored, replayed
  Worker worker(store_, options, "pipeline", InStages);
  std::vector<Worker::Session> sessions;
  for (const std::string stream : {"a", "b", "c"}) {
    sessions.push_back(worker.Open(stream));
    worker.Append(sessions.back(), 1, RandomText(kPrompt, 1), 0);
    worker.Generate(sessions.back(), 2, kGenerated, kPrompt);
  }
  for (const Worker::Session& session : sessions) ASSERT_TRUE(session.client->WaitDone(2));
  for (const std::string stream : {"a", "b", "c"}) {
    EXPECT_EQ(store_->Tokens(stream), Undisturbed().tokens);
    EXPECT_EQ(worker.Inspect(stream)->state_digest, Undisturbed().digest);
  }
  EXPECT_GT(worker.engine->statistics().snapshots, 0u);
}

TEST_F(PipelineEngine, AStreamMovesBetweenAPipelineAndASingleWorker) {
  Worker single(store_, SmallOptions(), "single", Single);
  Worker pipeline(store_, SmallOptions(), "pipeline", InStages);
  Worker* const hosts[] = {&pipeline, &single};
  uint64_t end = kPrompt;
  for (int turn = 0; turn < 4; ++turn) {
    Worker& host = *hosts[turn % 2];
    auto session = host.Open("s");
    if (turn == 0) host.Append(session, 1, RandomText(kPrompt, 1), 0);
    host.Generate(session, 2, kGenerated / 4, end);
    ASSERT_TRUE(session.client->WaitDone(2));
    end += kGenerated / 4;
    ASSERT_TRUE(host.Release("s", "elsewhere").ok());
  }
  EXPECT_EQ(store_->Tokens("s"), Undisturbed().tokens);
  for (Worker* host : hosts) {
    host->Open("s");
    EXPECT_EQ(host->Inspect("s")->state_digest, Undisturbed().digest);
    ASSERT_TRUE(host->Release("s", "elsewhere").ok());
  }
}

// Attaches again and again, as a gateway does, until the turn is done.
void RunTurnAnyhow(Worker& worker, const std::string& stream, int* attempts) {
  for (*attempts = 1; *attempts < 1000; ++*attempts) {
    AttachRequest request;
    request.stream_id = stream;
    request.create_if_missing = true;
    auto session = worker.Attach(std::move(request));
    worker.Append(session, 1, RandomText(kPrompt, 1), 0);
    worker.Generate(session, 2, kGenerated, kPrompt);
    while (!session.client->error() && !session.client->is_done(2)) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (session.client->is_done(2)) return;
    ASSERT_TRUE(absl::IsUnavailable(*session.client->error())) << *session.client->error();
    EXPECT_THAT(std::string(session.client->error()->message()), HasSubstr("stage-"));
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

TEST_F(PipelineEngine, AStageThatDiesAgainAndAgainChangesNothing) {
  Worker worker(store_, SmallOptions(), "pipeline", InStages);
  int losses = 0;
  for (const int steps : {3, 10, 40, 90}) {
    LocalStage& stage = *Cut().stages[losses % 2];
    stage.steps_to_death = steps;
    const std::string stream = "s" + std::to_string(losses);
    int attempts = 0;
    RunTurnAnyhow(worker, stream, &attempts);
    EXPECT_GE(attempts, 2);
    EXPECT_EQ(store_->Tokens(stream), Undisturbed().tokens);
    EXPECT_EQ(worker.Inspect(stream)->state_digest, Undisturbed().digest);
    EXPECT_EQ(worker.engine->statistics().model_losses, uint64_t(++losses));
  }
  EXPECT_TRUE(worker.engine->health().ok());
}

TEST_F(PipelineEngine, AStateThatLoadsDoesNotHoldUpOtherStreams) {
  {
    Worker before(store_, SmallOptions(), "before", Single);
    auto session = before.Open("slow");
    before.Append(session, 1, RandomText(kPrompt, 1), 0);
    ASSERT_TRUE(session.client->WaitDone(1));
    ASSERT_TRUE(before.Release("slow", "elsewhere").ok());
  }
  LocalStage& stage = *Cut().stages[1];
  stage.hold_loads = true;
  Worker worker(store_, SmallOptions(), "pipeline", InStages);
  auto slow = worker.Attach({.stream_id = "slow"});
  worker.Generate(slow, 2, kGenerated, kPrompt);
  ASSERT_TRUE(worker.Eventually([&](const auto&) { return stage.loads_held() == 1; }));
  // Its state is on the way for as long as this takes: another stream's whole turn.
  RunTurn(worker, "quick");
  EXPECT_EQ(store_->Tokens("quick"), Undisturbed().tokens);
  EXPECT_FALSE(slow.client->is_done(2));
  // One that gives up waiting leaves its slot alone until the load has ended.
  worker.engine->Detach(slow.id);
  ASSERT_TRUE(worker.Release("slow", "elsewhere").ok());
  auto again = worker.Attach({.stream_id = "slow"});
  worker.Generate(again, 2, kGenerated, kPrompt);
  ASSERT_TRUE(worker.Eventually([&](const auto&) { return stage.loads_held() == 2; }));
  stage.hold_loads = false;
  stage.RunHeld();
  ASSERT_TRUE(again.client->WaitDone(2));
  EXPECT_EQ(store_->Tokens("slow"), Undisturbed().tokens);
  EXPECT_EQ(worker.Inspect("slow")->state_digest, Undisturbed().digest);
}

TEST_F(PipelineEngine, CachedPairsAreThoseOfASingleWorker) {
  const auto pairs = [this](Worker& worker, const std::string& stream) {
    RunTurn(worker, stream);
    uint64_t counted = 0, room = 0;
    EXPECT_TRUE(worker.Eventually([&](const auto& now) {
      counted = now.cached_pairs;
      room = now.cache_capacity;
      return counted > 0 && now.uncommitted_tokens == 0;
    }));
    return std::pair(counted, room);
  };
  Worker single(store_, SmallOptions(), "single", Single);
  Worker pipeline(store_, SmallOptions(), "pipeline", InStages);
  const auto expected = pairs(single, "a");
  EXPECT_EQ(pairs(pipeline, "b"), expected);
  EXPECT_GE(expected.second, expected.first);
}

TEST_F(PipelineEngine, AStageThatIsAwayIsNoticedAtRestAndWaitedFor) {
  Worker worker(store_, SmallOptions(), "pipeline", InStages);
  auto session = worker.Open("idle");
  worker.Append(session, 1, RandomText(kPrompt, 1), 0);
  ASSERT_TRUE(session.client->WaitDone(1));
  Cut().stages[1]->away = true;
  ASSERT_TRUE(worker.Inspect("idle").status().ok() == false);
  EXPECT_TRUE(absl::IsUnavailable(session.client->WaitError()));
  EXPECT_TRUE(worker.Eventually([](const auto& now) {
    return now.model_lost && now.open_streams == 0 && now.slots_used == 0;
  }));
  EXPECT_TRUE(absl::IsUnavailable(worker.engine->health())) << worker.engine->health();
  EXPECT_THAT(std::string(worker.engine->health().message()), HasSubstr("stage-2"));
  // Given back: another worker has it without a take-over.
  EXPECT_TRUE(worker.Eventually([&](const auto&) { return store_->Record("idle").owner.empty(); }));
  auto refused = worker.Attach({.stream_id = "idle"});
  EXPECT_TRUE(absl::IsUnavailable(refused.client->WaitError()));
  Cut().stages[1]->away = false;
  EXPECT_TRUE(worker.Eventually([](const auto& now) { return !now.model_lost; }));
  EXPECT_TRUE(worker.engine->health().ok());
  session = worker.Open("idle");
  worker.Generate(session, 2, kGenerated, kPrompt);
  ASSERT_TRUE(session.client->WaitDone(2));
  EXPECT_EQ(store_->Tokens("idle"), Undisturbed().tokens);
}

}  // namespace
}  // namespace lola::engine
