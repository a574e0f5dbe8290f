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

TEST_F(CollectRaceTest, ASnapshotThatGoesWhileItIsOpenedIsNotCalledDamaged) {
  Create("s");
  const auto info = Put("s", Acquire("s"), 0, std::string(5000, 'x'));
  ASSERT_TRUE(info.ok());
  std::thread remover;
  std::atomic<bool> removed{false};
  files_.SetFault([&](std::string_view step, const std::string&) {
    if (step != "open" || remover.joinable()) return absl::OkStatus();
    remover = std::thread([&] {
      EXPECT_TRUE(store_->Delete("s").ok());
      EXPECT_TRUE(store_->CollectNow().ok());
      removed = true;
    });
    // As long as the file is being opened it must stay: this waits in vain.
    for (int i = 0; i < 300 && !removed; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return absl::OkStatus();
  });
  const auto bytes = Get("s", info->blob_id());
  remover.join();
  files_.SetFault(nullptr);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(*bytes, std::string(5000, 'x'));
  EXPECT_EQ(store_->Stats().broken_blobs, 0u);
  ExpectClean();
  EXPECT_TRUE(Files("blobs").empty());
}

}  // namespace
}  // namespace lola::store
