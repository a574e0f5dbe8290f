// Many streams on few slots, and leaving a worker: nobody waits for ever, nothing changes.
#include "tests/services/engine/runtime/engine_testing.h"

namespace lola::engine {
namespace {

// What stream `i` says when it is alone, however its tokens are cut into operations.
struct Script {
  std::vector<int32_t> log;
  std::string digest;
};
Script Alone(int i) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto session = worker.Open("s");
  worker.Append(session, 1, RandomText(40 + size_t(i) * 7, uint64_t(i)));
  worker.Generate(session, 2, 30);
  worker.Append(session, 3, RandomText(25, uint64_t(i) + 1000));
  worker.Generate(session, 4, 20);
  EXPECT_TRUE(session.client->WaitDone(4));
  return {store->Tokens("s"), worker.Inspect("s")->state_digest};
}

TEST(Residency, TenTimesMoreStreamsThanSlotsSayWhatTheySayAlone) {
  constexpr int kStreams = 40;  // on 4 slots
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  std::vector<Worker::Session> sessions;
  for (int i = 0; i < kStreams; ++i) sessions.push_back(worker.Open("s" + std::to_string(i)));
  std::mt19937 random(3);
  for (int i = 0; i < kStreams; ++i) {
    // Appends cut at random places, companions in the batch change all the time.
    const auto text = RandomText(40 + size_t(i) * 7, uint64_t(i));
    uint64_t seq = 1000;
    for (size_t at = 0; at < text.size();) {
      const size_t n = std::min<size_t>(text.size() - at, 1 + random() % 60);
      worker.Append(sessions[i], seq++, {text.begin() + at, text.begin() + at + n});
      at += n;
    }
    worker.Generate(sessions[i], 2, 30);
  }
  for (int i = 0; i < kStreams; ++i) ASSERT_TRUE(sessions[i].client->WaitDone(2)) << i;
  for (int i = 0; i < kStreams; ++i) {
    worker.Append(sessions[i], 3, RandomText(25, uint64_t(i) + 1000));
    worker.Generate(sessions[i], 4, 20);
  }
  for (int i = 0; i < kStreams; ++i) ASSERT_TRUE(sessions[i].client->WaitDone(4)) << i;
  const EngineStatistics statistics = worker.engine->statistics();
  EXPECT_GT(statistics.demotions, uint64_t(kStreams - 4));
  EXPECT_LE(statistics.slots_used, 4u);
  EXPECT_EQ(statistics.open_streams, uint32_t(kStreams));
  for (int i = 0; i < kStreams; i += 5) {
    const Script alone = Alone(i);
    const std::string id = "s" + std::to_string(i);
    EXPECT_EQ(store->Tokens(id), alone.log) << id;
    EXPECT_EQ(worker.Inspect(id)->state_digest, alone.digest) << id;
  }
}

TEST(Residency, LongGenerationsGiveWayToWaitingStreams) {
  auto store = std::make_shared<FakeStore>();
  EngineOptions options = SmallOptions();
  options.slots = 1;
  Worker worker(store, options);
  auto forever = worker.Open("forever");
  worker.Append(forever, 1, RandomText(10, 1));
  worker.Generate(forever, 2, 1'000'000);
  ASSERT_TRUE(forever.client->WaitTokens(5));
  auto other = worker.Open("other");
  worker.Append(other, 1, RandomText(10, 2));
  worker.Generate(other, 2, 10);
  ASSERT_TRUE(other.client->WaitDone(2));
  const size_t before = forever.client->tokens().size();
  ASSERT_TRUE(forever.client->WaitTokens(before + 20));
  EXPECT_TRUE(worker.Eventually([](const EngineStatistics& now) { return now.preemptions >= 1; }));
  worker.engine->Cancel(forever.id, 2);
  ASSERT_TRUE(forever.client->WaitDone(2));
  // The interruptions left no trace.
  const size_t generated = forever.client->tokens().size();
  auto alone_store = std::make_shared<FakeStore>();
  Worker alone(alone_store);
  auto session = alone.Open("forever");
  alone.Append(session, 1, RandomText(10, 1));
  alone.Generate(session, 2, generated);
  ASSERT_TRUE(session.client->WaitDone(2));
  EXPECT_EQ(session.client->ids(), forever.client->ids());
}

TEST(Residency, ALongPrefillDoesNotStallDecoders) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto decoder = worker.Open("decoder");
  worker.Append(decoder, 1, RandomText(10, 1));
  ASSERT_TRUE(decoder.client->WaitDone(1));
  auto prefill = worker.Open("prefill");
  worker.Append(prefill, 1, RandomText(6000, 2));
  worker.Generate(decoder, 2, 100);
  ASSERT_TRUE(decoder.client->WaitDone(2));
  // 6000 tokens at 16 rows beside a decoder take 375 passes: the decoder needed about 100.
  EXPECT_FALSE(prefill.client->is_done(1));
  ASSERT_TRUE(prefill.client->WaitDone(1));
  EXPECT_EQ(worker.runner->max_rows, SmallOptions().step_rows);
}

