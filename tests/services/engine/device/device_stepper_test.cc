// The device's step as such: P2, recordings, sampling, refusals, failures.
#include "services/engine/device/device_stepper.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "tests/services/engine/device/device_testing.h"

namespace lola::engine {
namespace {

// P2 on a device: pieces, companions and recordings change no bit of states or logits.
TEST(DeviceStepperTest, StateIsAFunctionOfTokens) {
  for (const char* name : {"lifelong", "bfloat16", "adaptive_shared_sinks", "float8",
                           "chunk_beyond_section", "hypothetical", "attention"}) {
    const LolaSettings settings = SettingsOf(name);
    const std::string_view kind = name;
    const auto model = TinyModel(kind == "float8"     ? WeightDtype::kInt8
                                 : kind == "lifelong" ? WeightDtype::kFloat8
                                                      : WeightDtype::kBFloat16);
    const std::vector<int32_t> tokens = RandomTokens(200, model->geometry().vocab, 3);
    World world(model, settings);
    std::vector<float> want;
    for (const int32_t& token : tokens) want = world.Feed(0, {&token, 1});
    EXPECT_GT(world.stepper().counters().replays, 0u);
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
    EXPECT_EQ(direct.stepper().counters().replays, 0u);
    EXPECT_EQ(want, got);
    EXPECT_EQ(world.Record(0), direct.Record(3));
  }
}

// Blocks of a prefill fold sections into spans, decode steps leave that to the merge: the same bits
// where there are several sections in a span and several spans of each kind.
TEST(DeviceStepperTest, SpansAreFoldedAlike) {
  ModelConfig config = *NamedGeometry("tiny");
  config.geometry.vocab = 1024;
  config.geometry.feature_dim = 256;
  auto made = Model::Random(config, 7, {.dtype = WeightDtype::kFloat32});
  ASSERT_TRUE(made.ok()) << made.status();
  const std::shared_ptr<const Model> model = *std::move(made);
  LolaSettings settings = Small();
  settings.window = settings.chunk = 144;
  settings.cache_pairs = 400;
  const cuda::Sections sections = SectionsOf(settings, model->geometry());
  const cuda::Sections spans = SectionsOf(settings, model->geometry(), cuda::kSpanSections);
  EXPECT_EQ(std::vector({sections.cache, sections.window, sections.linear}),
            std::vector({7u, 6u, 8u}));
  EXPECT_EQ(std::vector({spans.cache, spans.window, spans.linear}), std::vector({2u, 2u, 2u}));
  World world(model, settings);
  Judge judge(*model, settings);
  const std::vector<int32_t> tokens = DistinctTokens(760, config.geometry.vocab, 12);
  constexpr size_t kTogether = 720;
  std::vector<float> got, want;
  for (size_t at = 0; at < kTogether; at += 40) {
    got = world.Feed(0, std::span(tokens).subspan(at, 40));
    want = judge.Feed(std::span(tokens).subspan(at, 40));
  }
  EXPECT_LT(LargestDifference(got, want), 2e-4);
  EXPECT_GT(world.stats().absorptions, 0u);
  ASSERT_TRUE(world.arena().Load(1, world.Record(0)).ok());
  got = world.Feed(0, std::span(tokens).subspan(kTogether));
  std::vector<float> single;
  for (size_t i = kTogether; i < tokens.size(); ++i) single = world.Feed(1, {&tokens[i], 1});
  EXPECT_EQ(got, single);
  EXPECT_EQ(world.Record(0), world.Record(1));
}

// However the queues take turns: lanes, events beside the head and copies of states on their way
// out while the next step runs see what they should.
TEST(DeviceStepperTest, QueuesMayTakeTurnsInAnyOrder) {
  const auto model = TinyModel();
  const LolaSettings settings = SettingsOf("bfloat16");
  const std::vector<int32_t> tokens = RandomTokens(140, model->geometry().vocab, 13);
  std::vector<std::byte> want[2];
  std::vector<float> logits;
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    World world(model, settings, {}, {.queue_seed = seed});
    world.Feed(0, std::span(tokens).first(64));
    world.Feed(1, std::span(tokens).first(48));
    std::vector<std::byte> between(world.layout().stride_bytes());
    auto copy = world.arena().CopyOut(0, between);
    ASSERT_TRUE(copy.ok()) << copy.status();
    std::vector<float> got(model->geometry().vocab), other(model->geometry().vocab);
    for (size_t at = 0; at < 40; at += 20) {
      DeviceSegment segments[] = {
          world.Segment(0, std::span(tokens).subspan(64 + at, 20), got.data()),
          world.Segment(1, std::span(tokens).subspan(48 + at, 20), other.data())};
      ASSERT_TRUE(world.stepper().Step(segments, nullptr).ok());
    }
    for (size_t i = 104; i < 140; ++i) got = world.Feed(0, {&tokens[i], 1});
    ASSERT_TRUE(copy->Wait().ok());
    if (seed == 1) {
      logits = got;
      want[0] = between;
      want[1] = world.Record(0);
      World plain(model, settings, {.record_decode = false});
      for (const int32_t& token : tokens) got = plain.Feed(0, {&token, 1});
    }
    EXPECT_EQ(got, logits) << seed;
    EXPECT_EQ(between, want[0]) << seed;
    EXPECT_EQ(world.Record(0), want[1]) << seed;
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

TEST(DeviceStepperTest, EventsGetTheMemoryTheyNeed) {
  const auto model = TinyModel();
  const LolaSettings settings = SettingsOf("hypothetical");
  World roomy(model, settings), tight(model, settings, {.event_work_bytes = 64});
  const std::vector<int32_t> tokens = RandomTokens(120, model->geometry().vocab, 6);
  for (size_t at = 0; at < tokens.size(); at += 40) {
    roomy.Feed(0, std::span(tokens).subspan(at, 40));
    tight.Feed(0, std::span(tokens).subspan(at, 40));
  }
  EXPECT_EQ(roomy.Record(0), tight.Record(0));
}

// Streams of different settings share a step without a trace in each other.
TEST(DeviceStepperTest, SettingsMixInOneStep) {
  const auto model = TinyModel();
  const LolaSettings settings[] = {SettingsOf("adaptive_shared_sinks"), SettingsOf("lifelong"),
                                   SettingsOf("attention"), SettingsOf("softmax_float8"),
                                   SettingsOf("hypothetical")};
  std::vector<memory::StateLayout> layouts;
  for (const LolaSettings& s : settings) layouts.emplace_back(model->geometry(), s);
  size_t stride = 0;
  for (const memory::StateLayout& l : layouts) stride = std::max(stride, l.stride_bytes());
  std::unique_ptr<cuda::Device> device = TestDevice(kDeviceBytes);
  auto arena = DeviceArena::Create(device.get(), stride, layouts.size(), 1);
  ASSERT_TRUE(arena.ok()) << arena.status();
  auto stepper = DeviceStepper::Create(model, device.get(), arena->get(),
                                       {.rows_max = 64, .logits_rows_max = 8});
  ASSERT_TRUE(stepper.ok()) << stepper.status();
  for (size_t i = 0; i < layouts.size(); ++i) {
    const auto header = memory::EmptyHeader(layouts[i], model->fingerprint_bytes());
    ASSERT_TRUE((*arena)->Clear(i, header).ok());
  }
  const std::vector<int32_t> tokens = RandomTokens(120, model->geometry().vocab, 8);
  for (size_t at = 0; at < tokens.size();) {
    const size_t piece = at % 3 == 0 ? 12 : 1;
    std::vector<DeviceSegment> segments(layouts.size());
    for (size_t i = 0; i < layouts.size(); ++i) {
      segments[i].slot = i;
      segments[i].layout = &layouts[i];
      segments[i].tokens = std::span(tokens).subspan(at, std::min(piece, tokens.size() - at));
    }
    ASSERT_TRUE((*stepper)->Step(segments, nullptr).ok());
    at += piece;
  }
  for (size_t i = 0; i < layouts.size(); ++i) {
    World alone(model, settings[i]);
    alone.Feed(0, std::span(tokens).first(60));
    alone.Feed(0, std::span(tokens).subspan(60));
    std::vector<std::byte> record(layouts[i].stride_bytes());
    auto copy = (*arena)->CopyOut(i, record);
    ASSERT_TRUE(copy.ok() && copy->Wait().ok());
    EXPECT_EQ(record, alone.Record(0)) << i;
  }
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
  control.chunk = control.window = 512;
  const absl::Status refused = CheckDeviceSettings(control, model->geometry());
  EXPECT_TRUE(absl::IsUnimplemented(refused));
  EXPECT_THAT(std::string(refused.message()), testing::HasSubstr("chunk: 512"));
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
  EXPECT_GT(recorded.stepper().counters().replays, 0u);
  EXPECT_EQ(refused.stepper().counters().replays, 0u);
  EXPECT_EQ(refused.stepper().counters().refused_recordings, 1u);
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
