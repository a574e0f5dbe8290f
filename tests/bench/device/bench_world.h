// What device_bench runs on: a device, a model with random weights, streams with random states.
// Anything that goes wrong ends the program with a message.
#ifndef LOLA_TESTS_BENCH_DEVICE_BENCH_WORLD_H_
#define LOLA_TESTS_BENCH_DEVICE_BENCH_WORLD_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"
#include "services/engine/device/device_arena.h"
#include "services/engine/device/device_stepper.h"
#include "tests/bench/device/bench_report.h"

namespace lola::bench {

[[noreturn]] void Fail(const std::string& what);
void Need(const absl::Status& status);
// Blocks until all that is enqueued has run.
void Wait(cuda::Device* device);

std::vector<float> Randoms(size_t count, float low, float high);
template <typename T>
engine::DeviceArray<T> Uploaded(cuda::Device* device, const std::vector<T>& from) {
  engine::DeviceArray<T> to;
  Need(to.Allocate(device, from.size(), "bench"));
  device->Upload(cuda::Queue::kCompute, to.data(), from.data(), from.size() * sizeof(T));
  Wait(device);
  return to;
}

// "full": as many streams as the device's memory holds beside weights and working memory.
inline constexpr size_t kFullBatch = 0;

struct BenchOptions {
  bool smoke = false;           // emulated device, smallest sizes, one repetition
  std::string only;             // "products", "ops" or "steps"; empty = all
  std::string geometry;         // of whole steps; empty = the 1B and the 8B shape
  std::string dtype;            // of the weights; empty: bfloat16, float8 and int8
  uint32_t layers = 0;          // 0 = as the shape has
  std::string markdown, json;   // result files
  std::vector<size_t> batches;  // of whole steps; kFullBatch among them perhaps
  size_t full_most = 0;         // most streams of a full batch; 0 = no limit
  std::vector<size_t> attention_batches;
  int repetitions = 7;
};

std::shared_ptr<cuda::Device> OpenDevice(const BenchOptions& options, bool batch_invariant);

// Settings of the figures in kernels/cuda/PERFORMANCE.md: eta 128, lambda as given, bfloat16 rows,
// caches shared by a kv head's queries.
memory::LolaSettings BenchSettings(const BenchOptions& options, uint32_t lambda,
                                   memory::CacheSharing sharing);

// A record of a stream long past its first overflow, at `position`: random rows, H and s, full
// caches.
std::vector<std::byte> RandomRecord(const memory::StateLayout& layout, uint64_t position);

// Streams in slots of a device, all in such a state.
struct Streams {
  Streams(cuda::Device* device, const memory::StateLayout& layout, size_t count, size_t stagings);
  void Restore();  // copies the first slot's pristine record into all slots, enqueued only

  cuda::Device* device;
  const memory::StateLayout& layout;
  std::unique_ptr<engine::DeviceArena> arena;
  size_t count;
  uint64_t position;
};

// The groups of figures.
void RunCeilings(const BenchOptions& options, cuda::Device* device, BenchReport& report);
void RunProducts(const BenchOptions& options, cuda::Device* device, BenchReport& report);
void RunOps(const BenchOptions& options, cuda::Device* device, BenchReport& report);
void RunSteps(const BenchOptions& options, BenchReport& report);

}  // namespace lola::bench

#endif  // LOLA_TESTS_BENCH_DEVICE_BENCH_WORLD_H_
