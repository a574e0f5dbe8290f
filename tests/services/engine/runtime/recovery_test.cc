// What survives what: crashes, stolen ownership, damaged snapshots, shards that are away, numbers
// that are none.
#include "tests/services/engine/runtime/undisturbed.h"

namespace lola::engine {
namespace {

TEST(Recovery, CrashesAtRandomMomentsLeaveNoTrace) {
  std::mt19937 random(5);
  const std::vector<std::string> stops = NearlyStops();
  for (int round = 0; round < 12; ++round) {
    auto store = std::make_shared<FakeStore>();
    std::vector<Client::Token> received;
    std::string text;
    int crashes = 0;
    for (bool done = false; !done;) {
      // Rounds differ in where snapshots are and in how far commits lag behind.
      EngineOptions options = SmallOptions();
      options.checkpoint_tokens = 16 << (round % 4);
      Worker worker(store, options, crashes % 2 ? "worker-b" : "worker-a");
      worker.backend->append_delay_us = int(random() % 300);
      const uint64_t delivered = received.empty() ? kPrompt : received.back().position + 1;
      auto session = worker.Open("s", /*takeover=*/true,
                                 store->Record("s").committed_position >= delivered
                                     ? std::optional<uint64_t>(delivered)
                                     : std::nullopt,
                                 /*resume=*/true);
      worker.Append(session, 1, RandomText(kPrompt, 1), 0);
      worker.engine->Generate(session.id, Stopping(2, stops));
      if (crashes < 6) {
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 20'000));
      } else {
        ASSERT_TRUE(session.client->WaitDone(2));
      }
      done = session.client->is_done(2);
      worker.engine.reset();  // no goodbye
      ++crashes;
      text += session.client->text();
      for (const Client::Token& token : session.client->tokens()) {
        if (!received.empty()) {
          ASSERT_EQ(token.position, received.back().position + 1);
        }
        received.push_back(token);
      }
    }
    const std::vector<int32_t> expected = Undisturbed();
    ASSERT_EQ(store->Tokens("s"), expected) << "round " << round;
    ASSERT_EQ(received.size(), kGenerated);
    EXPECT_EQ(text, Joined(UndisturbedTexts(stops), 0)) << "round " << round;
    for (const Client::Token& token : received) EXPECT_EQ(token.id, expected[token.position]);
    Worker worker(store);
    worker.Open("s", /*takeover=*/true);
    auto report = worker.Inspect("s");
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report->position, expected.size());
    EXPECT_EQ(report->state_digest, UndisturbedDigest()) << "round " << round;
  }
}

TEST(Recovery, ReplaysAtMostTheCheckpointIntervalAndSaysSo) {
  auto store = std::make_shared<FakeStore>();
  {
    Worker worker(store);
    auto session = worker.Open("s");
    worker.Append(session, 1, RandomText(1000, 1), 0);
    ASSERT_TRUE(session.client->WaitDone(1));
    ASSERT_TRUE(worker.Inspect("s").ok());
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  Worker worker(store, SmallOptions(), "worker-b");
  auto session = worker.Open("s", true);
  const RestoreReport report = session.client->opened().restore;
  EXPECT_EQ(report.kind, RestoreReport::Kind::kRestored);
  EXPECT_EQ(report.reused_tokens + report.replayed_tokens, 999u);
  EXPECT_LE(report.replayed_tokens, 2 * SmallOptions().checkpoint_tokens);
  EXPECT_EQ(report.skipped_snapshots, 0u);
}

TEST(Recovery, ADamagedNewestSnapshotMeansTheOlderOneAndAReport) {
  for (size_t damaged = 1; damaged <= 2; ++damaged) {
    auto store = std::make_shared<FakeStore>();
    {
      Worker worker(store);
      auto session = worker.Open("s");
      worker.Append(session, 1, Undisturbed());
      ASSERT_TRUE(session.client->WaitDone(1));
      ASSERT_TRUE(worker.Release("s", "").ok());
    }
    const size_t kept = store->Record("s").snapshots.size();
    ASSERT_EQ(kept, 2u);
    store->CorruptSnapshots("s", damaged);
    Worker worker(store, SmallOptions(), "worker-b");
    auto session = worker.Open("s");
    const RestoreReport report = session.client->opened().restore;
    EXPECT_EQ(report.skipped_snapshots, damaged);
    if (damaged == 2) {
      EXPECT_EQ(report.reused_tokens, 0u);
    }
    if (damaged == 1) {
      EXPECT_GT(report.reused_tokens, 0u);
    }
    EXPECT_EQ(worker.Inspect("s")->state_digest, UndisturbedDigest());
    EXPECT_TRUE(worker.Eventually(
        [&](const EngineStatistics& now) { return now.skipped_snapshots == damaged; }));
  }
}

TEST(Recovery, NoSnapshotAndATrimmedLogIsAnErrorNotARecompute) {
  auto store = std::make_shared<FakeStore>();
  {
    Worker worker(store);
    auto session = worker.Open("s");
    worker.Append(session, 1, Undisturbed());
    ASSERT_TRUE(session.client->WaitDone(1));
    ASSERT_TRUE(worker.Release("s", "").ok());
  }
  store->CorruptSnapshots("s", 2);
  store->Trim("s", 10);
  Worker worker(store, SmallOptions(), "worker-b");
  AttachRequest request;
  request.stream_id = "s";
  auto session = worker.Attach(request);
  EXPECT_TRUE(absl::IsOutOfRange(session.client->WaitError()));
  // Ownership is given back on the way: the answer to the client does not wait for it.
  EXPECT_TRUE(worker.Eventually([&](const auto&) { return store->Record("s").owner.empty(); }));
}

TEST(Recovery, AFencedOwnerDeliversNothingMore) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto session = worker.Open("s");
  worker.Append(session, 1, RandomText(30, 1));
  ASSERT_TRUE(session.client->WaitDone(1));
  store->Steal("s");
  const auto before = store->Tokens("s");
  worker.Generate(session, 2, 50);
  ASSERT_TRUE(session.client->WaitReleased());
  EXPECT_TRUE(session.client->tokens().empty());
  EXPECT_EQ(store->Tokens("s"), before);
  EXPECT_TRUE(worker.Eventually(
      [](const EngineStatistics& now) { return now.fenced_writes == 1 && now.open_streams == 0; }));
}

TEST(Recovery, AnotherOwnersStreamIsRefusedUnlessTakenOver) {
  auto store = std::make_shared<FakeStore>();
  Worker a(store, SmallOptions(), "worker-a");
  a.Open("s");
  Worker b(store, SmallOptions(), "worker-b");
  AttachRequest request;
  request.stream_id = "s";
  auto refused = b.Attach(request);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.client->WaitError()));
  auto taken = b.Open("s", /*takeover=*/true);
  EXPECT_EQ(store->Record("s").owner, "worker-b");
}

