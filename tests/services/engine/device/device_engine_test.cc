// The engine over a device: streams live in device slots, leave and come back, and no token
// changes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <limits>

#include "services/engine/device/device_runner.h"
#include "tests/services/engine/device/forwarding_device.h"
#include "tests/services/engine/runtime/engine_testing.h"

namespace lola::engine {
namespace {

constexpr uint64_t kDeviceBytes = uint64_t{1} << 30;
constexpr size_t kPrompt = 50;
constexpr uint64_t kGenerated = 60;

std::unique_ptr<ModelRunner> EmulatedRunner(size_t rows) {
  auto runner = MakeDeviceRunner(
      TinyModel(), std::shared_ptr<cuda::Device>(cuda::NewEmulatedDevice(kDeviceBytes)), rows);
  EXPECT_TRUE(runner.ok()) << runner.status();
  return *std::move(runner);
}

void RunTurn(Worker& worker, const std::string& stream) {
  auto session = worker.Open(stream, /*takeover=*/true);
  worker.Append(session, 1, RandomText(kPrompt, 1), 0);
  worker.Generate(session, 2, kGenerated, kPrompt);
  ASSERT_TRUE(session.client->WaitDone(2));
}

const std::vector<int32_t>& Undisturbed() {
  static const std::vector<int32_t> tokens = [] {
    auto store = std::make_shared<FakeStore>();
    Worker worker(store, SmallOptions(), "worker-a", EmulatedRunner);
    RunTurn(worker, "s");
    return store->Tokens("s");
  }();
  return tokens;
}

TEST(DeviceEngine, TokensDoNotDependOnCompanionsOrSlots) {
  auto store = std::make_shared<FakeStore>();
  EngineOptions options = SmallOptions();
  options.slots = 2;  // three streams take turns
  Worker worker(store, options, "worker-a", EmulatedRunner);
  std::vector<Worker::Session> sessions;
  for (const std::string stream : {"a", "b", "c"}) {
    sessions.push_back(worker.Open(stream));
    worker.Append(sessions.back(), 1, RandomText(kPrompt, 1), 0);
    worker.Generate(sessions.back(), 2, kGenerated, kPrompt);
  }
  for (const Worker::Session& session : sessions) ASSERT_TRUE(session.client->WaitDone(2));
  for (const std::string stream : {"a", "b", "c"}) EXPECT_EQ(store->Tokens(stream), Undisturbed());
}

TEST(DeviceEngine, ACrashLeavesNoTrace) {
  auto store = std::make_shared<FakeStore>();
  std::string digest;
  for (int crash = 0; crash < 3; ++crash) {
    EngineOptions options = SmallOptions();
    options.checkpoint_tokens = 16;
    Worker worker(store, options, crash % 2 ? "worker-b" : "worker-a", EmulatedRunner);
    auto session = worker.Open("s", /*takeover=*/true);
    worker.Append(session, 1, RandomText(kPrompt, 1), 0);
    worker.Generate(session, 2, kGenerated, kPrompt);
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    worker.engine.reset();
  }
  Worker worker(store, SmallOptions(), "worker-c", EmulatedRunner);
  RunTurn(worker, "s");
  EXPECT_EQ(store->Tokens("s"), Undisturbed());
  const auto report = worker.Inspect("s");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->position, kPrompt + kGenerated);

  Worker fresh(std::make_shared<FakeStore>(), SmallOptions(), "worker-d", EmulatedRunner);
  auto session = fresh.Open("s");
  fresh.Append(session, 1, Undisturbed());
  ASSERT_TRUE(session.client->WaitDone(1));
  EXPECT_EQ(fresh.Inspect("s")->state_digest, report->state_digest);
}

// An uncorrectable ECC error, an Xid: the device says so at the next wait, and for ever.
TEST(DeviceEngine, ADeviceThatIsLostGivesItsStreamsAwayAndNoTokenIsLost) {
  auto store = std::make_shared<FakeStore>();
  EngineOptions options = SmallOptions();
  options.checkpoint_tokens = 16;
  Worker broken(store, options, "broken", [](size_t rows) {
    return *MakeDeviceRunner(TinyModel(),
                             std::shared_ptr<cuda::Device>(
                                 cuda::NewEmulatedDevice(kDeviceBytes, {.fault_at_launch = 900})),
                             rows);
  });
  auto session = broken.Open("s");
  broken.Append(session, 1, RandomText(kPrompt, 1), 0);
  broken.Generate(session, 2, kGenerated, kPrompt);
  const absl::Status error = session.client->WaitError();
  EXPECT_TRUE(absl::IsUnavailable(error)) << error;
  EXPECT_THAT(std::string(error.message()), testing::HasSubstr("GPU lost"));
  EXPECT_TRUE(absl::IsUnavailable(broken.engine->health()));
  EXPECT_TRUE(broken.Eventually([](const auto& now) {
    return now.model_lost && now.model_losses == 1 && now.open_streams == 0;
  }));
  const std::vector<int32_t> delivered = session.client->ids(), logged = store->Tokens("s");
  ASSERT_GE(logged.size(), kPrompt + delivered.size());
  ASSERT_GT(delivered.size(), 0u) << "the fault came too early to show anything";
  EXPECT_TRUE(std::equal(delivered.begin(), delivered.end(), logged.begin() + kPrompt));
  Worker other(store, SmallOptions(), "other", EmulatedRunner);
  RunTurn(other, "s");
  EXPECT_EQ(store->Tokens("s"), Undisturbed());
}

// Spoils one row of logits.
class SpoilingDevice : public ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  void Sample(const cuda::SampleParams& params, size_t rows) override {
    if (steps_to_nan >= 0 && steps_to_nan-- == 0) {
      static const float nan = std::numeric_limits<float>::quiet_NaN();  // read when it runs
      Upload(cuda::Queue::kCompute, const_cast<float*>(params.logits) + 3, &nan, sizeof(nan));
    }
    ForwardingDevice::Sample(params, rows);
  }
  static inline std::atomic<int> steps_to_nan{-1};
};

