// Operations on one healthy worker: order, positions, repeats, cancel, refusals.
#include <gmock/gmock.h>

#include "tests/services/engine/runtime/engine_testing.h"

namespace lola::engine {
namespace {

TEST(Operations, ANewStreamAppendsAndGenerates) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto session = worker.Open("s");
  EXPECT_EQ(session.client->opened().restore.kind, RestoreReport::Kind::kNew);
  worker.Append(session, 1, RandomText(40, 1));
  worker.Generate(session, 2, 30);
  ASSERT_TRUE(session.client->WaitDone(2));
  EXPECT_EQ(session.client->done(1).position, 40u);
  EXPECT_EQ(session.client->done(1).appended_tokens, 40u);
  EXPECT_EQ(session.client->done(2).position, 70u);
  EXPECT_EQ(session.client->done(2).generated_tokens, 30u);
  EXPECT_EQ(session.client->done(2).reason, FinishReason::kLength);
  EXPECT_EQ(session.client->tokens().front().position, 40u);
  std::vector<int32_t> all = RandomText(40, 1);
  const auto generated = session.client->ids();
  all.insert(all.end(), generated.begin(), generated.end());
  EXPECT_EQ(store->Tokens("s"), all);
}

// The price of commit-before-release is counted for every token, not for every release.
TEST(Operations, CommitWaitIsObservedPerToken) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto session = worker.Open("s");
  worker.Append(session, 1, RandomText(20, 1));
  ASSERT_TRUE(session.client->WaitDone(1));
  store->unavailable = true;  // tokens gather behind one commit
  worker.Generate(session, 2, 6);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  store->unavailable = false;
  ASSERT_TRUE(session.client->WaitDone(2));
  // Statistics are published after the events of a round, not before.
  EXPECT_TRUE(worker.Eventually(
      [](const EngineStatistics& now) { return now.commit_wait_s.count() == 6; }));
  EXPECT_GT(worker.engine->statistics().commit_wait_s.sum, 0.03);  // the first one waited so long
}

TEST(Operations, RepeatingEverythingWithBasesChangesNothing) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto first = worker.Open("s");
  worker.Append(first, 1, RandomText(25, 1), 0);
  worker.Generate(first, 2, 20, 25);
  worker.Append(first, 3, RandomText(10, 2), 45);
  worker.Generate(first, 4, 5, 55);
  ASSERT_TRUE(first.client->WaitDone(4));
  const auto log = store->Tokens("s");

  auto second = worker.Open("s");
  worker.Append(second, 1, RandomText(25, 1), 0);
  worker.Generate(second, 2, 20, 25);
  worker.Append(second, 3, RandomText(10, 2), 45);
  worker.Generate(second, 4, 5, 55);
  ASSERT_TRUE(second.client->WaitDone(4));
  EXPECT_EQ(store->Tokens("s"), log);
  EXPECT_EQ(second.client->tokens(), first.client->tokens());
  EXPECT_EQ(second.client->text(), first.client->text());
  EXPECT_EQ(second.client->replayed(), 25u);
}

TEST(Operations, ALongerAppendOverItsOwnBeginningAddsTheRest) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto session = worker.Open("s");
  const auto text = RandomText(30, 1);
  worker.Append(session, 1, {text.begin(), text.begin() + 12}, 0);
  worker.Append(session, 2, text, 0);
  ASSERT_TRUE(session.client->WaitDone(2));
  EXPECT_EQ(store->Tokens("s"), text);
}

// Tokens for the beginning of a stream count there only, said with a base or without.
TEST(Operations, AnAppendMayHaveOtherTokensForTheBeginning) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto session = worker.Open("s");
  const std::vector<int32_t> first = {1, 65, 66}, later = {65, 66};
  worker.engine->Append(session.id, {1, std::nullopt, later, first});
  worker.engine->Append(session.id, {2, std::nullopt, later, first});
  worker.engine->Append(session.id, {3, 0, first});
  worker.engine->Append(session.id, {4, 3, later, first});
  ASSERT_TRUE(session.client->WaitDone(4));
  EXPECT_EQ(store->Tokens("s"), (std::vector<int32_t>{1, 65, 66, 65, 66}));
  EXPECT_EQ(session.client->done(1).appended_tokens, 3u);
}

