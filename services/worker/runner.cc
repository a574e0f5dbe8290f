#include "services/worker/runner.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/plugin.h"
#include "services/engine/device/device_runner.h"
#include "services/engine/pipeline/pipeline_runner.h"
#include "services/rpc/logging.h"

namespace lola::worker {
namespace {

using RunnerOr = absl::StatusOr<std::unique_ptr<engine::ModelRunner>>;

int Threads(const WorkerOptions& options) {
  const int all = std::max(1, int(std::thread::hardware_concurrency()));
  return options.threads > 0 ? options.threads : all;
}

RunnerOr CudaRunner(const WorkerOptions& options, const ServedModel& served) {
  cuda::OpenedDevice opened =
      cuda::OpenCudaDevice({.index = options.device, .batch_invariant = options.batch_invariant});
  if (opened.device == nullptr) return absl::UnavailableError(opened.error);
  const cuda::DeviceInfo info = opened.device->info();
  auto runner =
      engine::MakeDeviceRunner(served.model, std::move(opened.device), options.engine.step_rows);
  if (!runner.ok()) return runner.status();
  rpc::LogInfo("model runs on a GPU", {{"device", info.name},
                                       {"class", info.backend},
                                       {"memory_bytes", info.memory_bytes},
                                       {"free_bytes", info.free_bytes}});
  return runner;
}

RunnerOr CpuRunner(const WorkerOptions& options, const ServedModel& served) {
  return engine::MakeModelRunner(served.model, options.engine.step_rows, Threads(options));
}

absl::StatusOr<MadeRunner> Pipeline(const WorkerOptions& options, const ServedModel& served) {
  if (options.backend == "cuda") {
    return absl::UnimplementedError("backend: cuda, but pipelines run on CPUs only");
  }
  MadeRunner made;
  std::vector<std::unique_ptr<engine::StageLink>> links;
  const auto deadline = std::chrono::steady_clock::now() + options.stage_patience;
  const auto left = [deadline] {
    return std::max(std::chrono::milliseconds(0),
                    std::chrono::duration_cast<std::chrono::milliseconds>(
                        deadline - std::chrono::steady_clock::now()));
  };
  for (const StageEndpoint& endpoint : options.stages) {
    auto stage = ConnectStage(endpoint, left());
    if (!stage.ok()) return stage.status();
    links.push_back(std::move(stage->link));
    made.stages.push_back(std::move(stage->counters));
  }
  auto runner = engine::MakePipelineRunner(served.model, std::move(links),
                                           {.front = options.front,
                                            .rows_max = options.engine.step_rows,
                                            .threads = Threads(options),
                                            .patience = left()});
  if (!runner.ok()) return runner.status();
  rpc::LogInfo(
      "model runs as a pipeline of processes on CPUs",
      {{"layers_here", served.model->layers().ToString()}, {"stages", options.stages.size()}});
  made.runner = *std::move(runner);
  return made;
}

RunnerOr OneProcess(const WorkerOptions& options, const ServedModel& served) {
  if (!served.model->whole()) {
    return absl::InvalidArgumentError(absl::StrCat("layers: ", served.model->layers().ToString(),
                                                   " of ", served.model->geometry().layers,
                                                   ", but no --stages have the others"));
  }
  if (options.backend == "cpu") return CpuRunner(options, served);
  RunnerOr cuda = CudaRunner(options, served);
  if (cuda.ok()) return cuda;
  if (options.backend == "cuda") {
    return absl::Status(cuda.status().code(),
                        absl::StrCat("backend: cuda: ", cuda.status().message()));
  }
  rpc::LogInfo("model runs on the CPU", {{"why_no_gpu", cuda.status()}});
  return CpuRunner(options, served);
}

}  // namespace

absl::StatusOr<MadeRunner> MakeRunner(const WorkerOptions& options, const ServedModel& served) {
  if (options.threads < 0 || options.threads > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads: ", options.threads, ", must be 0 to 1024"));
  }
  if (options.device < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("device: ", options.device, ", must be 0 or more"));
  }
  if (options.backend != "auto" && options.backend != "cpu" && options.backend != "cuda") {
    return absl::InvalidArgumentError(
        absl::StrCat("backend: \"", options.backend, "\" (known: auto, cpu, cuda)"));
  }
  if (!options.stages.empty()) return Pipeline(options, served);
  RunnerOr runner = OneProcess(options, served);
  if (!runner.ok()) return runner.status();
  return MadeRunner{*std::move(runner), {}};
}

}  // namespace lola::worker