TEST(Recovery, AStaleResidentStreamIsNeverServed) {
  auto store = std::make_shared<FakeStore>();
  Worker a(store, SmallOptions(), "worker-a");
  auto old = a.Open("s");
  a.Append(old, 1, RandomText(30, 1));
  ASSERT_TRUE(old.client->WaitDone(1));
  {
    Worker b(store, SmallOptions(), "worker-b");
    auto session = b.Open("s", /*takeover=*/true);
    b.Append(session, 1, RandomText(20, 2));
    ASSERT_TRUE(session.client->WaitDone(1));
  }
  // Worker a still holds the state at 30 and has had no reason to notice.
  auto session = a.Open("s", /*takeover=*/true);
  EXPECT_EQ(session.client->opened().position, 50u);
  EXPECT_TRUE(old.client->WaitReleased());
  a.Generate(session, 1, 10, 50);
  EXPECT_TRUE(session.client->WaitDone(1));
}

TEST(Recovery, OperationsSentBeforeTheStreamIsOpenAreKept) {
  Worker worker(std::make_shared<FakeStore>());
  AttachRequest request;
  request.stream_id = "s";
  request.create_if_missing = true;
  for (int round = 0; round < 2; ++round) {
    auto session = worker.Attach(request);
    worker.Append(session, 1, RandomText(10, 1), 0);
    worker.Generate(session, 2, 5, 10);
    ASSERT_TRUE(session.client->WaitDone(2));
    EXPECT_EQ(session.client->tokens().size(), 5u);
  }
  EXPECT_TRUE(
      worker.Eventually([](const EngineStatistics& now) { return now.queued_tokens == 0; }));
}