TEST(Operations, OtherTokensAtTheSamePlaceAreRefusedWithBoth) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto session = worker.Open("s");
  worker.Append(session, 1, {65, 66, 67}, 0);
  worker.Append(session, 2, {65, 99}, 0);
  const absl::Status status = session.client->WaitError();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find("token 99"), std::string::npos) << status;
  EXPECT_NE(status.message().find("has 66"), std::string::npos) << status;
  EXPECT_TRUE(session.client->is_done(1));
}

TEST(Operations, ABaseBeyondTheEndIsRefusedWithBothPositions) {
  Worker worker(std::make_shared<FakeStore>());
  auto session = worker.Open("s");
  worker.Append(session, 1, {65}, 5);
  const absl::Status status = session.client->WaitError();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find("5"), std::string::npos);
  EXPECT_NE(status.message().find("0"), std::string::npos);
}

TEST(Operations, BadRequestsAreRefusedByName) {
  Worker worker(std::make_shared<FakeStore>());
  auto session = worker.Open("a");
  worker.Append(session, 1, {65, 5000});
  EXPECT_TRUE(absl::IsInvalidArgument(session.client->WaitError()));
  session = worker.Open("b");
  worker.Generate(session, 1, 5);  // nothing to go on from
  EXPECT_TRUE(absl::IsFailedPrecondition(session.client->WaitError()));
  session = worker.Open("c");
  worker.Append(session, 1, {65});
  worker.Generate(session, 2, 0);
  EXPECT_TRUE(absl::IsInvalidArgument(session.client->WaitError()));
  AttachRequest request;
  request.stream_id = "nobody";
  session = worker.Attach(request);
  EXPECT_TRUE(absl::IsNotFound(session.client->WaitError()));
  request.create_if_missing = true;
  request.model_fingerprint = "another";
  session = worker.Attach(request);
  const absl::Status status = session.client->WaitError();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_NE(status.message().find("another"), std::string::npos);
}

TEST(Operations, SettingsMustMatchAndFit) {
  Worker worker(std::make_shared<FakeStore>());
  worker.Open("s");
  AttachRequest request;
  request.stream_id = "s";
  request.settings = SmallSettings();
  request.settings->cache_pairs = 4;
  auto session = worker.Attach(request);
  EXPECT_TRUE(absl::IsFailedPrecondition(session.client->WaitError()));
  request.stream_id = "large";
  request.create_if_missing = true;
  request.settings->cache_pairs = 512;
  session = worker.Attach(request);
  const absl::Status status = session.client->WaitError();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find("slots"), std::string::npos) << status;
}

TEST(Operations, CancelEndsAtATokenBoundary) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto session = worker.Open("s");
  worker.Append(session, 1, RandomText(5, 1));
  worker.Generate(session, 2, 1'000'000);
  worker.Generate(session, 3, 4);
  ASSERT_TRUE(session.client->WaitTokens(10));
  worker.engine->Cancel(session.id, 2);
  ASSERT_TRUE(session.client->WaitDone(3));
  const DoneEvent done = session.client->done(2);
  EXPECT_EQ(done.reason, FinishReason::kCancelled);
  EXPECT_GE(done.generated_tokens, 10u);
  EXPECT_EQ(done.position, 5 + done.generated_tokens);
  EXPECT_EQ(session.client->done(3).position, done.position + 4);
  EXPECT_EQ(session.client->tokens().size(), done.generated_tokens + 4);
}

TEST(Operations, DetachStopsTheGenerationAndKeepsTheLog) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto session = worker.Open("s");
  worker.Append(session, 1, RandomText(5, 1));
  worker.Generate(session, 2, 1'000'000);
  ASSERT_TRUE(session.client->WaitTokens(3));
  worker.engine->Detach(session.id);
  // Another client goes on with the same operation and gets all of it.
  auto next = worker.Open("s", false, 5);
  worker.Generate(next, 1, 60, 5);
  ASSERT_TRUE(next.client->WaitDone(1));
  const auto log = store->Tokens("s");
  EXPECT_EQ(next.client->ids(), std::vector<int32_t>(log.begin() + 5, log.end()));
}

