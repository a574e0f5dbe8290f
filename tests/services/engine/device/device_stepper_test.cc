// The device's step against the CPU's: same model, same tokens, outputs and states compared. The
// device here is the emulation, which runs the kernels' own source.
#include "services/engine/device/device_stepper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/services/engine/model_testing.h"

namespace lola::engine {
namespace {

using memory::LolaSettings;

constexpr uint64_t kDeviceBytes = uint64_t{1} << 30;

std::shared_ptr<const Model> TinyModel(WeightDtype dtype = WeightDtype::kFloat32) {
  ModelConfig config = *NamedGeometry("tiny");
  config.geometry.vocab = 1024;
  auto model = Model::Random(config, 7, {.dtype = dtype});
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

LolaSettings Small() {
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
        device_(cuda::NewEmulatedDevice(kDeviceBytes, faults)) {
    auto arena = DeviceArena::Create(device_.get(), layout_.stride_bytes(), 4, 2);
    EXPECT_TRUE(arena.ok()) << arena.status();
    arena_ = *std::move(arena);
    options.rows_max = 64;
    options.logits_rows_max = 4;
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

double LargestDifference(std::span<const float> a, std::span<const float> b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::fabs(double(a[i]) - b[i]));
  return largest;
}

// Distinct tokens: equal ones have nearly equal scores, whose order is up to rounding.
std::vector<int32_t> DistinctTokens(size_t count, uint32_t vocab, uint64_t seed) {
  std::vector<int32_t> tokens(vocab);
  std::iota(tokens.begin(), tokens.end(), 0);
  std::shuffle(tokens.begin(), tokens.end(), std::mt19937_64(seed));
  tokens.resize(count);
  return tokens;
}

// Random pieces of 1 .. 40 tokens, many single ones among them.
std::vector<size_t> RandomPieces(size_t total, uint64_t seed) {
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
};

LolaSettings With(void (*change)(LolaSettings&)) {
  LolaSettings settings = Small();
  change(settings);
  return settings;
}

std::vector<Case> Cases() {
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
      {"softmax", LolaSettings::SoftmaxProfile(320)},
  };
}

class AgainstCpu : public testing::TestWithParam<Case> {};

// float32 on both sides: sums of at most a few hundred terms in another order. 2e-4 is ten times
// what the logits (of order one) differ by here; a wrong pair or rotation shows as 1e-2 and more.
TEST_P(AgainstCpu, LogitsAndStates) {
  const auto model = TinyModel();
  World world(model, GetParam().settings);
  Judge judge(*model, GetParam().settings);
  const std::vector<int32_t> tokens = DistinctTokens(300, model->geometry().vocab, 11);
  size_t at = 0;
  for (const size_t piece : RandomPieces(tokens.size(), 5)) {
    const std::span<const int32_t> next = std::span(tokens).subspan(at, piece);
    const std::vector<float> got = world.Feed(0, next), want = judge.Feed(next);
    at += piece;
    ASSERT_LT(LargestDifference(got, want), 2e-4) << "after " << at << " tokens";
  }
  std::vector<std::byte> record = world.Record(0);
  memory::StreamState state(&world.layout(), record);
  ASSERT_TRUE(state.Check(model->fingerprint_bytes()).ok())
      << state.Check(model->fingerprint_bytes());
  EXPECT_EQ(state.position(), tokens.size());
  EXPECT_EQ(world.stats().events, judge.stats().events);
  EXPECT_EQ(world.stats().absorptions, judge.stats().absorptions);
  EXPECT_EQ(world.stats().admissions, judge.stats().admissions);
  EXPECT_EQ(world.stats().displacements, judge.stats().displacements);
  EXPECT_EQ(world.stats().recall_error_count, judge.stats().recall_error_count);
  if (GetParam().settings.mode == memory::Mode::kSoftmax) return;
  for (uint32_t layer = 0; layer < model->geometry().layers; ++layer) {
    for (uint32_t head = 0; head < model->geometry().query_heads; ++head) {
      const memory::HeadView got = state.InspectHead(layer, head);
      const memory::HeadView want = judge.stream().state().InspectHead(layer, head);
      ASSERT_EQ(got.absorbed, want.absorbed);
      ASSERT_EQ(got.pairs.size(), want.pairs.size());
      for (size_t i = 0; i < got.pairs.size(); ++i) {
        EXPECT_EQ(got.pairs[i].position, want.pairs[i].position) << layer << "/" << head;
        EXPECT_EQ(got.pairs[i].slot, want.pairs[i].slot);
        EXPECT_NEAR(got.pairs[i].score, want.pairs[i].score, 1e-3 + 1e-3 * want.pairs[i].score);
      }
    }
  }
  for (const memory::Section& section : world.layout().Sections()) {
    if (section.name.find(".H") == std::string::npos) continue;
    const auto floats = [&](std::span<const std::byte> from) {
      return std::span(reinterpret_cast<const float*>(from.data() + section.offset),
                       section.bytes / sizeof(float));
    };
    EXPECT_LT(LargestDifference(floats(record), floats(judge.stream().record())), 2e-3)
        << section.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Settings, AgainstCpu, testing::ValuesIn(Cases()),
                         [](const auto& info) { return std::string(info.param.name); });

// P2 on a device: pieces, companions and recordings change no bit of states or logits.
TEST(DeviceStepperTest, StateIsAFunctionOfTokens) {
  const auto model = TinyModel(WeightDtype::kBFloat16);
  for (const LolaSettings& settings : {Small(), Cases()[5].settings}) {
    const std::vector<int32_t> tokens = RandomTokens(200, model->geometry().vocab, 3);
    World world(model, settings);
    std::vector<float> want;
    for (const int32_t& token : tokens) want = world.Feed(0, {&token, 1});
    EXPECT_GT(world.stepper().replays(), 0u);
    size_t at = 0;
    std::vector<float> got;
    for (const size_t piece : RandomPieces(tokens.size(), 17)) {
      std::vector<float> own(model->geometry().vocab), other(model->geometry().vocab);
      const std::span<const int32_t> next = std::span(tokens).subspan(at, piece);
      DeviceSegment segments[] = {
          world.Segment(2, next.first(std::min<size_t>(piece, 7)), other.data()),
          world.Segment(1, next, own.data())};
      ASSERT_TRUE(world.stepper().Step(segments, nullptr).ok());
      got = own;
      at += piece;
    }
    EXPECT_EQ(want, got);
    EXPECT_EQ(world.Record(0), world.Record(1));

    World direct(model, settings, {.record_decode = false});
    for (const int32_t& token : tokens) got = direct.Feed(3, {&token, 1});
    EXPECT_EQ(direct.stepper().replays(), 0u);
    EXPECT_EQ(want, got);
    EXPECT_EQ(world.Record(0), direct.Record(3));
  }
}

TEST(DeviceStepperTest, StatesMoveBetweenSlotsAndToTheCpu) {
  const auto model = TinyModel();
  World world(model, Small());
  const std::vector<int32_t> tokens = RandomTokens(120, model->geometry().vocab, 9);
  world.Feed(0, std::span(tokens).first(60));
  ASSERT_TRUE(world.arena().Load(1, world.Record(0)).ok());
  EXPECT_EQ(world.arena().position(1), 60u);
  const auto a = world.Feed(0, std::span(tokens).subspan(60));
  const auto b = world.Feed(1, std::span(tokens).subspan(60));
  EXPECT_EQ(a, b);
  EXPECT_EQ(world.Record(0), world.Record(1));

  Judge judge(*model, Small());
  const std::vector<std::byte> record = world.Record(0);
  std::copy(record.begin(), record.end(), judge.stream().record().begin());
  const std::vector<int32_t> more = RandomTokens(40, model->geometry().vocab, 10);
  EXPECT_LT(LargestDifference(judge.Feed(more), world.Feed(0, more)), 2e-4);
}

TEST(DeviceStepperTest, SamplesAsTheCpuDoes) {
  const auto model = TinyModel();
  World world(model, Small());
  Sampler sampler;
  const std::vector<int32_t> tokens = RandomTokens(30, model->geometry().vocab, 21);
  for (const SamplingParams params :
       {SamplingParams{}, SamplingParams{.repetition_penalty = 1.7f, .repetition_window = 20},
        SamplingParams{.temperature = 0.8f, .seed = 5}}) {
    for (int round = 0; round < 20; ++round) {
      std::vector<float> logits(model->geometry().vocab);
      const std::span<const int32_t> next = std::span(tokens).subspan(round, 1);
      DeviceSegment segment = world.Segment(0, next, logits.data());
      segment.sampling = &params;
      segment.recent = tokens;
      ASSERT_TRUE(world.stepper().Step({&segment, 1}, nullptr).ok());
      ASSERT_TRUE(segment.status.ok()) << segment.status;
      const auto want = sampler.Pick(logits, params, world.arena().position(0), tokens);
      EXPECT_EQ(segment.sampled.id, want->id) << round;
      EXPECT_NEAR(segment.sampled.logprob, want->logprob, 1e-5);
    }
  }
}

// With cut-offs the device walks tokens by id: the same distribution, not the same draw. So: never
// a token the CPU's cut-offs exclude, and every token they leave, in about the right share.
TEST(DeviceStepperTest, CutOffsLeaveTheSameTokens) {
  const auto model = TinyModel();
  for (SamplingParams params : {SamplingParams{.temperature = 1.0f, .top_k = 5},
                                SamplingParams{.temperature = 1.0f, .top_p = 0.02f},
                                SamplingParams{.temperature = 2.0f, .top_k = 9, .top_p = 0.5f}}) {
    World world(model, Small());
    Sampler sampler;
    std::map<int32_t, int> got, want;
    const int32_t token = 4;
    constexpr int kDraws = 100;
    for (int i = 0; i < kDraws; ++i) {
      world.Clear(0);
      params.seed = uint64_t(i);
      std::vector<float> logits(model->geometry().vocab);
      DeviceSegment segment = world.Segment(0, {&token, 1}, logits.data());
      segment.sampling = &params;
      ASSERT_TRUE(world.stepper().Step({&segment, 1}, nullptr).ok());
      ++got[segment.sampled.id];
      ++want[sampler.Pick(logits, params, 1, {})->id];
    }
    for (const auto& [id, count] : got) EXPECT_TRUE(want.contains(id)) << id;
    // Six standard deviations of a share.
    for (const auto& [id, count] : want) EXPECT_NEAR(got[id], count, 6 * std::sqrt(kDraws / 4.0));
  }
}

TEST(DeviceStepperTest, RefusesByNameAndTouchesNothing) {
  const auto model = TinyModel();
  World world(model, Small());
  const int32_t good[] = {1, 2}, bad[] = {1, 100000};
  std::vector<float> logits(model->geometry().vocab);
  DeviceSegment segments[] = {world.Segment(0, bad, logits.data()),
                              world.Segment(1, good, logits.data())};
  ASSERT_TRUE(world.stepper().Step(segments, nullptr).ok());
  EXPECT_THAT(std::string(segments[0].status.message()), testing::HasSubstr("id 100000"));
  EXPECT_TRUE(segments[1].status.ok());
  EXPECT_EQ(world.arena().position(0), 0u);
  EXPECT_EQ(world.arena().position(1), 2u);

  LolaSettings control = Small();
  control.score = memory::Score::kLeaveOneOut;
  const absl::Status refused = CheckDeviceSettings(control, model->geometry());
  EXPECT_TRUE(absl::IsUnimplemented(refused));
  EXPECT_THAT(std::string(refused.message()), testing::HasSubstr("leave_one_out"));
}

// A kernel's fault shows where somebody waits; from then on the device says so to everybody.
TEST(DeviceStepperTest, AFaultIsUnavailableFromThenOn) {
  const auto model = TinyModel();
  World world(model, Small(), {}, {.fault_at_launch = 40});
  std::vector<std::byte> record(world.layout().stride_bytes());
  const auto step = [&] {
    const int32_t token = 1;
    DeviceSegment segment = world.Segment(0, {&token, 1}, nullptr);
    return world.stepper().Step({&segment, 1}, nullptr);
  };
  absl::Status status = step();
  for (int i = 0; i < 10 && status.ok(); ++i) status = step();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("launch 40 faulted"));
  EXPECT_TRUE(absl::IsUnavailable(step()));
  EXPECT_TRUE(absl::IsUnavailable(world.arena().Load(1, world.Zeros())));
  EXPECT_TRUE(absl::IsUnavailable(
      world.arena().Clear(1, memory::EmptyHeader(world.layout(), model->fingerprint_bytes()))));
  auto copy = world.arena().CopyOut(0, record);
  ASSERT_TRUE(copy.ok());
  EXPECT_TRUE(absl::IsUnavailable(copy->Wait()));
  DeviceArray<float> more;
  EXPECT_TRUE(absl::IsUnavailable(more.Allocate(world.device(), 16, "more")));
}

TEST(DeviceStepperTest, StepsThatCannotBeRecordedRunAsTheyAre) {
  const auto model = TinyModel();
  World recorded(model, Small()), refused(model, Small(), {}, {.refuse_recordings = true});
  for (const int32_t token : RandomTokens(50, model->geometry().vocab, 4)) {
    EXPECT_EQ(recorded.Feed(0, {&token, 1}), refused.Feed(0, {&token, 1}));
  }
  EXPECT_EQ(recorded.Record(0), refused.Record(0));
  EXPECT_GT(recorded.stepper().replays(), 0u);
  EXPECT_EQ(refused.stepper().replays(), 0u);
  EXPECT_EQ(refused.stepper().refused_recordings(), 1u);
}

TEST(DeviceArenaTest, ClearedIsWhatResetWrites) {
  const auto model = TinyModel();
  World world(model, Small());
  world.Feed(0, RandomTokens(60, model->geometry().vocab, 5));
  world.Clear(0);
  std::vector<std::byte> want(world.layout().stride_bytes(), std::byte{0x5a});
  memory::StreamState(&world.layout(), want).Reset(model->fingerprint_bytes());
  EXPECT_EQ(world.Record(0), want);
  EXPECT_EQ(world.arena().position(0), 0u);
}

TEST(DeviceArenaTest, SaysHowManySlotsFit) {
  std::unique_ptr<cuda::Device> device(cuda::NewEmulatedDevice(1 << 20));
  const auto arena = DeviceArena::Create(device.get(), 4096, 1000, 1);
  ASSERT_TRUE(absl::IsResourceExhausted(arena.status()));
  EXPECT_THAT(std::string(arena.status().message()), testing::HasSubstr("room is for 254"));
}

}  // namespace
}  // namespace lola::engine
