// A device without hardware: kernels run on fibers, queues as emulation/queues.h says.
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/cuda/emulation/grid.h"
#include "kernels/cuda/emulation/queues.h"

#define LOLA_LAUNCH(kernel, grid, threads, shared_bytes, ...) \
  this->Enqueue([=, this] {                                   \
    emulation::RunGrid(grid, threads, shared_bytes, [&] {     \
      kernel(__VA_ARGS__);                                    \
      emulation::Leave();                                     \
    });                                                       \
  })

#include "kernels/cuda/launches.h"

namespace lola::cuda {
namespace {

class EmulatedBase : public Device {
 public:
  using GridSize = emulation::Dim3;

  EmulatedBase(uint64_t memory_bytes, const EmulatedFaults& faults)
      : memory_bytes_(memory_bytes), faults_(faults), queues_(faults.queue_seed) {}
  ~EmulatedBase() override {
    queues_.Finish();
    for (const auto& [data, bytes] : blocks_) std::free(data);
  }

  DeviceInfo info() const override {
    std::lock_guard lock(mu_);
    DeviceInfo info;
    info.name = info.backend = "emulation";
    info.memory_bytes = memory_bytes_;
    info.free_bytes = memory_bytes_ - used_;
    info.processors = 1;
    return info;
  }
  std::string error() const override {
    std::lock_guard lock(mu_);
    return error_;
  }

  void* Allocate(size_t bytes) override {
    std::lock_guard lock(mu_);
    if (!error_.empty() || used_ + bytes > memory_bytes_) return nullptr;
    void* data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (data == nullptr) return nullptr;
    std::memset(data, 0xCD, bytes);  // device memory starts out as anything
    blocks_[data] = bytes;
    used_ += bytes;
    return data;
  }
  void Free(void* data) override {
    if (data == nullptr) return;
    std::lock_guard lock(mu_);
    const auto found = blocks_.find(data);
    LOLA_CHECK(found != blocks_.end()) << "freed twice, or never allocated";
    queues_.Finish();  // as CUDA does
    used_ -= found->second;
    blocks_.erase(found);
    std::free(data);
  }
  void* AllocatePinned(size_t bytes) override {
    return std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  }
  void FreePinned(void* data) override {
    std::lock_guard lock(mu_);
    queues_.Finish();  // as CUDA does
    std::free(data);
  }

  void Upload(Queue queue, void* to, const void* from, size_t bytes) override {
    Move(
        queue, [=] { std::memcpy(to, from, bytes); }, bytes);
  }
  void Download(Queue queue, void* to, const void* from, size_t bytes) override {
    Move(
        queue, [=] { std::memcpy(to, from, bytes); }, bytes);
  }
  void CopyWithin(Queue queue, void* to, const void* from, size_t bytes) override {
    Move(
        queue, [=] { std::memcpy(to, from, bytes); }, bytes);
  }
  void Zero(Queue queue, void* data, size_t bytes) override {
    Move(
        queue, [=] { std::memset(data, 0, bytes); }, bytes);
  }

  Mark Record(Queue queue) override {
    std::lock_guard lock(mu_);
    return queues_.Record(queue);
  }
  void WaitFor(Queue queue, Mark mark) override {
    std::lock_guard lock(mu_);
    queues_.WaitFor(queue, mark);
  }
  // Time passes by the asking.
  bool Done(Mark mark) override {
    std::lock_guard lock(mu_);
    queues_.Advance();
    return queues_.Done(mark);
  }
  void WaitOnHost(Mark mark) override {
    std::lock_guard lock(mu_);
    queues_.AdvanceUntil(mark);
  }

  bool BeginRecording() override {
    LOLA_CHECK(!recording_ && on_ == Queue::kCompute);
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
    for (const auto& work : graphs_.at(graph)) Enqueue(work);
  }
  void Forget(GraphId graph) override { graphs_.erase(graph); }

  void RunOn(Queue queue) override {
    LOLA_CHECK(!recording_ && queue != Queue::kCopy);
    on_ = queue;
  }
  void Gemm(const GemmCall& call) override {
    LOLA_CHECK(on_ == Queue::kCompute);
    Enqueue([call] {
      for (size_t row = 0; row < call.rows; ++row) MultiplyRow(call, row);
    });
  }

  bool Ready() const { return error().empty(); }

 protected:
  void Enqueue(std::function<void()> work) {
    if (recording_) return recorded_.push_back(std::move(work));
    std::lock_guard lock(mu_);
    queues_.Push(on_, [this, work = std::move(work)] { Run(work); });
  }

 private:
  void Move(Queue queue, std::function<void()> work, size_t bytes) {
    if (bytes == 0) return;
    LOLA_CHECK(!recording_);
    std::lock_guard lock(mu_);
    queues_.Push(queue, [this, work = std::move(work)] {
      if (error_.empty()) work();
    });
  }
  // By whoever makes the queues advance, holding mu_.
  void Run(const std::function<void()>& work) {
    if (!error_.empty()) return;
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
  mutable std::mutex mu_;
  emulation::Queues queues_;        // guarded by mu_
  uint64_t launches_ = 0;           // guarded by mu_
  std::string error_;               // guarded by mu_
  uint64_t used_ = 0;               // guarded by mu_
  std::map<void*, size_t> blocks_;  // guarded by mu_
  Queue on_ = Queue::kCompute;
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
