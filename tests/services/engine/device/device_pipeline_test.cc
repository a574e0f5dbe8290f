// Layers of a model on devices: cut anywhere, a pipeline whose stages are all on devices gives the
// bits of one device that has the whole model; one with stages on the CPU too says what it is, and
// gives the same bits however the layers of each kind are cut.
#include <gmock/gmock.h>

#include "services/engine/device/device_runner.h"
#include "services/engine/device/device_stage.h"
#include "tests/services/engine/model_testing.h"
#include "tests/services/engine/pipeline/local_stage_link.h"
#include "tests/services/engine/runtime/engine_testing.h"

namespace lola::engine {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kDeviceBytes = uint64_t{1} << 30;
constexpr uint64_t kSeed = 5;
constexpr size_t kRows = 64;
constexpr size_t kTokens = 90;

ModelConfig FourLayers(bool tied = false) {
  ModelConfig config = *NamedGeometry("tiny");
  config.geometry.layers = 4;
  config.tied_embeddings = tied;
  config.defaults = SmallSettings();
  return config;
}

std::shared_ptr<cuda::Device> NewDevice(const cuda::EmulatedFaults& faults = {}) {
  return std::shared_ptr<cuda::Device>(cuda::NewEmulatedDevice(kDeviceBytes, faults));
}
std::shared_ptr<StageMaker> Device() { return MakeDeviceStages(NewDevice()); }
const std::shared_ptr<StageMaker> kCpu;

std::shared_ptr<const Model> WholeModel(bool tied, WeightDtype dtype) {
  return *Model::Random(FourLayers(tied), kSeed, {.dtype = dtype});
}

// Two streams fed in pieces, now together, now alone, with a snapshot that moves to another slot in
// the middle: their logits after every piece, then their records.
struct Outcome {
  std::vector<float> logits;
  std::vector<std::byte> records;
  bool operator==(const Outcome&) const = default;
};

class Drive {
 public:
  explicit Drive(std::unique_ptr<ModelRunner> runner)
      : runner_(std::move(runner)),
        layout_(runner_->model().geometry(), SmallSettings()),
        states_(*runner_->MakeStates(layout_.stride_bytes(), 4, 2)),
        vocab_(runner_->model().geometry().vocab) {
    for (size_t i = 0; i < 2; ++i) {
      slots_.push_back(*states_->Acquire());
      EXPECT_TRUE(states_->Reset(slots_[i], layout_, runner_->model().fingerprint_bytes()).ok());
      tokens_.push_back(RandomTokens(kTokens, vocab_, 20 + i));
    }
  }
  Outcome Run() {
    Outcome outcome;
    size_t at[2] = {0, 0};
    const size_t pieces[][2] = {{1, 20}, {13, 0}, {30, 7}, {1, 1}, {1, 1}, {0, 31}, {16, 2}};
    for (const auto& piece : pieces) {
      Step(piece, at, &outcome.logits);
      if (at[0] == 44) Move(0);
    }
    for (size_t i = 0; i < 2; ++i) {
      const std::vector<std::byte> record = Record(i);
      outcome.records.insert(outcome.records.end(), record.begin(), record.end());
    }
    return outcome;
  }

 private:
  void Step(const size_t (&piece)[2], size_t (&at)[2], std::vector<float>* logits) {
    std::vector<Segment> segments;
    std::vector<std::vector<float>> out(2, std::vector<float>(vocab_));
    for (size_t i = 0; i < 2; ++i) {
      if (piece[i] == 0) continue;
      Segment segment;
      segment.slot = slots_[i];
      segment.layout = &layout_;
      segment.settings = &layout_.settings();
      segment.tokens = std::span(tokens_[i]).subspan(at[i], piece[i]);
      segment.logits = out[i].data();
      segments.push_back(segment);
      at[i] += piece[i];
    }
    const absl::Status stepped = runner_->Step(segments);
    ASSERT_TRUE(stepped.ok()) << stepped;
    for (const Segment& segment : segments) {
      ASSERT_TRUE(segment.status.ok()) << segment.status;
      logits->insert(logits->end(), segment.logits, segment.logits + vocab_);
    }
  }
  std::vector<std::byte> Record(size_t i) {
    std::vector<std::byte> record(layout_.stride_bytes());
    auto copy = states_->Copy(slots_[i], record);
    EXPECT_TRUE(copy.ok() && (*copy)().ok());
    return record;
  }
  void Move(size_t i) {
    const std::vector<std::byte> record = Record(i);
    const size_t next = *states_->Acquire();
    const auto staging = states_->Stage(next, record.size());
    std::copy(record.begin(), record.end(), staging.bytes.begin());
    EXPECT_TRUE(BringAndAdopt(*states_, next, layout_, staging).ok());
    states_->Release(slots_[i]);
    slots_[i] = next;
  }

