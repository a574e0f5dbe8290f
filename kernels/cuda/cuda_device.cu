// The real device. Compiled into the plug-in; see device.h for the contract.
#include <atomic>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "kernels/cuda/cuda_gemm.h"
#include "kernels/cuda/plugin.h"

#define LOLA_LAUNCH(kernel, grid, threads, shared_bytes, ...) \
  this->Launch(kernel, grid, threads, shared_bytes, __VA_ARGS__)

#include "kernels/cuda/launches.h"

namespace lola::cuda {
namespace {

class CudaBase : public Device {
 public:
  using GridSize = dim3;

  ~CudaBase() override {
    MakeCurrent();
    cudaDeviceSynchronize();  // whatever it says: nothing below may be freed under running work
    marks_.clear();
    for (auto& [id, graph] : graphs_) cudaGraphExecDestroy(graph);
    for (cudaStream_t queue : queues_) {
      if (queue != nullptr) cudaStreamDestroy(queue);
    }
  }

  // Empty = fine.
  std::string Open(const DeviceOptions& options);

  DeviceInfo info() const override {
    MakeCurrent();
    DeviceInfo info = info_;
    size_t free = 0, total = 0;
    if (cudaMemGetInfo(&free, &total) == cudaSuccess) info.free_bytes = free;
    return info;
  }
  std::string error() const override {
    std::lock_guard lock(mu_);
    return error_;
  }

  void* Allocate(size_t bytes) override {
    if (!Ready()) return nullptr;
    void* data = nullptr;
    return NoRoom(cudaMalloc(&data, bytes), "allocate") ? nullptr : data;
  }
  void Free(void* data) override {
    MakeCurrent();
    Check(cudaFree(data), "free");
  }
  void* AllocatePinned(size_t bytes) override {
    if (!Ready()) return nullptr;
    void* data = nullptr;
    return NoRoom(cudaMallocHost(&data, bytes), "allocate page-locked") ? nullptr : data;
  }
  void FreePinned(void* data) override {
    MakeCurrent();
    cudaFreeHost(data);
  }