TEST(Recovery, LostAppendAnswersAreRepeatedNotDoubled) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto session = worker.Open("s");
  store->lose_append_answers = 7;
  worker.Append(session, 1, RandomText(kPrompt, 1), 0);
  worker.Generate(session, 2, kGenerated, kPrompt);
  ASSERT_TRUE(session.client->WaitDone(2));
  EXPECT_EQ(store->Tokens("s"), Undisturbed());
  EXPECT_TRUE(
      worker.Eventually([](const EngineStatistics& now) { return now.append_retries == 7; }));
}

TEST(Recovery, StreamsWaitForAShardThatIsAway) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto session = worker.Open("s");
  worker.Append(session, 1, RandomText(kPrompt, 1), 0);
  worker.Generate(session, 2, kGenerated, kPrompt);
  ASSERT_TRUE(session.client->WaitTokens(20));
  store->unavailable = true;
  auto late = worker.Attach([] {
    AttachRequest request;
    request.stream_id = "late";
    request.create_if_missing = true;
    return request;
  }());
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_FALSE(session.client->is_done(2));
  store->unavailable = false;
  ASSERT_TRUE(session.client->WaitDone(2));
  EXPECT_TRUE(late.client->WaitOpened());
  EXPECT_EQ(store->Tokens("s"), Undisturbed());
}

TEST(Recovery, AShardAwayForTooLongFailsTheStreamOnly) {
  auto store = std::make_shared<FakeStore>();
  EngineOptions options = SmallOptions();
  options.unavailable_deadline = std::chrono::milliseconds(100);
  Worker worker(store, options);
  auto session = worker.Open("s");
  store->unavailable = true;
  worker.Append(session, 1, {65});
  EXPECT_TRUE(absl::IsUnavailable(session.client->WaitError()));
  store->unavailable = false;
  auto again = worker.Open("s");
  worker.Append(again, 1, {65});
  EXPECT_TRUE(again.client->WaitDone(1));
}

TEST(Recovery, LogitsThatAreNoNumbersAreRefusedAndTheStreamGoesOn) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto session = worker.Open("s");
  worker.Append(session, 1, RandomText(kPrompt, 1), 0);
  worker.Generate(session, 2, kGenerated, kPrompt);
  ASSERT_TRUE(session.client->WaitTokens(20));
  worker.runner->nan_logits = 1;
  const absl::Status status = session.client->WaitError();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_TRUE(worker.Eventually([](const EngineStatistics& now) { return now.bad_logits == 1; }));
  auto again = worker.Open("s");
  worker.Append(again, 1, RandomText(kPrompt, 1), 0);
  worker.Generate(again, 2, kGenerated, kPrompt);
  ASSERT_TRUE(again.client->WaitDone(2));
  EXPECT_EQ(store->Tokens("s"), Undisturbed());
}

TEST(Recovery, AfterPositionBringsTheWholeLogThenLive) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto first = worker.Open("s");
  worker.Append(first, 1, RandomText(kPrompt, 1), 0);
  worker.Generate(first, 2, 80, kPrompt);
  ASSERT_TRUE(first.client->WaitDone(2));
  auto second = worker.Open("s", false, 3);
  worker.Generate(second, 1, kGenerated, kPrompt);
  ASSERT_TRUE(second.client->WaitDone(1));
  const auto expected = Undisturbed();
  EXPECT_EQ(second.client->ids(), std::vector<int32_t>(expected.begin() + 3, expected.end()));
  AttachRequest beyond;
  beyond.stream_id = "s";
  beyond.after_position = 1'000'000;
  auto refused = worker.Attach(beyond);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.client->WaitError()));
}

