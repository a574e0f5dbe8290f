// A device without hardware: kernels run on fibers, queues are immediate.
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "kernels/cuda/emulation/grid.h"

#define LOLA_LAUNCH(kernel, grid, threads, shared_bytes, ...)                      \
  this->Enqueue([=, this] {                                                        \
    emulation::RunGrid(grid, threads, shared_bytes, [&] { kernel(__VA_ARGS__); }); \
  })

#include "kernels/cuda/launches.h"

namespace lola::cuda {
namespace {

class EmulatedBase : public Device {
 public:
  using GridSize = emulation::Dim3;

  EmulatedBase(uint64_t memory_bytes, const EmulatedFaults& faults)
      : memory_bytes_(memory_bytes), faults_(faults) {}
  ~EmulatedBase() override {
    for (const auto& [data, bytes] : blocks_) std::free(data);
  }

  DeviceInfo info() const override {
    DeviceInfo info;
    info.name = info.backend = "emulation";
    info.memory_bytes = memory_bytes_;
    info.free_bytes = memory_bytes_ - used_;
    info.processors = 1;
    return info;
  }
  std::string error() const override { return error_; }

  void* Allocate(size_t bytes) override {
    if (!Ready() || used_ + bytes > memory_bytes_) return nullptr;
    void* data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (data == nullptr) return nullptr;
    std::memset(data, 0xCD, bytes);  // device memory starts out as anything
    blocks_[data] = bytes;
    used_ += bytes;
    return data;
  }
  void Free(void* data) override {
    const auto found = blocks_.find(data);
    if (data == nullptr) return;
    LOLA_CHECK(found != blocks_.end()) << "freed twice, or never allocated";
    used_ -= found->second;
    blocks_.erase(found);
    std::free(data);
  }
  void* AllocatePinned(size_t bytes) override {
    return std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  }
  void FreePinned(void* data) override { std::free(data); }

  void Upload(Queue, void* to, const void* from, size_t bytes) override {
    if (Ready() && bytes > 0) std::memcpy(to, from, bytes);
  }
  void Download(Queue, void* to, const void* from, size_t bytes) override {
    if (Ready() && bytes > 0) std::memcpy(to, from, bytes);
  }
  void CopyWithin(Queue, void* to, const void* from, size_t bytes) override {
    if (Ready() && bytes > 0) std::memcpy(to, from, bytes);
  }
  void Zero(Queue, void* data, size_t bytes) override {
    if (Ready() && bytes > 0) std::memset(data, 0, bytes);
  }

  Mark Record(Queue) override { return ++marks_; }
  void WaitFor(Queue, Mark mark) override { LOLA_CHECK_LE(mark, marks_); }
  bool Done(Mark) override { return true; }
  void WaitOnHost(Mark) override {}

  bool BeginRecording() override {
    LOLA_CHECK(!recording_);
    if (!Ready()) return false;
    recording_ = true;
    recorded_.clear();
    return true;
  }
  GraphId EndRecording() override {
    LOLA_CHECK(recording_);
    recording_ = false;
    if (faults_.refuse_recordings) return 0;
    graphs_[++last_graph_] = std::move(recorded_);
    return last_graph_;
  }
  void Replay(GraphId graph) override {
    for (const auto& work : graphs_.at(graph)) Run(work);
  }
  void Forget(GraphId graph) override { graphs_.erase(graph); }

  void Gemm(const GemmCall& call) override {
    Enqueue([call] {
      for (size_t row = 0; row < call.rows; ++row) MultiplyRow(call, row);
    });
  }

  bool Ready() const { return error_.empty(); }
  void Launched() {}

 protected:
  void Enqueue(std::function<void()> work) {
    if (recording_) {
      recorded_.push_back(std::move(work));
    } else {
      Run(work);
    }
  }

 private:
  void Run(const std::function<void()>& work) {
    if (!Ready()) return;
    if (++launches_ == faults_.fault_at_launch) {
      error_ = "emulation: launch " + std::to_string(launches_) + " faulted";
      return;
    }
    work();
  }
  static float At(MatrixType type, const void* data, size_t index) {
    return type == MatrixType::kFloat32 ? static_cast<const float*>(data)[index]
                                        : ToFloat(static_cast<const Bf16*>(data)[index]);
  }
  static void MultiplyRow(const GemmCall& c, size_t row) {
    for (size_t n = 0; n < c.out; ++n) {
      float sum = 0;
      for (size_t k = 0; k < c.in; ++k) {
        sum += At(c.type, c.weights, n * c.in + k) * At(c.type, c.input, row * c.in + k);
      }
      float& to = c.output[row * c.out + n];
      to = c.accumulate ? to + sum : sum;
    }
  }

  const uint64_t memory_bytes_;
  const EmulatedFaults faults_;
  uint64_t launches_ = 0;
  std::string error_;
  uint64_t used_ = 0;
  std::map<void*, size_t> blocks_;
  Mark marks_ = 0;
  bool recording_ = false;
  std::vector<std::function<void()>> recorded_;
  std::map<GraphId, std::vector<std::function<void()>>> graphs_;
  GraphId last_graph_ = 0;
};

}  // namespace

Device* NewEmulatedDevice(uint64_t memory_bytes, const EmulatedFaults& faults) {
  return new KernelLaunches<EmulatedBase>(memory_bytes, faults);
}

}  // namespace lola::cuda
