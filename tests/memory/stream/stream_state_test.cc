#include "memory/stream/stream_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "memory/stream/layer_views.h"
#include "tests/memory/stream/stream_fixture.h"

namespace lola::memory {
namespace {

using test::RandomStream;
using test::StreamRunner;
using ::testing::HasSubstr;

LolaSettings Small() {
  LolaSettings settings = LolaSettings::LifelongProfile();
  settings.window = settings.chunk = 16;
  settings.cache_pairs = 24;
  return settings;
}

class StreamStateTest : public ::testing::Test {
 protected:
  StreamStateTest()
      : source_(test::SmallGeometry(), 100, 9),
        layout_(source_.geometry, Small()),
        runner_(&layout_, &source_) {
    kernels::ThreadPool pool(1);
    runner_.Advance(100, pool);
  }
  std::string Refusal() {
    const absl::Status status = runner_.State().Check(test::kTestModel);
    EXPECT_FALSE(status.ok());
    return std::string(status.message());
  }
  RecordHeader& header() { return *reinterpret_cast<RecordHeader*>(runner_.record().data()); }

  RandomStream source_;
  StateLayout layout_;
  StreamRunner runner_;
};

TEST_F(StreamStateTest, ResetGivesTheSameEmptyStateWhateverWasThere) {
  StreamRunner fresh(&layout_, &source_);
  EXPECT_NE(fresh.State().Digest(), runner_.State().Digest());
  runner_.State().Reset(test::kTestModel);
  EXPECT_EQ(fresh.State().Digest(), runner_.State().Digest());
  EXPECT_EQ(runner_.State().position(), 0u);
  EXPECT_TRUE(runner_.State().Check(test::kTestModel).ok());
}

TEST_F(StreamStateTest, DigestSeesEveryByte) {
  const Digest128 before = runner_.State().Digest();
  for (size_t at = 0; at < runner_.record().size(); at += 1021) {
    runner_.record()[at] ^= std::byte{1};
    EXPECT_NE(runner_.State().Digest(), before) << at;
    runner_.record()[at] ^= std::byte{1};
  }
  EXPECT_EQ(runner_.State().Digest(), before);
  EXPECT_EQ(ToHex(before).size(), 32u);
}

TEST_F(StreamStateTest, CheckNamesTheHeaderFieldAndBothValues) {
  ASSERT_TRUE(runner_.State().Check(test::kTestModel).ok());
  const RecordHeader good = header();
  header().magic[0] = 'X';
  EXPECT_THAT(Refusal(), HasSubstr("magic"));
  header() = good;
  header().layout_version = 9;
  EXPECT_THAT(Refusal(), HasSubstr("layout_version is 9, expected 1"));
  header() = good;
  header().layers = 3;
  EXPECT_THAT(Refusal(), HasSubstr("layers is 3, expected 2"));
  header() = good;
  header().record_bytes += 4096;
  EXPECT_THAT(Refusal(), HasSubstr("record_bytes"));
  header() = good;
  header().settings_fingerprint[0] ^= std::byte{1};
  EXPECT_THAT(Refusal(), HasSubstr("settings_fingerprint"));
  header() = good;
  header().model_fingerprint[0] ^= std::byte{1};
  EXPECT_THAT(Refusal(), HasSubstr("model_fingerprint"));
  EXPECT_TRUE(runner_.State().Check().ok());  // no model given, none compared
  header() = good;
  EXPECT_TRUE(runner_.State().Check(test::kTestModel).ok());
}

TEST_F(StreamStateTest, CheckRefusesCountersThatDoNotFollowFromThePosition) {
  HeadMemory head = HeadOf(layout_, runner_.record().data(), 1, 2);
  const HeadCounters good = *head.counters;
  head.counters->cached = 1000000;  // would read far outside
  EXPECT_THAT(Refusal(), HasSubstr("layer 1 head 2 cached is 1000000, expected 24"));
  *head.counters = good;
  head.counters->absorbed += 1;
  EXPECT_THAT(Refusal(), HasSubstr("absorbed"));
  *head.counters = good;
  head.counters->events = 0;
  EXPECT_THAT(Refusal(), HasSubstr("events"));
  *head.counters = good;
  head.meta[3].position = 96;
  EXPECT_THAT(Refusal(), HasSubstr("slot 3 position is 96"));
  head.meta[3].position = -1;
  EXPECT_THAT(Refusal(), HasSubstr("slot 3 position is -1"));
}

// An adaptive cache may hold any number between its bounds; a shared one has one size.
TEST_F(StreamStateTest, CheckKnowsTheBoundsOfAnAdaptiveSharedCache) {
  LolaSettings settings = Small();
  settings.adaptive_mass = 0.5f;
  settings.cache_pairs_min = 6;
  settings.cache_sharing = CacheSharing::kGroup;
  const StateLayout layout(source_.geometry, settings);
  StreamRunner runner(&layout, &source_);
  kernels::ThreadPool pool(1);
  runner.Advance(100, pool);
  ASSERT_TRUE(runner.State().Check(test::kTestModel).ok());
  const auto refusal = [&](uint32_t head, int change) {
    HeadMemory memory = HeadOf(layout, runner.record().data(), 1, head);
    const HeadCounters good = *memory.counters;
    memory.counters->cached += change;
    memory.counters->absorbed -= change;
    const std::string message(runner.State().Check(test::kTestModel).message());
    *memory.counters = good;
    return message;
  };
  const int cached =
      static_cast<int>(HeadOf(layout, runner.record().data(), 1, 0).counters->cached);
  EXPECT_GE(cached, 6);
  EXPECT_LT(cached, 24);
  EXPECT_THAT(refusal(0, 25 - cached), HasSubstr("cached is 25, expected 6 to 24"));
  EXPECT_THAT(refusal(0, 5 - cached), HasSubstr("cached is 5, expected 6 to 24"));
  EXPECT_THAT(refusal(1, cached < 20 ? 1 : -1), HasSubstr("layer 1 head 1 cached"));
  EXPECT_TRUE(runner.State().Check(test::kTestModel).ok());
}

TEST_F(StreamStateTest, CheckRefusesASoftmaxRecordBeyondItsWindow) {
  const StateLayout layout(source_.geometry, LolaSettings::SoftmaxProfile(50));
  std::vector<std::byte> record(layout.stride_bytes());
  StreamState state(&layout, record);
  state.Reset(test::kTestModel);
  EXPECT_TRUE(state.CheckRoom(50).ok());
  EXPECT_EQ(state.CheckRoom(51).code(), absl::StatusCode::kResourceExhausted);
  state.SetPosition(51);
  EXPECT_THAT(std::string(state.Check().message()), HasSubstr("position is 51"));
}

TEST_F(StreamStateTest, InspectListsPairsByPosition) {
  const HeadView view = runner_.State().InspectHead(0, 0);
  ASSERT_EQ(view.pairs.size(), 24u);
  EXPECT_EQ(view.events, 5u);
  EXPECT_EQ(view.absorbed, 5u * 16 - 24);
  for (size_t i = 1; i < view.pairs.size(); ++i) {
    EXPECT_LT(view.pairs[i - 1].position, view.pairs[i].position);
  }
}

}  // namespace
}  // namespace lola::memory