TEST(Residency, IdleStreamsLeaveTheirSlotsAndThenTheWorker) {
  auto store = std::make_shared<FakeStore>();
  EngineOptions options = SmallOptions();
  options.idle_demote = std::chrono::milliseconds(50);
  options.idle_release = std::chrono::milliseconds(200);
  Worker worker(store, options);
  auto session = worker.Open("s");
  worker.Append(session, 1, RandomText(50, 1));
  ASSERT_TRUE(session.client->WaitDone(1));
  EXPECT_TRUE(worker.Eventually([](const EngineStatistics& now) { return now.slots_used == 0; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(worker.engine->statistics().open_streams, 1u);  // somebody is attached
  EXPECT_FALSE(store->Record("s").snapshots.empty());
  worker.Generate(session, 2, 10);
  ASSERT_TRUE(session.client->WaitDone(2));
  worker.engine->Detach(session.id);
  EXPECT_TRUE(worker.Eventually([](const EngineStatistics& now) { return now.open_streams == 0; }));
  EXPECT_EQ(store->Record("s").owner, "");
}

TEST(Residency, ReleaseSendsClientsOnAndLeavesASnapshot) {
  auto store = std::make_shared<FakeStore>();
  Worker a(store, SmallOptions(), "worker-a");
  Worker b(store, SmallOptions(), "worker-b");
  auto session = a.Open("s");
  a.Append(session, 1, RandomText(30, 1), 0);
  a.Generate(session, 2, 200, 30);
  ASSERT_TRUE(session.client->WaitTokens(10));
  auto released = a.Release("s", "worker-b");
  ASSERT_TRUE(released.ok()) << released.status();
  EXPECT_EQ(session.client->released(), "worker-b");
  EXPECT_TRUE(absl::IsNotFound(a.Release("s", "").status()));
  ASSERT_TRUE(released->snapshot.has_value());
  EXPECT_GE(released->position, released->snapshot->position);
  const uint64_t delivered = session.client->tokens().back().position + 1;
  auto next = b.Open("s", false, delivered);
  EXPECT_LE(next.client->opened().restore.replayed_tokens, 9u);
  b.Generate(next, 2, 200, 30);
  ASSERT_TRUE(next.client->WaitDone(2));
  auto all = session.client->ids();
  const auto rest = next.client->ids();
  all.insert(all.end(), rest.begin(), rest.end());
  const auto log = store->Tokens("s");
  EXPECT_EQ(all, std::vector<int32_t>(log.begin() + 30, log.end()));
  EXPECT_EQ(all.size(), 200u);
}

TEST(Residency, DrainReleasesEverythingAndRefusesNewWork) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  std::vector<Worker::Session> sessions;
  for (int i = 0; i < 12; ++i) {
    sessions.push_back(worker.Open("s" + std::to_string(i)));
    worker.Append(sessions.back(), 1, RandomText(30, uint64_t(i)));
    worker.Generate(sessions.back(), 2, 100'000);
  }
  ASSERT_TRUE(sessions[0].client->WaitTokens(1));
  auto drained = worker.Call<uint32_t>([&](auto done) {
    worker.engine->Drain(std::chrono::seconds(20), [done](uint32_t n) { done(n); });
  });
  ASSERT_TRUE(drained.ok());
  EXPECT_EQ(*drained, 12u);
  for (int i = 0; i < 12; ++i) {
    EXPECT_TRUE(sessions[i].client->WaitReleased()) << i;
    EXPECT_EQ(store->Record("s" + std::to_string(i)).owner, "");
  }
  auto late = worker.Attach([] {
    AttachRequest request;
    request.stream_id = "late";
    request.create_if_missing = true;
    return request;
  }());
  EXPECT_TRUE(absl::IsUnavailable(late.client->WaitError()));
}

TEST(Residency, ADrainPastItsDeadlineEndsAnyway) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store);
  auto session = worker.Open("s");
  worker.Append(session, 1, RandomText(30, 1));
  ASSERT_TRUE(session.client->WaitDone(1));
  store->unavailable = true;
  auto drained = worker.Call<uint32_t>([&](auto done) {
    worker.engine->Drain(std::chrono::milliseconds(200), [done](uint32_t n) { done(n); });
  });
  EXPECT_TRUE(drained.ok());
  EXPECT_TRUE(session.client->WaitReleased());
}

TEST(Residency, TheEarliestDeadlineOfSeveralDrainsHolds) {
  Worker worker(std::make_shared<FakeStore>());
  auto session = worker.Open("s");
  worker.backend->hold_appends = true;  // the stream does not come to rest
  worker.Append(session, 1, RandomText(30, 1));
  std::atomic<int> drained{0};
  worker.engine->Drain(std::chrono::hours(1), [&](uint32_t) { ++drained; });
  worker.engine->Drain(std::chrono::milliseconds(50), [&](uint32_t) { ++drained; });
  EXPECT_TRUE(session.client->WaitReleased());
  EXPECT_TRUE(worker.Eventually([&](const auto&) { return drained == 2; }));
  worker.backend->hold_appends = false;
}

TEST(Residency, LeasesAreRenewedWhileARoundBeforeIsNotAnswered) {
  EngineOptions options = SmallOptions();
  options.lease_renewal = std::chrono::milliseconds(10);
  Worker worker(std::make_shared<FakeStore>(), options);
  auto session = worker.Open("s");
  worker.backend->mute_renewals = true;  // as by one shard of several that hangs
  const int before = worker.backend->renewals;
  EXPECT_TRUE(
      worker.Eventually([&](const auto&) { return worker.backend->renewals > before + 3; }));
}

// What is still on its way to a slot when its stream leaves must not reach who has the slot next.
TEST(Residency, AnAbandonedDownloadDoesNotTouchTheSlotsNextStream) {
  auto store = std::make_shared<FakeStore>();
  {
    Worker other(store, SmallOptions(), "worker-b");
    auto session = other.Open("old");
    other.Append(session, 1, RandomText(90, 1));
    ASSERT_TRUE(session.client->WaitDone(1));
    ASSERT_TRUE(other.Release("old", "").ok());
  }
  EngineOptions options = SmallOptions();
  options.slots = 1;
  Worker worker(store, options);
  worker.backend->hold_downloads = true;
  auto old = worker.Attach({.stream_id = "old"});
  ASSERT_TRUE(worker.Eventually([](const auto& now) { return now.slots_used == 1; }));
  ASSERT_TRUE(worker.Release("old", "elsewhere").ok());  // in the middle of its download
  auto session = worker.Open("new");
  worker.Append(session, 1, RandomText(40, 0));
  worker.Generate(session, 2, 30);
  ASSERT_TRUE(session.client->WaitDone(2));
  worker.backend->hold_downloads = false;
  ASSERT_TRUE(worker.Eventually([&](const auto&) { return worker.backend->downloads == 1; }));
  worker.Append(session, 3, RandomText(25, 1000));
  worker.Generate(session, 4, 20);
  ASSERT_TRUE(session.client->WaitDone(4));
  const Script alone = Alone(0);
  EXPECT_EQ(store->Tokens("new"), alone.log);
  EXPECT_EQ(worker.Inspect("new")->state_digest, alone.digest);
}

// A repeated append is compared with the log, part of which has to be fetched; meanwhile its stream
// leaves the slot and comes back with a tail that begins later.
TEST(Residency, AStreamThatLeavesWhileItsLogIsFetchedComparesAllOfIt) {
  constexpr size_t kText = kRepetitionWindowMax + 900;
  EngineOptions options = SmallOptions();
  options.slots = 1;
  auto store = std::make_shared<FakeStore>();
  Worker worker(store, options);
  auto session = worker.Open("s");
  const std::vector<int32_t> text = RandomText(kText, 1);
  worker.Append(session, 1, text, 0);
  ASSERT_TRUE(session.client->WaitDone(1));
  worker.backend->hold_appends = true;  // so that the state goes ahead of what is known as durable
  worker.Generate(session, 2, options.uncommitted_tokens_max, kText);
  ASSERT_TRUE(worker.Eventually(
      [&](const auto& now) { return now.decode_tokens == options.uncommitted_tokens_max; }));
  worker.backend->hold_appends = false;
  ASSERT_TRUE(session.client->WaitDone(2));
  worker.backend->hold_reads = true;
  worker.Append(session, 3, {text.begin(), text.begin() + 1000}, 0);
  auto other = worker.Open("other");  // takes the only slot
  worker.backend->hold_reads = false;
  ASSERT_TRUE(session.client->WaitDone(3));
  EXPECT_EQ(session.client->done(3).position, 1000u);
}

TEST(Residency, OpenStreamsAreBounded) {
  EngineOptions options = SmallOptions();
  options.open_streams_max = 5;
  Worker worker(std::make_shared<FakeStore>(), options);
  for (int i = 0; i < 5; ++i) worker.Open("s" + std::to_string(i));
  AttachRequest request;
  request.stream_id = "one-more";
  request.create_if_missing = true;
  auto refused = worker.Attach(request);
  const absl::Status status = refused.client->WaitError();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_NE(status.message().find("5"), std::string::npos);
}

TEST(Residency, BadOptionsAreRefusedByName) {
  EngineOptions options = SmallOptions();
  options.slots = 0;
  EXPECT_TRUE(absl::IsInvalidArgument(options.Validate()));
  options = SmallOptions();
  options.prefill_rows_beside_decode = options.step_rows;
  const absl::Status status = options.Validate();
  EXPECT_NE(status.message().find("prefill_rows_beside_decode"), std::string::npos) << status;
}

TEST(Residency, RowsFitTheRunnerWhereNoneAreAskedFor) {
  const auto fitted = [](size_t rows_max, uint32_t step_rows, uint32_t prefill) {
    EngineOptions options;
    options.step_rows = step_rows;
    options.prefill_rows_beside_decode = prefill;
    EXPECT_TRUE(options.FitRows(rows_max).ok());
    return std::pair(options.step_rows, options.prefill_rows_beside_decode);
  };
  EXPECT_EQ(fitted(256, 0, 0), std::pair(256u, 64u));
  EXPECT_EQ(fitted(2048, 0, 0), std::pair(2048u, 256u));
  EXPECT_EQ(fitted(2048, 512, 0), std::pair(512u, 64u));
  EXPECT_EQ(fitted(256, 16, 0), std::pair(16u, 15u));
  EXPECT_EQ(fitted(256, 0, 100), std::pair(256u, 100u));
  EngineOptions options;
  options.step_rows = 512;
  EXPECT_EQ(options.FitRows(256).message(), "step_rows: 512, but the workspace holds 256");
  options.step_rows = 0;
  options.prefill_rows_beside_decode = 256;
  EXPECT_TRUE(absl::IsInvalidArgument(options.FitRows(256)));
}

}  // namespace
}  // namespace lola::engine
