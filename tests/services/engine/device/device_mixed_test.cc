// Streams of different settings on one device: what one of them needs or leaves behind is nothing
// to the others.
#include "tests/services/engine/device/device_testing.h"
#include "tests/services/engine/device/forwarding_device.h"

namespace lola::engine {
namespace {

// Padding rows write to the spare record by some stream's settings. Read by other settings these
// bytes could be counts of pairs, and kernels would go where no pairs are.
TEST(DeviceMixed, PaddingSeesNothingThatOtherSettingsWrote) {
  const auto model = TinyModel();
  World world(model, With([](LolaSettings& s) { s.window = 64, s.cache_pairs = 96; }));
  const memory::StateLayout small(model->geometry(), Small());
  const std::vector<int32_t> tokens = RandomTokens(3, model->geometry().vocab, 3);
  const auto spare_after_step = [&](const memory::StateLayout& layout) {
    std::vector<DeviceSegment> segments;
    for (size_t slot = 0; slot < tokens.size(); ++slot) {  // three rows: one of padding
      const auto header = memory::EmptyHeader(layout, model->fingerprint_bytes());
      EXPECT_TRUE(world.arena().Clear(slot, header).ok());
      segments.push_back(world.Segment(slot, {&tokens[slot], 1}, nullptr));
      segments.back().layout = &layout;
    }
    EXPECT_TRUE(world.stepper().Step(segments, nullptr).ok());
    std::vector<std::byte> spare(world.arena().stride_bytes());
    world.device()->Download(cuda::Queue::kCompute, spare.data(), world.arena().spare(),
                             spare.size());
    world.device()->WaitOnHost(world.device()->Record(cuda::Queue::kCompute));
    return spare;
  };
  const std::vector<std::byte> want = spare_after_step(small);
  EXPECT_NE(want, std::vector<std::byte>(want.size())) << "padding writes somewhere";
  EXPECT_NE(spare_after_step(world.layout()), want);
  EXPECT_EQ(spare_after_step(small), want);
}

// Gives no more than `most` bytes at a time.
class MeanDevice : public ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  void* Allocate(size_t bytes) override {
    latest = bytes;
    return bytes > most ? nullptr : ForwardingDevice::Allocate(bytes);
  }
  size_t most = SIZE_MAX, latest = 0;
};

TEST(DeviceMixed, SettingsThatDoNotFitAreTheirOwnStreamsTrouble) {
  const auto model = TinyModel();
  const LolaSettings large = With([](LolaSettings& s) { s.cache_pairs = 700; });
  const memory::StateLayout layouts[] = {{model->geometry(), Small()}, {model->geometry(), large}};
  World reference(model, Small());
  MeanDevice device(cuda::NewEmulatedDevice(kDeviceBytes));
  auto arena = DeviceArena::Create(&device, layouts[1].stride_bytes(), 2, 1);
  ASSERT_TRUE(arena.ok()) << arena.status();
  auto stepper = DeviceStepper::Create(model, &device, arena->get(), {.rows_max = 64});
  ASSERT_TRUE(stepper.ok()) << stepper.status();
  for (size_t slot = 0; slot < 2; ++slot) {
    const auto header = memory::EmptyHeader(layouts[slot], model->fingerprint_bytes());
    ASSERT_TRUE((*arena)->Clear(slot, header).ok());
  }
  const std::vector<int32_t> tokens = RandomTokens(40, model->geometry().vocab, 5);
  for (size_t at = 0; at < tokens.size(); ++at) {
    std::vector<float> logits(model->geometry().vocab);
    DeviceSegment fits, does_not;
    fits.slot = 0, does_not.slot = 1;
    fits.layout = &layouts[0], does_not.layout = &layouts[1];
    fits.tokens = does_not.tokens = {&tokens[at], 1};
    fits.logits = logits.data();
    // Alone at first, then beside the other one, before and behind it.
    std::vector<DeviceSegment> segments = {fits};
    if (at >= 20) segments.insert(segments.begin() + at % 2, does_not);
    const absl::Status stepped = (*stepper)->Step(segments, nullptr);
    ASSERT_TRUE(stepped.ok()) << stepped;
    EXPECT_EQ(logits, reference.Feed(0, {&tokens[at], 1})) << "token " << at;
    if (at == 0) device.most = device.latest;  // partial results of attention, the latest to grow
    if (at < 20) continue;
    EXPECT_EQ(segments[at % 2].status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(segments[at % 2].status.message(), testing::HasSubstr("attention partials"));
    EXPECT_TRUE(segments[1 - at % 2].status.ok());
  }
  EXPECT_GT((*stepper)->counters().replays, 0u);
  EXPECT_EQ((*arena)->position(0), tokens.size());
  EXPECT_EQ((*arena)->position(1), 0u);
  device.most = SIZE_MAX;
  DeviceSegment now_it_fits;
  now_it_fits.slot = 1;
  now_it_fits.layout = &layouts[1];
  now_it_fits.tokens = {&tokens[0], 1};
  ASSERT_TRUE((*stepper)->Step({&now_it_fits, 1}, nullptr).ok());
  EXPECT_TRUE(now_it_fits.status.ok()) << now_it_fits.status;
}

// And so do kinds of steps.
TEST(DeviceMixed, RecordingsHaveABound) {
  const auto model = TinyModel();
  World all(model, Small()), few(model, Small(), {.recordings_max = 2});
  const std::vector<int32_t> tokens = RandomTokens(4, model->geometry().vocab, 9);
  const auto step = [&](World& world, size_t rows) {
    std::vector<float> logits(model->geometry().vocab);
    std::vector<DeviceSegment> segments;
    for (size_t slot = 0; slot < rows; ++slot) {
      segments.push_back(world.Segment(slot, {&tokens[slot], 1}, logits.data()));
    }
    EXPECT_TRUE(world.stepper().Step(segments, nullptr).ok());
    return logits;
  };
  for (int round = 0; round < 3; ++round) {
    for (const size_t rows : {1, 2, 4}) {
      for (int again = 0; again < 3; ++again) EXPECT_EQ(step(all, rows), step(few, rows));
    }
  }
  EXPECT_EQ(all.Record(0), few.Record(0));
  EXPECT_EQ(all.stepper().counters().recordings, 3u);
  EXPECT_GT(few.stepper().counters().recordings, 6u);
  EXPECT_GT(few.stepper().counters().replays, few.stepper().counters().recordings);
}

// Settings come from clients: what is kept of them has a bound.
TEST(DeviceMixed, SettingsThatNobodyAsksForAreForgotten) {
  const auto model = TinyModel();
  const std::unique_ptr<cuda::Device> device(cuda::NewEmulatedDevice(kDeviceBytes));
  PlanCache plans(device.get(), model->rope_frequencies());
  const auto find = [&](int kind) {
    LolaSettings settings = Small();
    settings.mass_cap = 100 + kind;
    const auto plan = plans.Find(memory::StateLayout(model->geometry(), settings));
    EXPECT_TRUE(plan.ok()) << plan.status();
    EXPECT_TRUE((*plan)->settings == settings);
    return *plan;
  };
  for (int kind = 0; kind < 8; ++kind) find(kind);
  const uint64_t free = device->info().free_bytes;
  const DevicePlan* first = find(0);
  EXPECT_FALSE(plans.Trim(8));
  EXPECT_TRUE(plans.Trim(3));  // 0, 7 and 6
  EXPECT_EQ(plans.size(), 3u);
  EXPECT_GT(device->info().free_bytes, free);
  EXPECT_EQ(find(0), first);
  find(7);
  find(6);
  EXPECT_EQ(plans.size(), 3u);
  find(5);
  EXPECT_EQ(plans.size(), 4u);
}

}  // namespace
}  // namespace lola::engine
