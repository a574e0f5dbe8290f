// A stream that comes to a worker of another instruction class is told so, wherever it is told how
// it came; one that stays within a class is told that nothing changed.
#include "services/engine/runtime/arithmetic.h"

#include <gmock/gmock.h>

#include "tests/services/engine/runtime/engine_testing.h"

namespace lola::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Arithmetic, ClassesAreKeptOnceTheNewestLast) {
  Classes classes;
  for (const char* name : {"avx2", "avx2", "cuda-sm90", "avx2", ""}) AddClass(classes, name);
  EXPECT_THAT(classes, ElementsAre("cuda-sm90", "avx2", "unknown"));
  AddClass(classes, classes.front());
  EXPECT_THAT(classes, ElementsAre("avx2", "unknown", "cuda-sm90"));
}

TEST(Arithmetic, OnlyOneOwnClassIsExact) {
  EXPECT_EQ(JudgeContinuation({}, "avx2"), Continuation::kExact);
  EXPECT_EQ(JudgeContinuation(Classes{"avx2"}, "avx2"), Continuation::kExact);
  EXPECT_EQ(JudgeContinuation(Classes{"unknown", "avx2"}, "avx2"), Continuation::kUnknown);
  EXPECT_EQ(JudgeContinuation(Classes{"cuda-sm90", "avx2"}, "avx2"), Continuation::kTolerance);
  EXPECT_EQ(JudgeContinuation(Classes{"unknown", "cuda-sm90"}, "avx2"), Continuation::kTolerance);
}

TEST(Arithmetic, AClassThatVariesIsNeverExact) {
  for (const std::string varying : {"cuda-sm90x132-lt130200-fast", "0-1:cuda-sm90-fast,2-3:avx2"}) {
    EXPECT_EQ(JudgeContinuation(Classes{varying}, varying), Continuation::kTolerance);
    EXPECT_EQ(JudgeContinuation(Classes{"avx2"}, varying), Continuation::kTolerance);
    EXPECT_EQ(JudgeContinuation({}, varying), Continuation::kExact) << "nothing computed yet";
    EXPECT_EQ(JudgeContinuation(Classes{varying}, "avx2"), Continuation::kTolerance);
  }
}

class ClassChange : public ::testing::Test {
 protected:
  std::unique_ptr<Worker> Make(const std::string& name, const std::string& instruction_class) {
    return std::make_unique<Worker>(store_, SmallOptions(), name, Worker::CpuRunner,
                                    instruction_class);
  }
  // Appends, generates, and leaves without a word.
  void CrashAfter(uint64_t tokens) {
    auto worker = Make("a", "avx2");
    auto session = worker->Open("s");
    worker->Append(session, 1, RandomText(tokens, 1), 0);
    ASSERT_TRUE(session.client->WaitDone(1));
    if (tokens < SmallOptions().checkpoint_tokens) return;
    ASSERT_TRUE(worker->Eventually([](const auto& now) { return now.snapshots > 0; }));
  }
  std::shared_ptr<FakeStore> store_ = std::make_shared<FakeStore>();
};

TEST_F(ClassChange, ANewStreamAndOneThatComesBackToItsClassGoOnExactly) {
  CrashAfter(150);
  EXPECT_THAT(store_->Record("s").snapshots.back().computed_by, ElementsAre("avx2"));
  auto worker = Make("b", "avx2");
  const RestoreReport report = worker->Open("s", /*takeover=*/true).client->opened().restore;
  EXPECT_EQ(report.continuation, Continuation::kExact);
  EXPECT_THAT(report.computed_by, ElementsAre("avx2"));
  const RestoreReport fresh = worker->Open("new").client->opened().restore;
  EXPECT_EQ(fresh.continuation, Continuation::kExact);
  EXPECT_THAT(fresh.computed_by, IsEmpty());
  EXPECT_EQ(fresh.instruction_class, "avx2");
  EXPECT_EQ(worker->engine->statistics().class_changes, 0u);
}

