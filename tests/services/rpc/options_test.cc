#include "services/rpc/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdio>
#include <fstream>
#include <initializer_list>

namespace lola::rpc {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<OptionSet::Outcome> Parse(OptionSet& set, std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "program");
  return set.Parse(static_cast<int>(arguments.size()), arguments.data());
}

std::string WriteConfig(const std::string& text) {
  const std::string path = ::testing::TempDir() + "options_test.toml";
  std::ofstream(path) << text;
  return path;
}

TEST(Bytes, UnitsAreUnderstood) {
  EXPECT_EQ(*ParseBytes("4096"), 4096u);
  EXPECT_EQ(*ParseBytes("64MiB"), 64u << 20);
  EXPECT_EQ(*ParseBytes("1.5GiB"), (3ull << 30) / 2);
  EXPECT_EQ(*ParseBytes("10gb"), 10'000'000'000ull);
}

TEST(Bytes, NonsenseIsRefusedWithTheValue) {
  for (const char* text : {"", "MiB", "64Mi", "-1", "1.5", "64 MiB", "1e3", "99999999999GiB"}) {
    const auto bytes = ParseBytes(text);
    ASSERT_FALSE(bytes.ok()) << text;
    EXPECT_THAT(std::string(bytes.status().message()), HasSubstr(text));
  }
}

TEST(Duration, UnitsAreUnderstoodAndBareNumbersAreNot) {
  EXPECT_EQ(*ParseDuration("250ms"), milliseconds(250));
  EXPECT_EQ(*ParseDuration("1.5s"), milliseconds(1500));
  EXPECT_EQ(*ParseDuration("2m"), milliseconds(120000));
  EXPECT_EQ(*ParseDuration("0"), milliseconds(0));
  for (const char* text : {"5", "s", "5 s", "-5s", "5days"}) {
    EXPECT_FALSE(ParseDuration(text).ok()) << text;
  }
}

TEST(Format, RoundTrips) {
  for (uint64_t bytes : {uint64_t{0}, uint64_t{1023}, uint64_t{4096}, uint64_t{64} << 20}) {
    EXPECT_EQ(*ParseBytes(FormatBytes(bytes)), bytes);
  }
  for (int64_t ms : {0, 1, 250, 5000, 120000, 7200000}) {
    EXPECT_EQ(*ParseDuration(FormatDuration(milliseconds(ms))), milliseconds(ms));
  }
}

TEST(OptionSet, FlagBeatsEnvironmentBeatsFileBeatsDefault) {
  const std::string config = WriteConfig("a = 2\nb = 2\nc = 2\n");
  setenv("LOLA_A", "3", 1);
  setenv("LOLA_B", "3", 1);
  int a = 1, b = 1, c = 1, d = 1;
  OptionSet set("program", "test");
  set.Add("a", &a, "");
  set.Add("b", &b, "");
  set.Add("c", &c, "");
  set.Add("d", &d, "");
  const auto outcome = Parse(set, {"--config", config.c_str(), "--a", "4"});
  unsetenv("LOLA_A");
  unsetenv("LOLA_B");
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(a, 4);
  EXPECT_EQ(b, 3);
  EXPECT_EQ(c, 2);
  EXPECT_EQ(d, 1);
  EXPECT_TRUE(set.Given("c"));
  EXPECT_FALSE(set.Given("d"));
}

TEST(OptionSet, EveryTypeIsRead) {
  std::string text;
  double real = 0;
  bool on = false, off = true;
  Bytes bytes;
  milliseconds duration{0};
  std::vector<std::string> list;
  OptionSet set("program", "test");
  set.Add("some-text", &text, "");
  set.Add("real", &real, "");
  set.Add("on", &on, "");
  set.Add("off", &off, "");
  set.Add("bytes", &bytes, "");
  set.Add("duration", &duration, "");
  set.Add("list", &list, "");
  const auto outcome =
      Parse(set, {"--some-text", "x y", "--real=0.25", "--on", "--off=false", "--bytes", "4KiB",
                  "--duration", "2s", "--list", "a,b", "--list", "c"});
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(text, "x y");
  EXPECT_EQ(real, 0.25);
  EXPECT_TRUE(on);
  EXPECT_FALSE(off);
  EXPECT_EQ(bytes.value, 4096u);
  EXPECT_EQ(duration, milliseconds(2000));
  EXPECT_THAT(list, ElementsAre("a", "b", "c"));
}

TEST(OptionSet, HelpShowsDefaultsOnOneLineEach) {
  std::string suffix = "a\nb";
  bool on = true, off = false;
  OptionSet set("program", "test");
  set.Add("suffix", &suffix, "put behind");
  set.Add("on", &on, "goes");
  set.Add("off", &off, "goes not");
  ::testing::internal::CaptureStdout();
  const auto outcome = Parse(set, {"--help"});
  const std::string help = ::testing::internal::GetCapturedStdout();
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(*outcome, OptionSet::Outcome::kHelpShown);
  EXPECT_THAT(help, HasSubstr("put behind [env LOLA_SUFFIX] (default a\\nb)\n"));
  EXPECT_THAT(help, HasSubstr("goes [env LOLA_ON] (default true)\n"));
  EXPECT_THAT(help, HasSubstr("goes not [env LOLA_OFF]\n"));
}

TEST(OptionSet, UnknownFlagIsAnErrorThatNamesIt) {
  OptionSet set("program", "test");
  const auto outcome = Parse(set, {"--no-such-flag"});
  EXPECT_EQ(outcome.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(outcome.status().message()), HasSubstr("no-such-flag"));
}

TEST(OptionSet, UnknownConfigKeyIsAnErrorThatNamesFileAndKey) {
  const std::string config = WriteConfig("threads = 2\nthraeds = 3\n");
  int threads = 1;
  OptionSet set("program", "test");
  set.Add("threads", &threads, "");
  const auto outcome = Parse(set, {"--config", config.c_str()});
  EXPECT_THAT(std::string(outcome.status().message()),
              AllOf(HasSubstr("thraeds"), HasSubstr(config)));
}

TEST(OptionSet, MissingConfigFileIsNotFound) {
  OptionSet set("program", "test");
  const auto outcome = Parse(set, {"--config", "no/such/file.toml"});
  EXPECT_EQ(outcome.status().code(), absl::StatusCode::kNotFound);
}

TEST(OptionSet, BadValueNamesOptionValueAndSource) {
  setenv("LOLA_THREADS", "many", 1);
  int threads = 1;
  OptionSet set("program", "test");
  set.Add("threads", &threads, "");
  const auto outcome = Parse(set, {});
  unsetenv("LOLA_THREADS");
  EXPECT_THAT(std::string(outcome.status().message()),
              AllOf(HasSubstr("--threads"), HasSubstr("many"), HasSubstr("LOLA_THREADS")));
  EXPECT_EQ(threads, 1);
}

TEST(OptionSet, OutOfRangeIsRefused) {
  uint32_t n = 7;
  OptionSet set("program", "test");
  set.Add("n", &n, "");
  EXPECT_FALSE(Parse(set, {"--n", "4294967296"}).ok());
  EXPECT_FALSE(Parse(set, {"--n=-1"}).ok());
  EXPECT_EQ(n, 7u);
}

TEST(OptionSet, CommandsAreChosenAndShareTheParentsOptions) {
  std::string endpoint = "default", file;
  bool ran_json = false;
  OptionSet set("program", "test");
  set.Add("endpoint", &endpoint, "");
  set.Add("json", &ran_json, "");
  OptionSet& feed = set.AddCommand("feed", "feeds");
  feed.AddPositional("file", &file, "", true);
  OptionSet& model = set.AddCommand("model", "model things");
  model.AddCommand("info", "tells");
  ASSERT_TRUE(Parse(set, {"feed", "book.txt", "--endpoint", "x:1", "--json"}).ok());
  EXPECT_EQ(set.chosen(), "feed");
  EXPECT_EQ(file, "book.txt");
  EXPECT_EQ(endpoint, "x:1");
  EXPECT_TRUE(ran_json);
}

TEST(OptionSet, NestedCommandIsNamedWhole) {
  OptionSet set("program", "test");
  OptionSet& model = set.AddCommand("model", "model things");
  model.AddCommand("info", "tells");
  ASSERT_TRUE(Parse(set, {"model", "info"}).ok());
  EXPECT_EQ(set.chosen(), "model info");
}

TEST(OptionSet, MissingCommandOrPositionalIsAnError) {
  std::string file;
  OptionSet set("program", "test");
  set.AddCommand("feed", "feeds").AddPositional("file", &file, "", true);
  EXPECT_FALSE(Parse(set, {}).ok());
  OptionSet again("program", "test");
  again.AddCommand("feed", "feeds").AddPositional("file", &file, "", true);
  EXPECT_FALSE(Parse(again, {"feed"}).ok());
}

}  // namespace
}  // namespace lola::rpc
