#include "services/worker/runner.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/plugin.h"
#include "services/engine/device/device_runner.h"
#include "services/engine/device/device_stage.h"
#include "services/engine/pipeline/host_stage.h"
#include "services/engine/pipeline/pipeline_runner.h"
#include "services/rpc/logging.h"

namespace lola::worker {
namespace {

using RunnerOr = absl::StatusOr<std::unique_ptr<engine::ModelRunner>>;

// Tokens of a pass that are asked for, or that suit the backend: a GPU needs many to be busy, on a
// CPU more than these only make others wait.
constexpr uint32_t kCpuRows = 256, kGpuRows = 2048;
size_t Rows(const WorkerOptions& options, uint32_t suited) {
  return options.engine.step_rows > 0 ? options.engine.step_rows : suited;
}

int Threads(int asked) {
  const int all = std::max(1, int(std::thread::hardware_concurrency()));
  return asked > 0 ? asked : all;
}

absl::Status CheckCompute(const ComputeOptions& options) {
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
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<cuda::Device>> OpenDevice(const ComputeOptions& options) {
  cuda::OpenedDevice opened =
      cuda::OpenCudaDevice({.index = options.device, .batch_invariant = options.batch_invariant});
  if (opened.device == nullptr) return absl::UnavailableError(opened.error);
  return std::shared_ptr<cuda::Device>(std::move(opened.device));
}

void SayDevice(const cuda::Device& device) {
  const cuda::DeviceInfo info = device.info();
  rpc::LogInfo("model runs on a GPU", {{"device", info.name},
                                       {"class", info.backend},
                                       {"memory_bytes", info.memory_bytes},
                                       {"free_bytes", info.free_bytes}});
}

// `cuda` when it was made, the CPU's when that is allowed instead.
template <typename T, typename OnCpu>
absl::StatusOr<T> Choose(const std::string& backend, absl::StatusOr<T> cuda, const OnCpu& cpu) {
  if (cuda.ok()) return cuda;
  if (backend == "cuda") {
    return absl::Status(cuda.status().code(),
                        absl::StrCat("backend: cuda: ", cuda.status().message()));
  }
  rpc::LogInfo("model runs on the CPU", {{"why_no_gpu", cuda.status()}});
  return cpu();
}

RunnerOr CudaRunner(const WorkerOptions& options, const ServedModel& served) {
  auto device = OpenDevice(options.compute);
  if (!device.ok()) return device.status();
  auto runner = engine::MakeDeviceRunner(served.model, *device, Rows(options, kGpuRows));
  if (runner.ok()) SayDevice(**device);
  return runner;
}

absl::StatusOr<std::shared_ptr<engine::StageMaker>> CudaStages(const ComputeOptions& options,
                                                               const engine::Model& model) {
  auto device = OpenDevice(options);
  if (!device.ok()) return device.status();
  std::shared_ptr<engine::StageMaker> stages = engine::MakeDeviceStages(*device);
  if (absl::Status runs = stages->CheckModel(model); !runs.ok()) return runs;
  SayDevice(**device);
  return stages;
}

RunnerOr CpuRunner(const WorkerOptions& options, const ServedModel& served) {
  return engine::MakeModelRunner(served.model, Rows(options, kCpuRows),
                                 Threads(options.compute.threads));
}

absl::StatusOr<MadeRunner> Pipeline(const WorkerOptions& options, const ServedModel& served) {
  auto here = MakeStages(options.compute, *served.model);
  if (!here.ok()) return here.status();
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
                                            .rows_max = Rows(options, kCpuRows),
                                            .here = *here,
                                            .patience = left()});
  if (!runner.ok()) return runner.status();
  rpc::LogInfo("model runs as a pipeline of processes",
               {{"layers_here", served.model->layers().ToString()},
                {"stages", options.stages.size()},
                {"class", (*runner)->instruction_class()}});
  made.runner = *std::move(runner);
  return made;
}

RunnerOr OneProcess(const WorkerOptions& options, const ServedModel& served) {
  if (!served.model->whole()) {
    return absl::InvalidArgumentError(absl::StrCat("layers: ", served.model->layers().ToString(),
                                                   " of ", served.model->geometry().layers,
                                                   ", but no --stages have the others"));
  }
  if (options.compute.backend == "cpu") return CpuRunner(options, served);
  return Choose(options.compute.backend, CudaRunner(options, served),
                [&] { return CpuRunner(options, served); });
}

}  // namespace

absl::StatusOr<std::shared_ptr<engine::StageMaker>> MakeStages(const ComputeOptions& options,
                                                               const engine::Model& model) {
  if (absl::Status valid = CheckCompute(options); !valid.ok()) return valid;
  const auto cpu = [&] { return engine::MakeHostStages(Threads(options.threads)); };
  if (options.backend == "cpu") return cpu();
  return Choose(options.backend, CudaStages(options, model), cpu);
}

absl::StatusOr<MadeRunner> MakeRunner(const WorkerOptions& options, const ServedModel& served) {
  if (absl::Status valid = CheckCompute(options.compute); !valid.ok()) return valid;
  if (!options.stages.empty()) return Pipeline(options, served);
  RunnerOr runner = OneProcess(options, served);
  if (!runner.ok()) return runner.status();
  return MadeRunner{*std::move(runner), {}};
}

}  // namespace lola::worker
