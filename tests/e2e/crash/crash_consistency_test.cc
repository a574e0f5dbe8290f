// The store is killed at every passage of every failpoint of a scripted workload. Afterwards it
// must hold all that was acknowledged, at most one operation more, and nothing else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>

#include "tests/e2e/crash/script.h"
#include "tests/support/process.h"

namespace lola::crash {
namespace {

constexpr auto kChildTimeout = std::chrono::seconds(60);

class CrashTest : public ::testing::Test {
 protected:
  // Runs the child in a fresh folder; returns its wait status.
  int RunChild(const std::string& failpoints) {
    std::filesystem::remove_all(folder());
    std::filesystem::remove(acknowledged());
    testing::ChildProcess child(
        {LOLA_BINARY_DIR "/bin/crash_child", folder(), acknowledged(), names()},
        temporary_.path() + "/log", {{"LOLA_FAILPOINTS", failpoints}});
    const auto status = child.Wait(kChildTimeout);
    EXPECT_TRUE(status.has_value()) << "the child hangs with " << failpoints;
    return status.value_or(-1);
  }

  std::vector<std::string> AllFailpoints() {
    EXPECT_EQ(RunChild(""), 0) << "the script fails without any failpoint";
    std::ifstream in(names());
    std::vector<std::string> found;
    for (std::string name; std::getline(in, name);) found.push_back(name);
    return found;
  }

  // Opens what the child left and compares; then goes on with the script to its end.
  void Judge() {
    const auto script = Script();
    const size_t done = std::filesystem::file_size(acknowledged());
    Model before;
    for (size_t i = 0; i < done; ++i) script[i].apply(before);
    Model after = before;
    if (done < script.size()) script[done].apply(after);

    auto store = store::StreamStore::Open(ScriptOptions(folder()));
    ASSERT_TRUE(store.ok()) << store.status();
    ExpectSound(**store);
    auto found = ReadModel(**store);
    ASSERT_TRUE(found.ok()) << found.status();
    ASSERT_TRUE(*found == before || *found == after)
        << "after " << done << " acknowledged operations";
    ASSERT_TRUE((*store)->CollectNow().ok());
    ExpectSound(**store);
    const bool in_flight_is_there = *found == after && !(before == after);
    Finish(**store, script, done, in_flight_is_there, *std::move(found));
  }

  static void ExpectSound(store::StreamStore& store) {
    auto problems = store.Audit();
    ASSERT_TRUE(problems.ok()) << problems.status();
    ASSERT_THAT(*problems, ::testing::IsEmpty());
  }

  // A client that goes on: the operation in flight is tried again, then come the others.
  static void Finish(store::StreamStore& store, const std::vector<Operation>& script, size_t done,
                     bool in_flight_is_there, Model model) {
    for (size_t i = done; i < script.size(); ++i) {
      const bool retry = i == done && in_flight_is_there;
      const bool raises_epoch = script[i].name.rfind("acquire", 0) == 0;
      if (retry && script[i].name.rfind("rewind", 0) == 0) continue;  // no retry: it is seen
      const absl::Status status = script[i].run(store, model);
      ASSERT_TRUE(status.ok()) << script[i].name << ": " << status;
      if (!retry || raises_epoch) script[i].apply(model);
    }
    auto found = ReadModel(store);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_TRUE(*found == model) << "at the end of the script";
    ExpectSound(store);
  }

  std::string folder() const { return temporary_.path() + "/store"; }
  std::string acknowledged() const { return temporary_.path() + "/acknowledged"; }
  std::string names() const { return temporary_.path() + "/names"; }

  testing::TempFolder temporary_;
};

TEST_F(CrashTest, EveryDurableStepHasAFailpoint) {
  const auto names = AllFailpoints();
  for (const char* name : {"blob.before_sync",
                           "blob.after_sync",
                           "blob.after_rename",
                           "blob.after_folder_sync",
                           "store.append.before_commit",
                           "store.append.after_commit",
                           "store.snapshot.before_commit",
                           "store.snapshot.after_commit",
                           "store.fork.before_commit",
                           "store.fork.after_commit",
                           "store.rewind.before_commit",
                           "store.rewind.after_commit",
                           "store.delete.before_commit",
                           "store.delete.after_commit",
                           "store.collect_blob.before_remove",
                           "store.collect_blob.after_remove",
                           "store.collect_log.before_commit",
                           "store.collect_log.after_commit",
                           "store.acquire.before_commit",
                           "store.release.after_commit",
                           "store.create.before_commit"}) {
    EXPECT_THAT(names, ::testing::Contains(name));
  }
}

TEST_F(CrashTest, KilledAnywhereNothingAcknowledgedIsLost) {
  int kills = 0;
  for (const std::string& name : AllFailpoints()) {
    for (int passage = 1;; ++passage) {
      SCOPED_TRACE(name + "=kill@" + std::to_string(passage));
      const int status = RunChild(name + "=kill@" + std::to_string(passage));
      if (WIFEXITED(status)) {
        ASSERT_EQ(WEXITSTATUS(status), 0);
        ASSERT_GT(passage, 1) << "never killed";
        break;
      }
      ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
      ++kills;
      Judge();
      if (HasFailure()) return;
    }
  }
  std::printf("%d kills\n", kills);
  EXPECT_GT(kills, 60);
}

TEST_F(CrashTest, FailingStepsLeaveAWholeStore) {
  for (const std::string& name : AllFailpoints()) {
    SCOPED_TRACE(name + "=error");
    const int status = RunChild(name + "=error");
    ASSERT_TRUE(WIFEXITED(status));
    ASSERT_NE(WEXITSTATUS(status), 0);
    Judge();
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace lola::crash
