#include "services/worker/pair_contexts.h"

#include <gtest/gtest.h>

#include "tests/services/engine/runtime/fake_backend.h"

namespace lola::worker {
namespace {

TEST(PairContexts, CloseRangesAreJoinedAndStayInsideTheLog) {
  const auto ranges = ContextRanges({5, 3, 100, 10'000}, 10'005);
  ASSERT_EQ(ranges.size(), 2u);
  EXPECT_EQ(ranges[0], (LogRange{0, 113}));
  EXPECT_EQ(ranges[1], (LogRange{9'988, 10'005}));
  EXPECT_TRUE(ContextRanges({50}, 50).empty());
  EXPECT_TRUE(ContextRanges({}, 50).empty());
}

TEST(PairContexts, TextAroundEachPosition) {
  auto store = std::make_shared<engine::FakeStore>();
  engine::CreateRequest create;
  create.stream_id = "s";
  ASSERT_TRUE(store->Create(create).ok());
  const std::string text = "The pass key of ABC is 12345.\nNothing else matters here at all.";
  engine::TokenRun run;
  run.ids.assign(text.begin(), text.end());
  ASSERT_TRUE(store->Append({"s", 0, {run}}).status.ok());
  auto backend = std::make_shared<engine::FakeBackend>(store, "w");
  std::mutex mu;
  std::condition_variable changed;
  std::optional<Contexts> result;
  ReadContexts(backend, engine::MakeByteTokenizer(), "s", {23, 24, 0}, text.size(),
               [&](Contexts contexts) {
                 std::lock_guard lock(mu);
                 result = std::move(contexts);
                 changed.notify_all();
               });
  std::unique_lock lock(mu);
  ASSERT_TRUE(changed.wait_for(lock, std::chrono::seconds(20), [&] { return result.has_value(); }));
  std::string expected = text.substr(23 - 12, 25);
  expected[expected.find('\n')] = ' ';
  EXPECT_EQ((*result)[23], expected);
  EXPECT_EQ((*result)[0], "The pass key ");
  EXPECT_EQ(result->size(), 3u);
}

}  // namespace
}  // namespace lola::worker
