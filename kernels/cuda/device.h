// One accelerator as the engine sees it: memory, queues, and the operations of a step. The real
// one runs on CUDA and is loaded as a plug-in (plugin.h); the emulated one runs the same kernels on
// the CPU, slowly, for tests.
//
// Everything enqueues and returns at once unless it says otherwise. The first failure is kept, also
// one that shows only later (a kernel's fault shows where somebody waits): after it every call does
// nothing and error() tells, for the life of the device. Not thread-safe, except AllocatePinned,
// FreePinned, Done and WaitOnHost, which any thread may call.
//
// Pointers in the parameter structs are device memory. Results of an operation depend on its own
// rows alone (kernels) or on the batch-invariant configuration of the matrix products (Gemm).
#ifndef LOLA_KERNELS_CUDA_DEVICE_H_
#define LOLA_KERNELS_CUDA_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/cuda/calls.h"
#include "kernels/cuda/tables.h"

namespace lola::cuda {

// Ends the name of a class whose bits depend on the batch.
inline constexpr char kVaryingClassMark[] = "-fast";

struct DeviceInfo {
  std::string name;  // "NVIDIA H200", "emulation"
  // The instruction class of its results: "emulation", "cuda-sm90x132-lt130200" (a GPU, how many
  // multiprocessors, cuBLASLt's version), perhaps with kVaryingClassMark.
  std::string backend;
  uint64_t memory_bytes = 0;
  uint64_t free_bytes = 0;
  int processors = 0;
  int compute_major = 0, compute_minor = 0;
};

// Work in one queue runs in order; the queues run beside each other.
enum class Queue : uint8_t {
  kCompute,
  kScan,  // goes before kCompute where both have work: chains of small kernels
  kCopy,
};
inline constexpr size_t kQueues = 3;

// Type of weights and of the activations that meet them; activations of int8 weights are float32.
enum class MatrixType : uint8_t { kFloat32, kBFloat16, kInt8, kFloat8 };
constexpr size_t MatrixBytes(MatrixType type) {
  return type == MatrixType::kFloat32 ? 4 : type == MatrixType::kBFloat16 ? 2 : 1;
}
// Bytes from row to row of a matrix: rows of bytes are filled up with zeros to whole groups.
constexpr size_t MatrixRowBytes(MatrixType type, size_t in) {
  return MatrixBytes(type) == 1 ? size_t{WeightGroups(in)} * kGroupInputs : in * MatrixBytes(type);
}
// Working memory of products with int8 weights.
constexpr size_t QuantizedBytes(size_t rows, size_t in) {
  return rows * WeightGroups(in) * (kGroupInputs + sizeof(float));
}

// output[rows, out] (+)= input[rows, in] weights[out, in]^T; sums in float32. The input has the
// type of the weights, but for:
//   int8: it is float32 and quantised too; results are those of kernels/gemm/gemm.h to the bit.
//   float8: it is bfloat16; weights are 8-bit floats times their output's scale.
// Both have the same bits whatever the number of rows.
struct GemmCall {
  MatrixType type = MatrixType::kBFloat16;
  const void* weights = nullptr;
  const float* scales = nullptr;  // [out], int8 and float8 only
  void* work = nullptr;           // QuantizedBytes(rows, in), int8 only
  const void* input = nullptr;
  float* output = nullptr;
  size_t rows = 0, out = 0, in = 0;
  bool accumulate = false;
};

struct NormCall {
  const float* x = nullptr;
  const uint32_t* pick = nullptr;  // rows of x; null = row i is row i
  const float* weight = nullptr;
  float epsilon = 0;
  uint32_t hidden = 0;
  size_t rows = 0;
  MatrixType type = MatrixType::kBFloat16;
  void* out = nullptr;
};

// A recorded step of kernels. 0 = none.
using GraphId = uint32_t;
// A place in a queue. 0 = the beginning, always done.
using Mark = uint64_t;

class Device {
 public:
  virtual ~Device() = default;

