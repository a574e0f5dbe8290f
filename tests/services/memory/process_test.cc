// lola-memory as a process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <fstream>
#include <sstream>

#include "tests/support/process.h"

namespace lola::testing {
namespace {

// Whoever supervises it starts it again: it must not stay, refusing every write.
TEST(ShardProcess, EndsByItselfWhenItsStoreMustBeOpenedAnew) {
  const TempFolder folder;
  const std::string log = folder.path() + "/log";
  ChildProcess child({LOLA_BINARY_DIR "/bin/lola-memory", "--data", folder.path() + "/data",
                      "--bind", "127.0.0.1:0", "--metrics-bind", ""},
                     log, {{"LOLA_FAILPOINTS", "shard.health=error@3"}});
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

}  // namespace
}  // namespace lola::testing