// The log before the snapshot is gone: nothing but the snapshot and the last token can bring the
// stream back, however long it is.
TEST(Recovery, AStreamRewoundToItsNamedSnapshotGeneratesAtOnce) {
  constexpr uint64_t kPrompt = 5000;
  for (const bool inspected : {false, true}) {
    auto store = std::make_shared<FakeStore>();
    std::vector<int32_t> first;
    {
      Worker worker(store);
      auto session = worker.Open("s");
      worker.Append(session, 1, RandomText(kPrompt, 1));
      ASSERT_TRUE(session.client->WaitDone(1));
      if (inspected) {
        ASSERT_TRUE(worker.Inspect("s").ok());
      }
      const auto snapshot = worker.Snapshot("s", "mark");
      ASSERT_TRUE(snapshot.ok()) << snapshot.status();
      EXPECT_EQ(snapshot->position, kPrompt);
      worker.Generate(session, 2, 400);
      ASSERT_TRUE(session.client->WaitDone(2));
      first = session.client->ids();
      ASSERT_TRUE(worker.Release("s", "").ok());
    }
    store->Rewind("s", kPrompt);
    ASSERT_EQ(store->Record("s").snapshots.size(), 1u);
    store->Trim("s", kPrompt - 1 - kRepetitionWindowMax);
    Worker worker(store);
    auto session = worker.Open("s");
    EXPECT_EQ(session.client->opened().restore.reused_tokens, kPrompt - 1);
    EXPECT_EQ(session.client->opened().restore.replayed_tokens, 0u);
    worker.Generate(session, 1, 400);
    ASSERT_TRUE(session.client->WaitDone(1));
    EXPECT_EQ(session.client->ids(), first);
  }
}

TEST(Recovery, AStreamInspectedAtItsEndThenDemotedGoesOnFromBelow) {
  auto store = std::make_shared<FakeStore>();
  std::vector<int32_t> first;
  {
    Worker worker(store);
    auto session = worker.Open("s");
    worker.Append(session, 1, RandomText(500, 1));
    ASSERT_TRUE(session.client->WaitDone(1));
    ASSERT_TRUE(worker.Inspect("s").ok());
    ASSERT_TRUE(worker.Release("s", "").ok());  // its automatic snapshot is at the very end
  }
  Worker worker(store);
  auto session = worker.Open("s");
  worker.Generate(session, 1, 400);
  ASSERT_TRUE(session.client->WaitDone(1));
  Worker fresh(std::make_shared<FakeStore>());
  auto undisturbed = fresh.Open("s");
  fresh.Append(undisturbed, 1, RandomText(500, 1));
  fresh.Generate(undisturbed, 2, 400);
  ASSERT_TRUE(undisturbed.client->WaitDone(2));
  EXPECT_EQ(session.client->ids(), undisturbed.client->ids());
}

TEST(Recovery, SnapshotsThatCannotBeWrittenCostReplayNotData) {
  auto store = std::make_shared<FakeStore>();
  store->refuse_snapshots = true;
  {
    Worker worker(store);
    auto session = worker.Open("s");
    worker.Append(session, 1, RandomText(kPrompt, 1), 0);
    worker.Generate(session, 2, kGenerated, kPrompt);
    ASSERT_TRUE(session.client->WaitDone(2));
    ASSERT_TRUE(worker.Release("s", "").ok());
    EXPECT_TRUE(
        worker.Eventually([](const EngineStatistics& now) { return now.snapshot_failures > 0; }));
  }
  store->refuse_snapshots = false;
  EXPECT_EQ(store->Tokens("s"), Undisturbed());
  Worker worker(store);
  worker.Open("s");
  EXPECT_EQ(worker.Inspect("s")->state_digest, UndisturbedDigest());
}

}  // namespace
}  // namespace lola::engine