TEST(DeviceEngine, NanLogitsAreRefusedCountedAndTheStreamStaysWhereItWas) {
  auto store = std::make_shared<FakeStore>();
  Worker worker(store, SmallOptions(), "worker", [](size_t rows) {
    return *MakeDeviceRunner(
        TinyModel(), std::make_shared<SpoilingDevice>(cuda::NewEmulatedDevice(kDeviceBytes)), rows);
  });
  SpoilingDevice::steps_to_nan = 20;
  auto session = worker.Open("s");
  worker.Append(session, 1, RandomText(kPrompt, 1), 0);
  worker.Generate(session, 2, kGenerated, kPrompt);
  const absl::Status error = session.client->WaitError();
  EXPECT_TRUE(absl::IsInternal(error)) << error;
  EXPECT_THAT(std::string(error.message()), testing::HasSubstr("logits: not finite"));
  EXPECT_TRUE(worker.Eventually([](const auto& now) { return now.bad_logits == 1; }));
  EXPECT_TRUE(worker.engine->health().ok());
  // What is there is right, and the rest comes from the last good state.
  EXPECT_LT(store->Tokens("s").size(), kPrompt + kGenerated);
  RunTurn(worker, "s");
  EXPECT_EQ(store->Tokens("s"), Undisturbed());
  EXPECT_EQ(worker.engine->statistics().bad_logits, 1u);
}

TEST(DeviceEngine, RecordingsReplaysAndCachedPairsAreCounted) {
  Worker worker(std::make_shared<FakeStore>(), SmallOptions(), "worker", EmulatedRunner);
  RunTurn(worker, "s");
  EXPECT_TRUE(worker.Eventually([](const auto& now) { return now.cached_pairs > 0; }));
  const EngineStatistics now = worker.engine->statistics();
  const uint64_t heads = TinyModel()->geometry().layers * TinyModel()->geometry().query_heads;
  EXPECT_EQ(now.cache_capacity, heads * SmallSettings().cache_pairs);
  EXPECT_LE(now.cached_pairs, now.cache_capacity);
  EXPECT_GT(now.runner.recordings, 0u);
  EXPECT_GT(now.runner.replays, now.runner.recordings);
  EXPECT_EQ(now.runner.refused_recordings, 0u);
}

TEST(DeviceEngine, RefusedRecordingsAreCounted) {
  Worker worker(std::make_shared<FakeStore>(), SmallOptions(), "worker", [](size_t rows) {
    return *MakeDeviceRunner(TinyModel(),
                             std::shared_ptr<cuda::Device>(cuda::NewEmulatedDevice(
                                 kDeviceBytes, {.refuse_recordings = true})),
                             rows);
  });
  RunTurn(worker, "s");
  EXPECT_TRUE(worker.Eventually([](const auto& now) { return now.runner.refused_recordings > 0; }));
  EXPECT_EQ(worker.engine->statistics().runner.replays, 0u);
}

TEST(DeviceEngine, ADeviceThatIsTooSmallIsRefusedWithNumbers) {
  EngineOptions options = SmallOptions();
  options.slots = 1000;
  auto runner = MakeDeviceRunner(
      TinyModel(), std::shared_ptr<cuda::Device>(cuda::NewEmulatedDevice(1 << 24)), 64);
  ASSERT_TRUE(runner.ok());
  const auto engine =
      Engine::Create(options, *std::move(runner), MakeByteTokenizer(),
                     std::make_shared<FakeBackend>(std::make_shared<FakeStore>(), "worker-a"));
  EXPECT_TRUE(absl::IsResourceExhausted(engine.status())) << engine.status();
  // Weights alone do not fit; a device on which they do says how many slots it has room for.
  runner = MakeDeviceRunner(
      TinyModel(), std::shared_ptr<cuda::Device>(cuda::NewEmulatedDevice(uint64_t{300} << 20)), 64);
  options.slots = 100'000;
  options.open_streams_max = options.slots;
  const auto full =
      Engine::Create(options, *std::move(runner), MakeByteTokenizer(),
                     std::make_shared<FakeBackend>(std::make_shared<FakeStore>(), "worker-a"));
  EXPECT_THAT(std::string(full.status().message()),
              testing::ContainsRegex("slots: 100000 of [0-9]+ bytes each, room is for [1-9]"));
}

}  // namespace
}  // namespace lola::engine