  void Upload(Queue queue, void* to, const void* from, size_t bytes) override {
    if (!Ready() || bytes == 0) return;
    Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, Other(queue)), "upload");
  }
  void Download(Queue queue, void* to, const void* from, size_t bytes) override {
    if (!Ready() || bytes == 0) return;
    Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, Other(queue)), "download");
  }
  void Zero(Queue queue, void* data, size_t bytes) override {
    if (!Ready() || bytes == 0) return;
    Check(cudaMemsetAsync(data, 0, bytes, Other(queue)), "zero");
  }

  void CopyWithin(Queue queue, void* to, const void* from, size_t bytes) override {
    if (!Ready() || bytes == 0) return;
    Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, Other(queue)), "copy");
  }

  Mark Record(Queue queue) override;
  void WaitFor(Queue queue, Mark mark) override;
  bool Done(Mark mark) override;
  void WaitOnHost(Mark mark) override;

  bool BeginRecording() override {
    if (!Ready()) return false;
    recording_broken_ = false;
    LOLA_CHECK(on_ == Queue::kCompute);
    if (cudaStreamBeginCapture(Other(on_), cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
      cudaGetLastError();
      return false;
    }
    recorder_.store(std::this_thread::get_id());
    return true;
  }
  GraphId EndRecording() override;
  void Replay(GraphId graph) override {
    if (Ready()) Check(cudaGraphLaunch(graphs_.at(graph), Other(Queue::kCompute)), "replay");
  }
  void Forget(GraphId graph) override {
    const auto found = graphs_.find(graph);
    if (found == graphs_.end()) return;
    cudaGraphExecDestroy(found->second);
    graphs_.erase(found);
  }

  void RunOn(Queue queue) override {
    LOLA_CHECK(queue != Queue::kCopy && !Recording());
    on_ = queue;
  }
  void Gemm(const GemmCall& call) override {
    LOLA_CHECK(on_ == Queue::kCompute);
    if (call.rows == 0 || !Ready()) return;
    const std::string failed = gemm_.Run(call, stream());
    if (!failed.empty()) Fail(failed);
    behind_kernel_[size_t(on_)] = true;
  }

  bool Ready() const {
    MakeCurrent();
    return !failed_.load(std::memory_order_acquire);
  }
  // A kernel right behind another one may be started before that has ended: it waits itself
  // (AwaitPrevious), and the time of starting it is hidden.
  template <typename... Params, typename... Args>
  void Launch(void (*kernel)(Params...), dim3 grid, unsigned threads, size_t shared_bytes,
              const Args&... args) {
    cudaLaunchAttribute early{};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream();
    config.attrs = &early;
    config.numAttrs = early_launches_ && std::exchange(behind_kernel_[size_t(on_)], true) ? 1 : 0;
    Check(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...), "launch");
  }
  // Where operations go.
  cudaStream_t stream() const { return Stream(on_); }

 private:
  // CUDA's current device belongs to a host thread, and the thread that steps is not the one that
  // opened. Costs nothing when it is current already.
  void MakeCurrent() const { cudaSetDevice(index_); }
  cudaStream_t Stream(Queue queue) const { return queues_[size_t(queue)]; }
  // For what is no kernel: the next kernel waits for it as a whole.
  cudaStream_t Other(Queue queue) {
    behind_kernel_[size_t(queue)] = false;
    return Stream(queue);
  }
  bool Recording() const { return recorder_.load() == std::this_thread::get_id(); }
  // What the recording thread enqueues does not run, so nothing is wrong with the device: the
  // recording is. Other threads wait for real work meanwhile.
  void Fail(const std::string& what) {
    if (Recording()) {
      recording_broken_ = true;
      return;
    }
    std::lock_guard lock(mu_);
    if (error_.empty()) error_ = info_.name + ": " + what;
    failed_.store(true, std::memory_order_release);
  }
  void Check(cudaError_t status, const char* what) {
    if (status != cudaSuccess) Fail(std::string(what) + ": " + cudaGetErrorString(status));
  }
  // No room is an answer. Anything else, such as the fault of a kernel that ran before, is not.
  bool NoRoom(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return false;
    if (status != cudaErrorMemoryAllocation) Check(status, what);
    cudaGetLastError();
    return true;
  }
  // Shared: another thread may wait for an event that this one forgets.
  using SharedEvent = std::shared_ptr<CUevent_st>;
  SharedEvent EventOf(Mark mark) const {
    std::lock_guard lock(mu_);
    const auto found = marks_.find(mark);
    return found == marks_.end() ? nullptr : found->second;
  }
  // False while work before it is under way.
  bool Passed(cudaEvent_t event);
  void ForgetOldMarks();
  std::string ReadKernels();

  int index_ = 0;
  DeviceInfo info_;
  bool early_launches_ = false;
  bool behind_kernel_[kQueues] = {};  // the newest in the queue is a kernel
  cudaStream_t queues_[kQueues] = {};
  Queue on_ = Queue::kCompute;
  CudaGemm gemm_;
  std::map<GraphId, cudaGraphExec_t> graphs_;
  GraphId last_graph_ = 0;
  bool recording_broken_ = false;            // of the recording thread
  std::atomic<std::thread::id> recorder_{};  // none: nobody records
  std::atomic<bool> failed_{false};
  mutable std::mutex mu_;
  std::string error_;                  // guarded by mu_
  std::map<Mark, SharedEvent> marks_;  // guarded by mu_; finished ones are dropped in time
  Mark last_mark_ = 0;                 // guarded by mu_
};

std::string CudaBase::Open(const DeviceOptions& options) {
  int count = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    return std::string("no usable NVIDIA driver: ") + cudaGetErrorString(status);
  }
  if (options.index < 0 || options.index >= count) {
    return "device " + std::to_string(options.index) + ": this machine has " +
           std::to_string(count);
  }
  index_ = options.index;
  cudaDeviceProp properties;
  if (status == cudaSuccess) status = cudaSetDevice(options.index);
  if (status == cudaSuccess) status = cudaGetDeviceProperties(&properties, options.index);
  int low = 0, high = 0;  // higher priorities are smaller numbers
  if (status == cudaSuccess) status = cudaDeviceGetStreamPriorityRange(&low, &high);
  for (const Queue queue : {Queue::kCompute, Queue::kScan, Queue::kCopy}) {
    if (status != cudaSuccess) break;
    status = cudaStreamCreateWithPriority(&queues_[size_t(queue)], cudaStreamNonBlocking,
                                          queue == Queue::kScan ? high : low);
  }
  if (status != cudaSuccess) {
    return "device " + std::to_string(options.index) + ": " + cudaGetErrorString(status);
  }
  if (properties.major < 8) {
    return std::string(properties.name) + ": compute capability " +
           std::to_string(properties.major) + "." + std::to_string(properties.minor) +
           ", needed is 8.0";
  }
  info_.name = properties.name;
  // Everything that the bits depend on: the kind of GPU and its size, by which cuBLASLt chooses
  // algorithms, and that library's version.
  info_.backend = "cuda-sm" + std::to_string(properties.major * 10 + properties.minor) + "x" +
                  std::to_string(properties.multiProcessorCount) + "-lt" +
                  std::to_string(cublasLtGetVersion()) +
                  (options.batch_invariant ? "" : kVaryingClassMark);
  info_.memory_bytes = properties.totalGlobalMem;
  info_.processors = properties.multiProcessorCount;
  info_.compute_major = properties.major;
  info_.compute_minor = properties.minor;
  if (const std::string failed = ReadKernels(); !failed.empty()) return failed;
  return gemm_.Create(options.batch_invariant ? GemmPolicy::kInvariant : GemmPolicy::kFastest);
}

