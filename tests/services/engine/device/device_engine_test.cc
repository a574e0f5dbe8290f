// The engine over a device: streams live in device slots, leave and come back, and no token
// changes.
#include <gtest/gtest.h>

#include "services/engine/device/device_runner.h"
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
}

}  // namespace
}  // namespace lola::engine