TEST(Operations, StopStringsEndGenerations) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto session = worker.Open("s");
  worker.Append(session, 1, RandomText(50, 1));
  worker.Generate(session, 2, 40);
  ASSERT_TRUE(session.client->WaitDone(2));
  const std::string whole = session.client->text();
  // A stop string out of the middle of what the model says.
  std::string stop;
  for (size_t i = 5; i + 1 < whole.size() && stop.empty(); ++i) {
    if (whole[i] > 32 && whole[i] < 127) stop = whole.substr(i, 1);
  }
  ASSERT_FALSE(stop.empty()) << "the random model said nothing printable: take another seed";
  auto other = worker.Open("other");
  worker.Append(other, 1, RandomText(50, 1));
  GenerateOp op;
  op.seq = 2;
  op.max_tokens = 40;
  op.ignore_eos = true;
  op.stops = {stop};
  op.sampling.temperature = 0.9f;
  op.sampling.seed = 11;
  op.sampling.repetition_penalty = 1.1f;
  op.sampling.repetition_window = 64;
  op.logprobs = true;
  worker.engine->Generate(other.id, op);
  ASSERT_TRUE(other.client->WaitDone(2));
  EXPECT_EQ(other.client->done(2).reason, FinishReason::kStop);
  EXPECT_EQ(other.client->text(), whole.substr(0, whole.find(stop)));
  EXPECT_EQ(other.client->logprobs().size(), other.client->tokens().size());
  for (float logprob : other.client->logprobs()) EXPECT_LE(logprob, 0.0f);
}

TEST(Operations, AnAppendThatCanNeverFitIsNotWorthARetry) {
  EngineOptions options = SmallOptions();
  options.queued_tokens_per_stream_max = 100;
  Worker worker(std::make_shared<FakeStore>(), options);
  auto session = worker.Open("s");
  worker.Append(session, 1, RandomText(100, 1));
  ASSERT_TRUE(session.client->WaitDone(1));
  worker.Append(session, 2, RandomText(101, 1));
  const absl::Status status = session.client->WaitError();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("101 tokens, at most 100"));
}

TEST(Operations, AFullQueueIsRefusedWithAHint) {
  auto store = std::make_shared<FakeStore>();
  EngineOptions options = SmallOptions();
  options.ops_per_stream_max = 3;
  Worker worker(store, options);
  auto session = worker.Open("s");
  worker.backend->hold_appends = true;
  for (uint64_t seq = 1; seq <= 5; ++seq) worker.Append(session, seq, {65});
  const absl::Status status = session.client->WaitError();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_NE(status.message().find("retry"), std::string::npos);
  worker.backend->hold_appends = false;
}

TEST(Operations, SnapshotsInTheQueueAreBoundedToo) {
  EngineOptions options = SmallOptions();
  options.ops_per_stream_max = 3;
  Worker worker(std::make_shared<FakeStore>(), options);
  auto session = worker.Open("s");
  worker.backend->hold_appends = true;
  worker.Append(session, 1, RandomText(20, 1));
  for (int i = 0; i < 2; ++i) worker.engine->Snapshot("s", "kept", [](auto) {});
  const absl::Status status = worker.Snapshot("s", "one-more").status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("3 of at most 3"));
  worker.backend->hold_appends = false;
  EXPECT_TRUE(session.client->WaitDone(1));
}

TEST(Operations, ABatchHoldsNoMoreStreamsThanAShardTakes) {
  EngineOptions options = SmallOptions();
  options.append_batch_streams_max = 1;
  options.unavailable_deadline = std::chrono::milliseconds(200);
  Worker worker(std::make_shared<FakeStore>(), options);
  worker.backend->batch_max = 1;
  std::vector<Worker::Session> sessions;
  for (uint32_t i = 0; i < options.slots; ++i) {
    sessions.push_back(worker.Open("s" + std::to_string(i)));
  }
  worker.backend->hold_appends = true;  // of the first; the others gather behind it
  for (auto& session : sessions) worker.Append(session, 1, RandomText(20, 1));
  ASSERT_TRUE(worker.Eventually(
      [&](const auto& now) { return now.uncommitted_tokens == 20 * sessions.size(); }));
  worker.backend->hold_appends = false;
  for (auto& session : sessions) EXPECT_TRUE(session.client->WaitDone(1));
}

