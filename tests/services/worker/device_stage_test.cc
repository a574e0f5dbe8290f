// A stage on a device behind gRPC, with a front on another device and on the CPU: tokens picked at
// the stage, loads and copies, and what a front hears when the device is lost.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include "services/engine/device/device_runner.h"
#include "services/engine/device/device_stage.h"
#include "services/engine/pipeline/host_stage.h"
#include "services/engine/pipeline/pipeline_runner.h"
#include "services/rpc/channel.h"
#include "services/rpc/server_runner.h"
#include "services/worker/stage_client.h"
#include "services/worker/stage_service.h"
#include "tests/services/engine/runtime/engine_testing.h"

namespace lola::worker {
namespace {

using ::testing::HasSubstr;

constexpr size_t kPrompt = 50;
constexpr uint64_t kGenerated = 40;

std::shared_ptr<cuda::Device> NewDevice(const cuda::EmulatedFaults& faults = {}) {
  return std::shared_ptr<cuda::Device>(cuda::NewEmulatedDevice(uint64_t{1} << 30, faults));
}

std::shared_ptr<const engine::Model> Part(std::optional<engine::LayerRange> layers) {
  engine::ModelConfig config = *engine::NamedGeometry("tiny");
  config.geometry.layers = 3;
  config.defaults = engine::SmallSettings();
  return *engine::Model::Random(config, 7, {.layers = layers});
}

// Layers 1-2 in a lola-stage of this process, layer 0 in an engine.
struct Pipeline {
  Pipeline(std::shared_ptr<engine::StageMaker> front, std::shared_ptr<engine::StageMaker> behind) {
    service = *StageService::Create({"tiny", behind}, Part(engine::LayerRange{1, 3}));
    rpc::ServerOptions options;
    options.bind = "127.0.0.1:0";
    server = *rpc::Server::Start(options, {service->service()});
    auto pair = ConnectStage({server->address(), *rpc::MakeChannel(server->address())},
                             std::chrono::seconds(10));
    EXPECT_TRUE(pair.ok()) << pair.status();
    std::vector<std::unique_ptr<engine::StageLink>> links;
    links.push_back(std::move(pair->link));
    engine::EngineOptions engine_options = engine::SmallOptions();
    engine_options.slots = 1;  // streams take turns: copies and loads
    auto runner = engine::MakePipelineRunner(
        Part(engine::LayerRange{0, 1}), std::move(links),
        {.front = "front", .rows_max = engine_options.step_rows, .here = front});
    EXPECT_TRUE(runner.ok()) << runner.status();
    instruction_class = (*runner)->instruction_class();
    auto made =
        engine::Engine::Create(engine_options, *std::move(runner), engine::MakeByteTokenizer(),
                               std::make_shared<engine::FakeBackend>(store, "front"));
    EXPECT_TRUE(made.ok()) << made.status();
    engine = *std::move(made);
  }
  ~Pipeline() {
    engine.reset();
    service->Stop();
    server->Shutdown(std::chrono::milliseconds(0));
  }
  // Two streams with the same text; their tokens.
  std::vector<int32_t> Run() {
    std::vector<std::shared_ptr<engine::Client>> clients;
    for (const std::string stream : {"a", "b"}) clients.push_back(Start(stream));
    for (const auto& client : clients) EXPECT_TRUE(client->WaitDone(2));
    EXPECT_EQ(store->Tokens("a"), store->Tokens("b"));
    return store->Tokens("a");
  }
  std::shared_ptr<engine::Client> Start(const std::string& stream) {
    auto client = std::make_shared<engine::Client>();
    engine::AttachRequest request;
    request.stream_id = stream;
    request.create_if_missing = true;
    const engine::AttachmentId id = engine->Attach(request, client);
    engine->Append(id, {1, 0, engine::RandomText(kPrompt, 1)});
    engine::GenerateOp op;
    op.seq = 2;
    op.base = kPrompt;
    op.max_tokens = kGenerated;
    op.ignore_eos = true;
    op.sampling.temperature = 0.9f;
    op.sampling.seed = 11;
    op.sampling.repetition_penalty = 1.1f;
    op.sampling.repetition_window = 64;
    engine->Generate(id, std::move(op));
    return client;
  }

  std::unique_ptr<StageService> service;
  std::unique_ptr<rpc::Server> server;
  std::shared_ptr<engine::FakeStore> store = std::make_shared<engine::FakeStore>();
  std::string instruction_class;
  std::unique_ptr<engine::Engine> engine;
};

std::vector<int32_t> OfOneDevice() {
  auto store = std::make_shared<engine::FakeStore>();
  engine::Worker worker(store, engine::SmallOptions(), "single", [](size_t rows) {
    return *engine::MakeDeviceRunner(Part(std::nullopt), NewDevice(), rows);
  });
  auto session = worker.Open("s");
  worker.Append(session, 1, engine::RandomText(kPrompt, 1), 0);
  worker.Generate(session, 2, kGenerated, kPrompt);
  EXPECT_TRUE(session.client->WaitDone(2));
  return store->Tokens("s");
}

TEST(DeviceStageService, GivesTheTokensOfOneDevice) {
  Pipeline pipeline(engine::MakeDeviceStages(NewDevice()), engine::MakeDeviceStages(NewDevice()));
  EXPECT_EQ(pipeline.instruction_class, "emulation");
  EXPECT_EQ(pipeline.Run(), OfOneDevice());
  const StageStatistics now = pipeline.service->Stats();
  EXPECT_GT(now.loads, 0u);
  EXPECT_GT(now.copies, 0u);
  EXPECT_GT(now.runner.replays, 0u);
  EXPECT_FALSE(now.lost);
}

TEST(DeviceStageService, AFrontOnTheCpuSaysWhichLayersAreWhere) {
  const auto cpu = engine::MakeHostStages(1);
  Pipeline pipeline(cpu, engine::MakeDeviceStages(NewDevice()));
  EXPECT_EQ(pipeline.instruction_class, "0:" + cpu->instruction_class() + ",1-2:emulation");
  EXPECT_EQ(pipeline.Run().size(), kPrompt + kGenerated);
}

TEST(DeviceStageService, ALostDeviceIsSaidAndNoFrontIsTakenAgain) {
  Pipeline pipeline(engine::MakeHostStages(1),
                    engine::MakeDeviceStages(NewDevice({.fault_at_launch = 300})));
  const auto client = pipeline.Start("s");
  const absl::Status error = client->WaitError();
  EXPECT_TRUE(absl::IsUnavailable(error)) << error;
  EXPECT_THAT(std::string(error.message()), HasSubstr("GPU lost"));
  EXPECT_TRUE(absl::IsUnavailable(pipeline.service->Health()));
  EXPECT_TRUE(pipeline.service->Stats().lost);
  // Every new session is refused with the reason.
  bool refused = false;
  for (int i = 0; i < 3000 && !refused; ++i) {
    refused = pipeline.service->Stats().refusals > 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_TRUE(refused);
  EXPECT_TRUE(absl::IsUnavailable(pipeline.engine->health()));
}

}  // namespace
}  // namespace lola::worker
