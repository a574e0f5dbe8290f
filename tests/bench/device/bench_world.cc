#include "tests/bench/device/bench_world.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "kernels/core/bf16.h"
#include "kernels/cuda/plugin.h"
#include "memory/stream/stream_state.h"

namespace lola::bench {

using memory::LolaSettings;
using memory::StateLayout;

void Fail(const std::string& what) {
  std::fprintf(stderr, "FAILED %s\n", what.c_str());
  std::exit(1);
}
void Need(const absl::Status& status) {
  if (!status.ok()) Fail(status.ToString());
}

void Wait(cuda::Device* device) {
  device->WaitOnHost(device->Record(cuda::Queue::kCompute));
  if (!device->error().empty()) Fail(device->error());
}

std::vector<float> Randoms(size_t count, float low, float high) {
  std::mt19937 random(9);
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> values(count);
  for (float& value : values) value = uniform(random);
  return values;
}

std::shared_ptr<cuda::Device> OpenDevice(const BenchOptions& options, bool batch_invariant) {
  if (options.smoke) {
    return std::shared_ptr<cuda::Device>(cuda::NewEmulatedDevice(uint64_t{1} << 30));
  }
  cuda::OpenedDevice opened = cuda::OpenCudaDevice({.batch_invariant = batch_invariant});
  if (opened.device != nullptr) return std::move(opened.device);
  std::printf("SKIPPED: no GPU to measure: %s (--smoke runs on the emulated device)\n",
              opened.error.c_str());
  std::exit(77);
}

LolaSettings BenchSettings(const BenchOptions& options, uint32_t lambda,
                           memory::CacheSharing sharing) {
  LolaSettings settings = LolaSettings::LifelongProfile();
  settings.window = settings.chunk = options.smoke ? 16 : 128;
  settings.cache_pairs = options.smoke ? 24 : lambda;
  settings.cache_dtype = kernels::Dtype::kBFloat16;
  settings.cache_sharing = sharing;
  return settings;
}

namespace {

// Uniform in [low, high), fast: records have hundreds of megabytes.
class Uniform {
 public:
  float Next(float low, float high) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return low + (high - low) * float(uint32_t(state_ >> 40)) * 0x1p-24f;
  }

 private:
  uint64_t state_ = 88172645463325252u;
};

void FillFloats(Uniform& random, std::byte* from, std::byte* to, float low, float high) {
  auto* values = reinterpret_cast<float*>(from);
  const size_t count = size_t(to - from) / sizeof(float);
  for (size_t i = 0; i < count; ++i) values[i] = random.Next(low, high);
}

void FillRows(Uniform& random, kernels::Dtype dtype, std::byte* from, std::byte* to) {
  if (dtype == kernels::Dtype::kFloat32) return FillFloats(random, from, to, -1.5f, 1.5f);
  if (dtype != kernels::Dtype::kBFloat16) Fail("records are filled with float32 or bfloat16");
  auto* values = reinterpret_cast<kernels::BFloat16*>(from);
  const size_t count = size_t(to - from) / sizeof(values[0]);
  for (size_t i = 0; i < count; ++i) values[i] = kernels::ToBFloat16(random.Next(-1.5f, 1.5f));
}

}  // namespace

std::vector<std::byte> RandomRecord(const StateLayout& layout, uint64_t position) {
  std::vector<std::byte> record(layout.stride_bytes());
  const memory::ModelGeometry& g = layout.geometry();
  const LolaSettings& s = layout.settings();
  memory::StreamState state(&layout, record);
  state.Reset({});
  state.SetPosition(position);
  Uniform random;
  const uint64_t events = position / s.chunk - s.window / s.chunk;
  for (uint32_t layer = 0; layer < g.layers; ++layer) {
    const memory::LayerOffsets& at = layout.layer(layer);
    std::byte* base = record.data();
    const uint32_t lambda = s.CachePairs(layer);
    auto* counters = reinterpret_cast<memory::HeadCounters*>(base + at.counters);
    for (uint32_t head = 0; head < g.query_heads; ++head) {
      counters[head] = {.absorbed = events * s.chunk - lambda, .events = events, .cached = lambda};
    }
    FillFloats(random, base + at.s, base + at.h, 1.0f, 4.0f);
    FillFloats(random, base + at.h, base + at.window_k, -2.0f, 2.0f);
    FillRows(random, s.cache_dtype, base + at.window_k, base + at.cache_meta);
    auto* meta = reinterpret_cast<memory::SlotMeta*>(base + at.cache_meta);
    for (uint32_t n = 0; n < layout.caches() * layout.cache_slots(layer); ++n) {
      const uint32_t slot = n % layout.cache_slots(layer);
      if (slot < lambda) meta[n] = {int64_t{slot} * 7, random.Next(0, 1), 0.5f};
    }
  }
  Need(state.Check());
  return record;
}

Streams::Streams(cuda::Device* device, const StateLayout& layout, size_t count, size_t stagings)
    : device(device), layout(layout), count(count) {
  const LolaSettings& s = layout.settings();
  position = uint64_t{1024} * s.chunk + s.chunk / 2;
  auto made = engine::DeviceArena::Create(device, layout.stride_bytes(), count + 1, stagings);
  Need(made.status());
  arena = *std::move(made);
  Need(arena->Load(count, RandomRecord(layout, position)));
  Restore();
  // Streams stand at different places of a chunk, so that their events are spread over steps.
  for (size_t i = 0; i < count; ++i) {
    arena->SetPosition(i, position - s.chunk / 2 + i * s.chunk / count);
  }
}

void Streams::Restore() {
  for (size_t i = 0; i < count; ++i) {
    device->CopyWithin(cuda::Queue::kCompute, arena->record(i), arena->record(count),
                       layout.stride_bytes());
  }
}

}  // namespace lola::bench
