// A lola-stage in the test's own process, with the last layers of a model whose rows, logits and
// sections are a few MiB each.
#ifndef LOLA_TESTS_SERVICES_WORKER_STAGE_TESTING_H_
#define LOLA_TESTS_SERVICES_WORKER_STAGE_TESTING_H_

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "kernels/core/cpu.h"
#include "memory/stream/layout.h"
#include "services/engine/model.h"
#include "services/engine/pipeline/host_stage.h"
#include "services/rpc/channel.h"
#include "services/rpc/server_runner.h"
#include "services/worker/stage_client.h"
#include "services/worker/stage_service.h"

namespace lola::worker {

inline constexpr size_t kRows = 1024;
inline constexpr size_t kSlots = 3;

inline engine::ModelConfig WideModel() {
  engine::ModelConfig config = *engine::NamedGeometry("tiny");
  config.geometry.layers = 3;
  config.geometry.hidden = 512;
  config.geometry.vocab = 4096;
  config.defaults.window = config.defaults.chunk = 64;
  config.defaults.cache_pairs = 2048;
  return config;
}

inline std::shared_ptr<const engine::Model> Part(std::optional<engine::LayerRange> layers) {
  return *engine::Model::Random(WideModel(), 3, {.layers = layers});
}
inline const std::shared_ptr<const engine::Model>& Whole() {
  static const auto model = Part(std::nullopt);
  return model;
}
inline const std::shared_ptr<const engine::Model>& Last() {
  static const auto model = Part(engine::LayerRange{1, 3});
  return model;
}

// A lola-stage in this process.
struct StageProcess {
  explicit StageProcess(const std::string& bind = "127.0.0.1:0") {
    service = *StageService::Create({"wide", engine::MakeHostStages(1)}, Last());
    rpc::ServerOptions options;
    options.bind = bind;
    auto started = rpc::Server::Start(options, {service->service()});
    EXPECT_TRUE(started.ok()) << started.status();
    server = *std::move(started);
  }
  ~StageProcess() {
    service->Stop();
    server->Shutdown(std::chrono::milliseconds(0));
  }
  StageEndpoint endpoint() const {
    return {server->address(), *rpc::MakeChannel(server->address())};
  }
  std::unique_ptr<StageService> service;
  std::unique_ptr<rpc::Server> server;
};

inline engine::StageTerms Terms(const std::string& front = "front") {
  const engine::Model& model = *Last();
  const memory::StateLayout layout(model.geometry(), model.default_settings());
  return {.front = front,
          .model_fingerprint = model.fingerprint(),
          .layers = model.layers(),
          .model_layers = 3,
          .hidden = 512,
          .vocab = 4096,
          .weight_dtype = "float32",
          .instruction_class = std::string(kernels::InstructionClass()),
          .slot_bytes = engine::StageSlotBytes(model, model.layers(), layout.stride_bytes()),
          .slots = kSlots,
          .rows_max = kRows};
}

}  // namespace lola::worker

#endif  // LOLA_TESTS_SERVICES_WORKER_STAGE_TESTING_H_