TEST_F(ClassChange, AnotherClassSaysSoToEverybodyWhoAsks) {
  CrashAfter(150);
  auto worker = Make("b", "cuda-sm90");
  auto session = worker->Open("s", /*takeover=*/true);
  const RestoreReport report = session.client->opened().restore;
  EXPECT_EQ(report.kind, RestoreReport::Kind::kRestored);
  EXPECT_EQ(report.continuation, Continuation::kTolerance);
  EXPECT_EQ(report.instruction_class, "cuda-sm90");
  EXPECT_THAT(report.computed_by, ElementsAre("avx2"));
  // Also to a client that finds it resident, and in what is looked at and kept.
  const RestoreReport second = worker->Open("s").client->opened().restore;
  EXPECT_EQ(second.kind, RestoreReport::Kind::kResident);
  EXPECT_EQ(second.continuation, Continuation::kTolerance);
  EXPECT_THAT(second.computed_by, ElementsAre("avx2"));
  worker->Append(session, 1, RandomText(20, 2));
  ASSERT_TRUE(session.client->WaitDone(1));
  EXPECT_THAT(worker->Inspect("s")->computed_by, ElementsAre("avx2", "cuda-sm90"));
  const auto snapshot = worker->Snapshot("s", "mark");
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_THAT(snapshot->computed_by, ElementsAre("avx2", "cuda-sm90"));
  EXPECT_TRUE(worker->Eventually([](const auto& now) { return now.class_changes == 1; }));
  // Back where it began: some of it was computed elsewhere.
  worker.reset();
  auto first = Make("a", "avx2");
  const RestoreReport back = first->Open("s", /*takeover=*/true).client->opened().restore;
  EXPECT_EQ(back.continuation, Continuation::kTolerance);
  EXPECT_THAT(back.computed_by, ElementsAre("avx2", "cuda-sm90"));
}

TEST_F(ClassChange, TheLogAloneTellsWhoChoseItsTokens) {
  CrashAfter(20);  // no snapshot yet
  ASSERT_TRUE(store_->Record("s").snapshots.empty());
  auto worker = Make("b", "cuda-sm90");
  const RestoreReport report = worker->Open("s", /*takeover=*/true).client->opened().restore;
  EXPECT_EQ(report.continuation, Continuation::kTolerance);
  EXPECT_THAT(report.computed_by, ElementsAre("avx2"));
  EXPECT_EQ(report.reused_tokens, 0u);
}

TEST_F(ClassChange, AStreamThatLeavesItsSlotAndComesBackIsCountedOnce) {
  CrashAfter(150);
  EngineOptions options = SmallOptions();
  options.slots = 1;
  Worker worker(store_, options, "b", Worker::CpuRunner, "cuda-sm90");
  auto session = worker.Open("s", /*takeover=*/true);
  worker.Append(session, 1, RandomText(40, 2));
  ASSERT_TRUE(session.client->WaitDone(1));
  auto other = worker.Open("other");  // takes the only slot
  worker.Append(session, 2, RandomText(10, 3));
  ASSERT_TRUE(session.client->WaitDone(2));
  EXPECT_TRUE(worker.Eventually([](const auto& now) { return now.restores >= 2; }));
  EXPECT_EQ(worker.engine->statistics().class_changes, 1u);
}

TEST_F(ClassChange, WhatNobodyWroteDownIsNotClaimedToBeExact) {
  CrashAfter(150);
  store_->ForgetClasses("s");
  auto worker = Make("b", "avx2");
  const RestoreReport report = worker->Open("s", /*takeover=*/true).client->opened().restore;
  EXPECT_EQ(report.continuation, Continuation::kUnknown);
  EXPECT_THAT(report.computed_by, ElementsAre("unknown"));
}

}  // namespace
}  // namespace lola::engine