// Whether this device runs our kernels, and whether they wait for the kernel ahead themselves
// (AwaitPrevious): what was made for older devices and is translated for this one does not, and may
// not be started early. Recordings take early launches from CUDA 12.3 on.
std::string CudaBase::ReadKernels() {
  cudaFuncAttributes made{};
  const cudaError_t status =
      cudaFuncGetAttributes(&made, reinterpret_cast<const void*>(&ClearKernel));
  if (status != cudaSuccess) {
    cudaGetLastError();
    return info_.name + ": no kernels for this device: " + cudaGetErrorString(status);
  }
  int driver = 0;
  early_launches_ = info_.compute_major >= 9 && made.ptxVersion >= 90 &&
                    cudaDriverGetVersion(&driver) == cudaSuccess && driver >= 12030;
  return {};
}

Mark CudaBase::Record(Queue queue) {
  if (!Ready()) return 0;
  ForgetOldMarks();
  cudaEvent_t event = nullptr;
  Check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
  if (event == nullptr) return 0;
  Check(cudaEventRecord(event, Other(queue)), "event");
  std::lock_guard lock(mu_);
  marks_[++last_mark_] = SharedEvent(event, [](cudaEvent_t e) { cudaEventDestroy(e); });
  return last_mark_;
}

// "Not yet" is an answer, but the runtime keeps it as the thread's last error.
bool CudaBase::Passed(cudaEvent_t event) {
  const cudaError_t status = cudaEventQuery(event);
  if (status == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  Check(status, "query");
  return true;
}

// A mark that is gone was done.
void CudaBase::ForgetOldMarks() {
  constexpr Mark kKept = 256;
  for (;;) {
    SharedEvent oldest;
    {
      std::lock_guard lock(mu_);
      if (marks_.empty() || marks_.begin()->first + kKept >= last_mark_) return;
      oldest = marks_.begin()->second;
    }
    if (!Passed(oldest.get())) return;
    std::lock_guard lock(mu_);
    marks_.erase(marks_.begin());
  }
}

void CudaBase::WaitFor(Queue queue, Mark mark) {
  if (!Ready()) return;
  if (const SharedEvent event = EventOf(mark)) {
    Check(cudaStreamWaitEvent(Other(queue), event.get(), 0), "wait");
  }
}

bool CudaBase::Done(Mark mark) {
  const SharedEvent event = EventOf(mark);
  if (event == nullptr) return true;
  MakeCurrent();  // or a thread that never chose would wake up the first device
  return Passed(event.get());
}

void CudaBase::WaitOnHost(Mark mark) {
  if (const SharedEvent event = EventOf(mark)) {
    MakeCurrent();
    Check(cudaEventSynchronize(event.get()), "device");
  }
}

GraphId CudaBase::EndRecording() {
  if (!Recording()) return 0;
  recorder_.store(std::thread::id());
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t ready = nullptr;
  // Always ended, or the queue would stay in capture.
  cudaError_t status = cudaStreamEndCapture(stream(), &graph);
  if (status == cudaSuccess && !recording_broken_) status = cudaGraphInstantiate(&ready, graph, 0);
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (ready == nullptr) {
    cudaGetLastError();
    early_launches_ = false;  // in case that is why: the next recording may do without
    return 0;
  }
  graphs_[++last_graph_] = ready;
  return last_graph_;
}

Device* Open(const DeviceOptions& options, char* error, size_t error_bytes) {
  auto device = std::make_unique<KernelLaunches<CudaBase>>();
  const std::string failed = device->Open(options);
  if (failed.empty()) return device.release();
  std::snprintf(error, error_bytes, "%s", failed.c_str());
  return nullptr;
}

}  // namespace
}  // namespace lola::cuda

extern "C" const lola::cuda::PluginEntry lola_cuda_plugin_v1 = {lola::cuda::kPluginVersion,
                                                                &lola::cuda::Open};