// Waiting lifts a full queue, but not a full window: clients must not try again for ever.
TEST(Operations, AFullSoftmaxWindowSaysThatWaitingDoesNotHelp) {
  Worker worker(std::make_shared<FakeStore>());
  AttachRequest request{.stream_id = "s", .create_if_missing = true};
  request.settings = memory::LolaSettings::SoftmaxProfile(16);
  auto session = worker.Attach(request);
  ASSERT_TRUE(session.client->WaitOpened());
  worker.Append(session, 1, RandomText(17, 1));
  const absl::Status status = session.client->WaitError();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_TRUE(status.GetPayload(kLastingPayload)) << status;
}

TEST(Operations, NothingLeavesBeforeItIsCommitted) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto session = worker.Open("s");
  worker.Append(session, 1, RandomText(20, 1));
  ASSERT_TRUE(session.client->WaitDone(1));
  worker.backend->hold_appends = true;
  worker.Generate(session, 2, 100);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_TRUE(session.client->tokens().empty());
  EXPECT_TRUE(worker.Eventually([](const EngineStatistics& now) {
    return now.uncommitted_tokens == SmallOptions().uncommitted_tokens_max;
  }));
  worker.backend->hold_appends = false;
  EXPECT_TRUE(session.client->WaitDone(2));
}

TEST(Operations, DurabilityNoneDoesNotWait) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  AttachRequest request;
  request.stream_id = "s";
  request.create_if_missing = true;
  request.durability = Durability::kNone;
  auto session = worker.Attach(request);
  worker.backend->hold_appends = true;
  worker.Append(session, 1, RandomText(20, 1));
  worker.Generate(session, 2, 100);
  ASSERT_TRUE(session.client->WaitDone(2));
  EXPECT_TRUE(store->Tokens("s").empty());
  worker.backend->hold_appends = false;
}

TEST(Operations, ASlowReaderPausesItsGenerationOnly) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto slow = worker.Open("slow");
  auto fast = worker.Open("fast");
  slow.client->writable = false;
  worker.Append(slow, 1, RandomText(20, 1));
  worker.Generate(slow, 2, 50);
  worker.Append(fast, 1, RandomText(20, 1));
  worker.Generate(fast, 2, 50);
  ASSERT_TRUE(fast.client->WaitDone(2));
  EXPECT_LE(slow.client->tokens().size(), 1u);
  slow.client->writable = true;
  worker.engine->Poke();
  EXPECT_TRUE(slow.client->WaitDone(2));
}

TEST(Operations, SnapshotAndInspectSeeEverythingCommitted) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto session = worker.Open("s");
  EXPECT_TRUE(absl::IsFailedPrecondition(worker.Snapshot("s", "empty").status()));
  worker.Append(session, 1, RandomText(100, 1));
  ASSERT_TRUE(session.client->WaitDone(1));
  auto report = worker.Inspect("s");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->position, 100u);
  EXPECT_EQ(report->heads.size(), 8u);
  EXPECT_FALSE(report->heads[0].pairs.empty());
  EXPECT_GT(report->heads[0].absorbed_pairs, 0u);
  auto snapshot = worker.Snapshot("s", "mark");
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_EQ(snapshot->position, 100u);
  EXPECT_EQ(snapshot->state_position, 99u);  // the last token is left to whoever goes on from it
  EXPECT_EQ(store->Record("s").snapshots.back().name, "mark");
  // The stream goes on from the kept logits as if nobody had looked.
  worker.Generate(session, 2, 10);
  ASSERT_TRUE(session.client->WaitDone(2));
  auto other = worker.Open("undisturbed");
  worker.Append(other, 1, RandomText(100, 1));
  worker.Generate(other, 2, 10);
  ASSERT_TRUE(other.client->WaitDone(2));
  EXPECT_EQ(session.client->ids(), other.client->ids());
  auto nobody = worker.Snapshot("nobody", "x");
  EXPECT_TRUE(absl::IsNotFound(nobody.status())) << nobody.status();
}

}  // namespace
}  // namespace lola::engine
