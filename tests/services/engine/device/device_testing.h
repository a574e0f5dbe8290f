// What the tests of the device's step share: a device with a stepper, and the CPU as its judge.
//
// The device is the emulation, which runs the kernels' own source; with LOLA_TEST_DEVICE=cuda in
// the environment it is the first GPU, and a program that finds none says so and exits with 77,
// which ctest counts as skipped. Tests of planted faults use the emulation always.
#ifndef LOLA_TESTS_SERVICES_ENGINE_DEVICE_DEVICE_TESTING_H_
#define LOLA_TESTS_SERVICES_ENGINE_DEVICE_DEVICE_TESTING_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>

#include "kernels/cuda/plugin.h"
#include "services/engine/device/device_stepper.h"
#include "tests/services/engine/model_testing.h"

namespace lola::engine {

using memory::LolaSettings;

inline std::unique_ptr<cuda::Device> TestDevice(uint64_t bytes,
                                                const cuda::EmulatedFaults& faults = {}) {
  const char* kind = std::getenv("LOLA_TEST_DEVICE");
  const bool planted = faults.fault_at_launch > 0 || faults.refuse_recordings;
  if (kind == nullptr || std::strcmp(kind, "cuda") != 0 || planted) {
    return std::unique_ptr<cuda::Device>(cuda::NewEmulatedDevice(bytes, faults));
  }
  cuda::OpenedDevice opened = cuda::OpenCudaDevice({});
  if (opened.device == nullptr) {
    std::printf("SKIPPED: LOLA_TEST_DEVICE=cuda, and there is no GPU to test on: %s\n",
                opened.error.c_str());
    std::exit(77);
  }
  return std::move(opened.device);
}

inline constexpr uint64_t kDeviceBytes = uint64_t{1} << 30;

inline std::shared_ptr<const Model> TinyModel(WeightDtype dtype = WeightDtype::kFloat32) {
  ModelConfig config = *NamedGeometry("tiny");
  config.geometry.vocab = 1024;
  auto model = Model::Random(config, 7, {.dtype = dtype});
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

inline LolaSettings Small() {
  LolaSettings settings = LolaSettings::LifelongProfile();
  settings.window = 16;
  settings.chunk = 16;
  settings.cache_pairs = 24;
  settings.memory_distance = 32;
  settings.mass_cap = 64;
  return settings;
}

// A device, an arena and a stepper for one kind of settings.
class World {
 public:
  World(std::shared_ptr<const Model> model, const LolaSettings& settings,
        StepperOptions options = {}, const cuda::EmulatedFaults& faults = {})
      : model_(std::move(model)),
        layout_(model_->geometry(), settings),
        device_(TestDevice(kDeviceBytes, faults)) {
    auto arena = DeviceArena::Create(device_.get(), layout_.stride_bytes(), 4, 2);
    EXPECT_TRUE(arena.ok()) << arena.status();
    arena_ = *std::move(arena);
    options.rows_max = 64;
    options.logits_rows_max = 4;
    options.lane_rows_min = std::min<size_t>(options.lane_rows_min, 24);
    auto stepper = DeviceStepper::Create(model_, device_.get(), arena_.get(), options);
    EXPECT_TRUE(stepper.ok()) << stepper.status();
    stepper_ = *std::move(stepper);
    for (size_t slot = 0; slot < arena_->slots(); ++slot) Clear(slot);
  }

  void Clear(size_t slot) {
    const auto header = memory::EmptyHeader(layout_, model_->fingerprint_bytes());
    EXPECT_TRUE(arena_->Clear(slot, header).ok());
  }
  std::vector<std::byte> Record(size_t slot) {
    std::vector<std::byte> record(layout_.stride_bytes());
    auto copy = arena_->CopyOut(slot, record);
    EXPECT_TRUE(copy.ok()) << copy.status();
    EXPECT_TRUE(copy->Wait().ok());
    return record;
  }
  DeviceSegment Segment(size_t slot, std::span<const int32_t> tokens, float* logits) {
    DeviceSegment segment;
    segment.slot = slot;
    segment.layout = &layout_;
    segment.tokens = tokens;
    segment.logits = logits;
    return segment;
  }
  std::vector<float> Feed(size_t slot, std::span<const int32_t> tokens) {
    std::vector<float> logits(model_->geometry().vocab);
    DeviceSegment segment = Segment(slot, tokens, logits.data());
    EXPECT_TRUE(stepper_->Step({&segment, 1}, &stats_).ok());
    EXPECT_TRUE(segment.status.ok()) << segment.status;
    return logits;
  }

  const memory::StateLayout& layout() const { return layout_; }
  DeviceStepper& stepper() { return *stepper_; }
  DeviceArena& arena() { return *arena_; }
  cuda::Device* device() { return device_.get(); }
  std::vector<std::byte> Zeros() const { return std::vector<std::byte>(layout_.stride_bytes()); }
  memory::MemoryStats& stats() { return stats_; }

 private:
  std::shared_ptr<const Model> model_;
  memory::StateLayout layout_;
  std::unique_ptr<cuda::Device> device_;
  std::unique_ptr<DeviceArena> arena_;
  std::unique_ptr<DeviceStepper> stepper_;
  memory::MemoryStats stats_;
};

// What the CPU gives for the same tokens.
class Judge {
 public:
  Judge(const Model& model, const LolaSettings& settings)
      : model_(model), stream_(model, settings), workspace_(model, 64, 1), pool_(1) {}
  std::vector<float> Feed(std::span<const int32_t> tokens) {
    Segment segment = stream_.Next(tokens);
    segment.stats = &stats_;
    EXPECT_TRUE(model_.Step({&segment, 1}, workspace_, pool_).ok());
    EXPECT_TRUE(segment.status.ok()) << segment.status;
    const float* last = segment.logits + (tokens.size() - 1) * model_.geometry().vocab;
    return {last, last + model_.geometry().vocab};
  }
  TestStream& stream() { return stream_; }
  memory::MemoryStats& stats() { return stats_; }

 private:
  const Model& model_;
  TestStream stream_;
  StepWorkspace workspace_;
  kernels::ThreadPool pool_;
  memory::MemoryStats stats_;
};

inline double LargestDifference(std::span<const float> a, std::span<const float> b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::fabs(double(a[i]) - b[i]));
  return largest;
}

// Distinct tokens: equal ones have nearly equal scores, whose order is up to rounding.
inline std::vector<int32_t> DistinctTokens(size_t count, uint32_t vocab, uint64_t seed) {
  std::vector<int32_t> tokens(vocab);
  std::iota(tokens.begin(), tokens.end(), 0);
  std::shuffle(tokens.begin(), tokens.end(), std::mt19937_64(seed));
  tokens.resize(count);
  return tokens;
}

// Random pieces of 1 .. 40 tokens, many single ones among them.
inline std::vector<size_t> RandomPieces(size_t total, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<size_t> pieces;
  while (total > 0) {
    const size_t piece = std::min<size_t>(total, random() % 3 == 0 ? 1 : 1 + random() % 40);
    pieces.push_back(piece);
    total -= piece;
  }
  return pieces;
}

struct Case {
  const char* name;
  LolaSettings settings;
  // Of the tokens. Scores of two pairs may agree to six digits, and then the device may keep the
  // other one: a case that meets such a tie takes other tokens.
  uint64_t seed = 11;
};

inline LolaSettings With(void (*change)(LolaSettings&)) {
  LolaSettings settings = Small();
  change(settings);
  return settings;
}

inline std::vector<Case> Cases() {
  return {
      {"lifelong", Small()},
      {"paper", With([](LolaSettings& s) {
         s.memory_positions = memory::MemoryPositions::kRotary;
         s.mass_cap = 0;
         s.redundancy_threshold = 0;
       })},
      {"base", With([](LolaSettings& s) { s.cache_pairs = 0; })},
      {"natural", With([](LolaSettings& s) { s.mixing = memory::Mixing::kNatural; })},
      {"lolcats", With([](LolaSettings& s) {
         s.mixing = memory::Mixing::kLolcats;
         s.cache_pairs = 0;
       })},
      {"bfloat16", With([](LolaSettings& s) { s.cache_dtype = kernels::Dtype::kBFloat16; })},
      {"long_window", With([](LolaSettings& s) { s.window = 32; })},
      {"chunk_beyond_section", With([](LolaSettings& s) { s.window = s.chunk = 80; })},
      {"odd_chunk", With([](LolaSettings& s) { s.window = 20, s.chunk = 10; })},
      {"no_rescore", With([](LolaSettings& s) { s.rescore = false; })},
      {"value_norm", With([](LolaSettings& s) { s.score = memory::Score::kValueNorm; })},
      {"recency", With([](LolaSettings& s) {
         s.score = memory::Score::kRecency;
         s.redundancy_threshold = 0;
       })},
      {"random", With([](LolaSettings& s) {
         s.score = memory::Score::kRandom;
         s.redundancy_threshold = 0;
       })},
      {"per_layer", With([](LolaSettings& s) {
         s.cache_pairs_per_layer = {70, 5};
       })},
  };
}

// Settings that the first release did not have, and the full cache.
inline std::vector<Case> LaterCases() {
  return {
      {"shared_cache",
       With([](LolaSettings& s) { s.cache_sharing = memory::CacheSharing::kGroup; })},
      {"shared_cache_largest",
       With([](LolaSettings& s) { s.cache_sharing = memory::CacheSharing::kGroupMax; })},
      {"sinks", With([](LolaSettings& s) { s.sinks = 5; })},
      {"adaptive", With([](LolaSettings& s) {
         s.adaptive_mass = 0.8f;
         s.cache_pairs_min = 6;
       })},
      {"adaptive_shared_sinks", With([](LolaSettings& s) {
         s.adaptive_mass = 0.6f;
         s.sinks = 3;
         s.cache_sharing = memory::CacheSharing::kGroup;
         s.cache_dtype = kernels::Dtype::kBFloat16;
       })},
      {"float8", With([](LolaSettings& s) { s.cache_dtype = kernels::Dtype::kFloat8; })},
      {"float8_rotary_shared", With([](LolaSettings& s) {
         s.memory_positions = memory::MemoryPositions::kRotary;
         s.cache_dtype = kernels::Dtype::kFloat8;
         s.cache_sharing = memory::CacheSharing::kGroup;
       })},
      {"relative_sre", With([](LolaSettings& s) { s.score = memory::Score::kRelativeSre; })},
      {"leave_one_out", With([](LolaSettings& s) { s.score = memory::Score::kLeaveOneOut; }), 12},
      {"relative_leave_one_out",
       With([](LolaSettings& s) { s.score = memory::Score::kRelativeLeaveOneOut; })},
      {"hypothetical", With([](LolaSettings& s) { s.score = memory::Score::kHypothetical; })},
      {"relative_hypothetical",
       With([](LolaSettings& s) { s.score = memory::Score::kRelativeHypothetical; })},
      {"key_norm", With([](LolaSettings& s) { s.score = memory::Score::kKeyNorm; })},
      {"attention", With([](LolaSettings& s) { s.score = memory::Score::kAttention; })},
      {"attention_shared_float8_adaptive", With([](LolaSettings& s) {
         s.score = memory::Score::kAttention;
         s.cache_sharing = memory::CacheSharing::kGroupMax;
         s.cache_dtype = kernels::Dtype::kFloat8;
         s.adaptive_mass = 0.7f;
         s.redundancy_threshold = 0;
       })},
      {"softmax", LolaSettings::SoftmaxProfile(320)},
      {"softmax_float8",
       [] {
         LolaSettings settings = LolaSettings::SoftmaxProfile(320);
         settings.cache_dtype = kernels::Dtype::kFloat8;
         return settings;
       }()},
  };
}

inline std::vector<Case> AllCases() {
  std::vector<Case> all = Cases();
  for (const Case& c : LaterCases()) all.push_back(c);
  return all;
}

inline LolaSettings SettingsOf(std::string_view name) {
  for (const Case& c : AllCases()) {
    if (name == c.name) return c.settings;
  }
  ADD_FAILURE() << name;
  return {};
}

}  // namespace lola::engine

#endif  // LOLA_TESTS_SERVICES_ENGINE_DEVICE_DEVICE_TESTING_H_
