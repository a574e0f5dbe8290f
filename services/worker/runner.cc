#include "services/worker/runner.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/plugin.h"
#include "services/engine/device/device_runner.h"
#include "services/rpc/logging.h"

namespace lola::worker {
namespace {

using RunnerOr = absl::StatusOr<std::unique_ptr<engine::ModelRunner>>;

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
  const int all = std::max(1, int(std::thread::hardware_concurrency()));
  return engine::MakeModelRunner(served.model, options.engine.step_rows,
                                 options.threads > 0 ? options.threads : all);
}

}  // namespace

RunnerOr MakeRunner(const WorkerOptions& options, const ServedModel& served) {
  if (options.threads < 0 || options.threads > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads: ", options.threads, ", must be 0 to 1024"));
  }
  if (options.device < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("device: ", options.device, ", must be 0 or more"));
  }
  if (options.backend == "cpu") return CpuRunner(options, served);
  if (options.backend != "auto" && options.backend != "cuda") {
    return absl::InvalidArgumentError(
        absl::StrCat("backend: \"", options.backend, "\" (known: auto, cpu, cuda)"));
  }
  RunnerOr cuda = CudaRunner(options, served);
  if (cuda.ok()) return cuda;
  if (options.backend == "cuda") {
    return absl::Status(cuda.status().code(),
                        absl::StrCat("backend: cuda: ", cuda.status().message()));
  }
  rpc::LogInfo("model runs on the CPU", {{"why_no_gpu", cuda.status()}});
  return CpuRunner(options, served);
}

}  // namespace lola::worker
