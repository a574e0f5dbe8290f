// What runs the model is lost: streams are given back at once, nothing acknowledged is lost, and
// whoever has them next makes the tokens of an undisturbed run.
#include "tests/services/engine/runtime/undisturbed.h"

namespace lola::engine {
namespace {

class Loss : public ::testing::Test {
 protected:
  std::shared_ptr<FakeStore> store_ = std::make_shared<FakeStore>();
};

TEST_F(Loss, ADeviceThatDoesNotComeBackGivesItsStreamsAway) {
  Worker broken(store_, SmallOptions(), "broken");
  Worker other(store_, SmallOptions(), "other");
  auto session = broken.Open("s");
  auto resting = broken.Open("resting");
  broken.Append(session, 1, RandomText(kPrompt, 1), 0);
  ASSERT_TRUE(session.client->WaitDone(1));
  broken.runner->steps_to_loss = 30;
  broken.Generate(session, 2, kGenerated, kPrompt);
  EXPECT_TRUE(absl::IsUnavailable(session.client->WaitError()));
  EXPECT_TRUE(absl::IsUnavailable(resting.client->WaitError()));
  EXPECT_TRUE(absl::IsUnavailable(broken.engine->health()));
  // What was delivered before was logged before.
  const std::vector<int32_t> delivered = session.client->ids();
  const std::vector<int32_t> logged = store_->Tokens("s");
  ASSERT_GE(logged.size(), kPrompt + delivered.size());
  EXPECT_TRUE(std::equal(delivered.begin(), delivered.end(), logged.begin() + kPrompt));
  auto again = other.Open("s");
  other.Generate(again, 2, kGenerated, kPrompt);
  ASSERT_TRUE(again.client->WaitDone(2));
  EXPECT_EQ(store_->Tokens("s"), Undisturbed());
  // And it stays away, with no stream of its own.
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_TRUE(absl::IsUnavailable(broken.engine->health()));
  EXPECT_EQ(broken.engine->statistics().model_losses, 1u);
  EXPECT_EQ(broken.engine->statistics().open_streams, 0u);
}

// What is in its slot is not to be trusted: it leaves without a last snapshot.
TEST_F(Loss, AStreamThatIsLeavingLeavesWithWhatTheLogHas) {
  Worker worker(store_, SmallOptions(), "worker");
  auto session = worker.Open("s");
  store_->unavailable = true;  // the leaving waits for its tokens to be logged
  const std::vector<int32_t> text = RandomText(20, 1);
  worker.Append(session, 1, text, 0);
  ASSERT_TRUE(worker.Eventually([](const auto& now) { return now.prefill_tokens == 19; }));
  std::mutex mu;
  std::optional<absl::StatusOr<ReleaseResult>> released;
  worker.engine->Release("s", "elsewhere", [&](absl::StatusOr<ReleaseResult> result) {
    std::lock_guard lock(mu);
    released = std::move(result);
  });
  worker.runner->lost = true;
  ASSERT_TRUE(worker.Eventually([](const auto& now) { return now.model_lost; }));
  store_->unavailable = false;
  ASSERT_TRUE(worker.Eventually([&](const auto&) {
    std::lock_guard lock(mu);
    return released.has_value();
  }));
  ASSERT_TRUE(released->ok()) << released->status();
  EXPECT_EQ((*released)->position, text.size());
  EXPECT_EQ(store_->Tokens("s"), text);
  EXPECT_EQ(store_->Record("s").owner, "");
  EXPECT_TRUE(store_->Record("s").snapshots.empty());
  EXPECT_EQ(session.client->released().value_or("nowhere"), "elsewhere");
}

TEST_F(Loss, ADeviceThatComesBackServesAgain) {
  Worker worker(store_, SmallOptions(), "worker");
  auto session = worker.Open("s");
  worker.Append(session, 1, RandomText(kPrompt, 1), 0);
  ASSERT_TRUE(session.client->WaitDone(1));
  worker.runner->lost = true;
  EXPECT_TRUE(absl::IsUnavailable(session.client->WaitError()));
  // Nobody is taken in meanwhile, by whatever door.
  EXPECT_TRUE(absl::IsUnavailable(worker.Attach({.stream_id = "s"}).client->WaitError()));
  EXPECT_TRUE(absl::IsUnavailable(worker.Inspect("s").status()));
  EXPECT_TRUE(absl::IsUnavailable(worker.Snapshot("s", "name").status()));
  worker.runner->lost = false;
  EXPECT_TRUE(worker.Eventually([](const auto& now) { return !now.model_lost; }));
  auto again = worker.Open("s");
  worker.Generate(again, 2, kGenerated, kPrompt);
  ASSERT_TRUE(again.client->WaitDone(2));
  EXPECT_EQ(store_->Tokens("s"), Undisturbed());
}

// Whoever asks whether this worker is well must not send anybody here.
TEST_F(Loss, AWorkerWhoseModelHangsDoesNotCallItselfWell) {
  EngineOptions options = SmallOptions();
  options.stuck_after = std::chrono::milliseconds(300);
  Worker worker(store_, options, "worker");
  auto session = worker.Open("s");
  ASSERT_TRUE(worker.Eventually([&](const auto&) { return worker.engine->health().ok(); }));
  worker.runner->stuck = true;
  worker.Append(session, 1, RandomText(kPrompt, 1), 0);
  EXPECT_TRUE(worker.Eventually([&](const auto&) { return !worker.engine->health().ok(); }));
  EXPECT_TRUE(absl::IsUnavailable(worker.engine->health())) << worker.engine->health();
  worker.runner->stuck = false;
  EXPECT_TRUE(worker.Eventually([&](const auto&) { return worker.engine->health().ok(); }));
  EXPECT_TRUE(session.client->WaitDone(1));
}

// Ownership that arrives after the loss is given back, not kept for a state that cannot be made.
TEST_F(Loss, AStreamThatWasBeingAcquiredIsGivenBack) {
  Worker worker(store_, SmallOptions(), "worker");
  ASSERT_TRUE(worker.Open("s").client->opened().position == 0);
  ASSERT_TRUE(worker.Release("s", "").ok());
  store_->unavailable = true;  // the acquisition is repeated until the store answers
  auto session = worker.Attach({.stream_id = "s"});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  worker.runner->lost = true;
  ASSERT_TRUE(worker.Eventually([](const auto& now) { return now.model_lost; }));
  store_->unavailable = false;
  EXPECT_TRUE(absl::IsUnavailable(session.client->WaitError()));
  EXPECT_TRUE(worker.Eventually(
      [&](const auto& now) { return now.open_streams == 0 && store_->Record("s").owner.empty(); }));
}

}  // namespace
}  // namespace lola::engine
