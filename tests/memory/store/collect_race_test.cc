// What happens between the collector's look and its deed, and between a reader's and its own.
#include <atomic>
#include <chrono>
#include <thread>

#include "tests/memory/store/store_fixture.h"

namespace lola::store {
namespace {

using CollectRaceTest = StoreTest;

TEST_F(CollectRaceTest, AReaderThatBecomesALogsWriterKeepsItsNewTokens) {
  Create("s");
  ASSERT_TRUE(Append("s", Acquire("s"), 0, Count(0, 1500)).ok());
  ASSERT_TRUE(Fork("s", "child", 1500).ok());
  ASSERT_TRUE(store_->Delete("s").ok());  // the log has a reader left, and no writer
  constexpr char kPlace[] = "store.collect_log.before_commit";
  ASSERT_TRUE(memory::ArmFailpoints(std::string(kPlace) + "=sleep:700").ok());
  std::thread collector([&] { EXPECT_TRUE(store_->CollectNow().ok()); });
  while (memory::FailpointPassages(kPlace) == 0) std::this_thread::yield();
  // The collector has seen that nobody writes the log, and is about to cut its tail.
  ASSERT_TRUE(Rewind("child", 1400).ok());
  ASSERT_TRUE(Append("child", Acquire("child"), 1400, Count(1400, 3000)).ok());
  collector.join();
  EXPECT_EQ(Tokens("child"), Count(0, 4400));
  ASSERT_TRUE(memory::ArmFailpoints("").ok());
  Reopen();
  EXPECT_EQ(Tokens("child"), Count(0, 4400));
  ExpectClean();
}

}  // namespace
}  // namespace lola::store
