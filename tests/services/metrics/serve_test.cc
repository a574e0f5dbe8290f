// Processes that end by themselves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <fstream>
#include <sstream>

#include "tests/support/process.h"

namespace lola::testing {
namespace {

// Whoever supervises it starts it again: it must not stay, refusing every write.
void EndsByItselfWhenItsStoreMustBeOpenedAnew(std::vector<std::string> command) {
  const TempFolder folder;
  const std::string log = folder.path() + "/log";
  command.insert(command.end(), {"--data", folder.path() + "/data", "--bind", "127.0.0.1:0",
                                 "--metrics-bind", ""});
  ChildProcess child(command, log, {{"LOLA_FAILPOINTS", "shard.health=error@3"}});
  const auto status = child.Wait(std::chrono::seconds(60));
  ASSERT_TRUE(status.has_value()) << "it stays";
  std::ostringstream text;
  text << std::ifstream(log).rdbuf();
  ASSERT_TRUE(WIFEXITED(*status)) << text.str();
  EXPECT_EQ(WEXITSTATUS(*status), 1) << text.str();
  EXPECT_THAT(text.str(), ::testing::HasSubstr("not serving"));
  EXPECT_THAT(text.str(), ::testing::HasSubstr("failpoint shard.health"));
  EXPECT_THAT(text.str(), ::testing::HasSubstr("stopped"));
}

TEST(Serve, AShardEndsWhenItsStoreMustBeOpenedAnew) {
  EndsByItselfWhenItsStoreMustBeOpenedAnew({LOLA_BINARY_DIR "/bin/lola-memory"});
}

TEST(Serve, SoDoesTheWholeSystemInOneProcess) {
  EndsByItselfWhenItsStoreMustBeOpenedAnew({LOLA_BINARY_DIR "/bin/lola-standalone", "--model",
                                            LOLA_SOURCE_DIR "/tests/testdata/parity/tiny_model"});
}

}  // namespace
}  // namespace lola::testing