  std::unique_ptr<ModelRunner> runner_;
  const memory::StateLayout layout_;
  std::unique_ptr<ResidentStates> states_;
  const size_t vocab_;
  std::vector<size_t> slots_;
  std::vector<std::vector<int32_t>> tokens_;
};

Outcome OfOneDevice(bool tied, WeightDtype dtype) {
  auto runner = MakeDeviceRunner(WholeModel(tied, dtype), NewDevice(), kRows);
  EXPECT_TRUE(runner.ok()) << runner.status();
  return Drive(*std::move(runner)).Run();
}

Outcome OfPipeline(const std::vector<uint32_t>& cuts,
                   const std::vector<std::shared_ptr<StageMaker>>& makers, bool tied,
                   WeightDtype dtype, const std::string& expected_class, size_t piece_rows = 16) {
  const CutModel cut(FourLayers(tied), kSeed, cuts, dtype, makers);
  auto runner = cut.Runner(kRows, 1, piece_rows);
  EXPECT_EQ(runner->instruction_class(), expected_class);
  return Drive(std::move(runner)).Run();
}

TEST(DevicePipeline, AnyCutHasTheBitsOfOneDevice) {
  for (const bool tied : {false, true}) {
    const WeightDtype dtype = tied ? WeightDtype::kBFloat16 : WeightDtype::kFloat32;
    const Outcome whole = OfOneDevice(tied, dtype);
    ASSERT_GT(whole.logits.size(), 0u);
    EXPECT_TRUE(OfPipeline({2}, {Device(), Device()}, tied, dtype, "emulation", 7) == whole);
    EXPECT_TRUE(OfPipeline({1, 3}, {Device(), Device(), Device()}, tied, dtype, "emulation") ==
                whole);
  }
}

TEST(DevicePipeline, Int8WeightsToo) {
  const Outcome whole = OfOneDevice(true, WeightDtype::kInt8);
  EXPECT_TRUE(OfPipeline({1}, {Device(), Device()}, true, WeightDtype::kInt8, "emulation") ==
              whole);
}

TEST(DevicePipeline, MixedStagesSayWhichLayersAreWhereAndCutsLeaveNoTrace) {
  const std::string cpu = MakeHostStages(1)->instruction_class();
  const auto dtype = WeightDtype::kFloat32;
  const std::string front_cpu = "0-1:" + cpu + ",2-3:emulation";
  const Outcome mixed = OfPipeline({2}, {kCpu, Device()}, false, dtype, front_cpu);
  EXPECT_TRUE(OfPipeline({1, 2, 3}, {kCpu, kCpu, Device(), Device()}, false, dtype, front_cpu) ==
              mixed);
  const Outcome other = OfPipeline({2}, {Device(), kCpu}, false, dtype, "0-1:emulation,2-3:" + cpu);
  // Another arithmetic, the same mathematics.
  const Outcome device = OfOneDevice(false, dtype);
  for (const Outcome* one : {&mixed, &other}) {
    ASSERT_EQ(one->logits.size(), device.logits.size());
    double largest = 0;
    for (size_t i = 0; i < device.logits.size(); ++i) {
      largest = std::max(largest, std::fabs(double(one->logits[i]) - device.logits[i]));
    }
    // float32 throughout; the bar of device_agreement_test.cc.
    EXPECT_LT(largest, 1e-3);
    EXPECT_GT(largest, 0);
  }
}

std::unique_ptr<ModelRunner> OneDevice(size_t rows) {
  return *MakeDeviceRunner(WholeModel(false, WeightDtype::kFloat32), NewDevice(), rows);
}
std::unique_ptr<ModelRunner> ThreeDevices(size_t rows) {
  static const CutModel cut(FourLayers(), kSeed, {1, 2}, WeightDtype::kFloat32,
                            {Device(), Device(), Device()});
  return cut.Runner(rows);
}

std::vector<int32_t> Generated(Worker::RunnerMaker maker) {
  auto store = std::make_shared<FakeStore>();
  EngineOptions options = SmallOptions();
  options.slots = 1;  // two streams take turns: loads and copies
  Worker worker(store, options, "worker", maker);
  std::vector<Worker::Session> sessions;
  for (const std::string stream : {"a", "b"}) {
    sessions.push_back(worker.Open(stream));
    worker.Append(sessions.back(), 1, RandomText(50, 1), 0);
    worker.Generate(sessions.back(), 2, 40, 50);
  }
  for (const Worker::Session& session : sessions) EXPECT_TRUE(session.client->WaitDone(2));
  EXPECT_EQ(store->Tokens("a"), store->Tokens("b"));
  EXPECT_TRUE(worker.Eventually([](const auto& now) { return now.cached_pairs > 0; }));
  EXPECT_GT(worker.engine->statistics().cache_capacity, 0u);
  EXPECT_GT(worker.engine->statistics().runner.replays, 0u);
  return store->Tokens("a");
}

// Tokens are picked by the last stage, with a temperature and a penalty: the same ones.
TEST(DevicePipeline, TheEngineGetsTheTokensOfOneDevice) {
  EXPECT_EQ(Generated(ThreeDevices), Generated(OneDevice));
}

TEST(DevicePipeline, ADeviceThatIsLostStaysLostAndSaysSo) {
  const auto lost = MakeDeviceStages(NewDevice({.fault_at_launch = 60}));
  const CutModel cut(FourLayers(), kSeed, {2}, WeightDtype::kFloat32, {Device(), lost});
  auto runner = cut.Runner(kRows);
  const memory::StateLayout layout(runner->model().geometry(), SmallSettings());
  auto states = *runner->MakeStates(layout.stride_bytes(), 2, 2);
  const size_t slot = *states->Acquire();
  ASSERT_TRUE(states->Reset(slot, layout, runner->model().fingerprint_bytes()).ok());
  const std::vector<int32_t> tokens = RandomTokens(20, 272, 1);
  absl::Status status;
  for (size_t i = 0; i < tokens.size() && status.ok(); ++i) {
    Segment segment;
    segment.slot = slot;
    segment.layout = &layout;
    segment.settings = &layout.settings();
    segment.tokens = std::span(tokens).subspan(i, 1);
    segment.logits_rows = 0;
    status = runner->Step({&segment, 1});
  }
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("GPU lost"));
  EXPECT_TRUE(absl::IsUnavailable(lost->health()));
  EXPECT_TRUE(absl::IsUnavailable(runner->Recover()));
  EXPECT_TRUE(absl::IsUnavailable(runner->health()));
}

TEST(DevicePipeline, AStageWithoutRoomSaysHowManySlotsFit) {
  const auto small =
      MakeDeviceStages(std::shared_ptr<cuda::Device>(cuda::NewEmulatedDevice(uint64_t{300} << 20)));
  const CutModel cut(FourLayers(), kSeed, {2}, WeightDtype::kFloat32, {Device(), small});
  const auto states = cut.Runner(kRows)->MakeStates(size_t{1} << 20, 5000, 2);
  EXPECT_TRUE(absl::IsResourceExhausted(states.status())) << states.status();
  EXPECT_THAT(std::string(states.status().message()), HasSubstr("room is for"));
}

}  // namespace
}  // namespace lola::engine