  virtual DeviceInfo info() const = 0;
  // Empty while all is well; then what failed first, for people.
  virtual std::string error() const = 0;

  // Null when there is no room (that alone is not a failure). Device memory is 256-byte aligned.
  virtual void* Allocate(size_t bytes) = 0;
  virtual void Free(void* data) = 0;
  virtual void* AllocatePinned(size_t bytes) = 0;
  virtual void FreePinned(void* data) = 0;

  // Host memory must stay as it is until the queue has passed.
  virtual void Upload(Queue queue, void* to, const void* from, size_t bytes) = 0;
  virtual void Download(Queue queue, void* to, const void* from, size_t bytes) = 0;
  virtual void Zero(Queue queue, void* data, size_t bytes) = 0;
  virtual void CopyWithin(Queue queue, void* to, const void* from, size_t bytes) = 0;

  virtual Mark Record(Queue queue) = 0;
  virtual void WaitFor(Queue queue, Mark mark) = 0;  // on the device: the host goes on
  virtual bool Done(Mark mark) = 0;
  virtual void WaitOnHost(Mark mark) = 0;

  // What is enqueued on the compute queue between the two calls is recorded and not run. Only
  // operations below may be recorded, each of a kind that has run before. False or 0 when recording
  // failed, for whatever reason: nothing was run, and the failure is not kept.
  virtual bool BeginRecording() = 0;
  virtual GraphId EndRecording() = 0;
  virtual void Replay(GraphId graph) = 0;
  virtual void Forget(GraphId graph) = 0;  // 0 is allowed

  // Which queue the operations below go to from here on; kCompute at first. REQUIRES: kCompute or
  // kScan, and kCompute while recording.
  virtual void RunOn(Queue queue) = 0;
  // REQUIRES: on kCompute, as there is one working memory for all products.
  virtual void Gemm(const GemmCall& call) = 0;
  // `scales`: of the table's rows, int8 and float8 only.
  virtual void Embed(const Row* rows, size_t count, const void* table, const float* scales,
                     MatrixType type, uint32_t hidden, float* x) = 0;
  virtual void Norm(const NormCall& call) = 0;
  virtual void Swiglu(const float* gate_up, size_t rows, uint32_t ffn, MatrixType type,
                      void* out) = 0;
  virtual void Queries(const QueryParams& params, size_t rows) = 0;
  virtual void Push(const PushParams& params, size_t tiles) = 0;
  // REQUIRES: head_dim is 16, 32, 64 or 128. `single`: every tile has one row.
  virtual void Attend(const AttendParams& params, size_t tiles, bool single) = 0;
  // Adds to the received attention of pairs, after Combine; for streams whose score is `attention`.
  virtual void Masses(const AttendParams& params, size_t tiles, bool single) = 0;
  virtual void Combine(const CombineParams& params, size_t rows, MatrixType type, void* out) = 0;
  // A whole chunk event: score, discount, select, absorb, move, clear.
  virtual void RunEvents(const EventParams& params, size_t events) = 0;
  virtual void Sample(const SampleParams& params, size_t rows) = 0;
};

// What an emulated device does wrong, so that tests see how it is taken.
struct EmulatedFaults {
  uint64_t fault_at_launch = 0;    // this launch (from 1) breaks the device for good; 0 = never
  bool refuse_recordings = false;  // every recording fails
  uint64_t queue_seed = 1;         // how queues take turns; emulation/queues.h
};
// Runs the kernels on the CPU, late and in any order that waits allow; gemms are plain loops in one
// order. For tests.
Device* NewEmulatedDevice(uint64_t memory_bytes, const EmulatedFaults& faults = {});

// Limits of the kernels.
inline constexpr uint32_t kHeadDimMax = 128;
inline constexpr uint32_t kFeatureDimMax = 256;
inline constexpr uint32_t kEventPairsMax = 2000;  // cached and leaving pairs of one event
inline constexpr uint32_t kChunkMax = 256;

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_DEVICE_H_
