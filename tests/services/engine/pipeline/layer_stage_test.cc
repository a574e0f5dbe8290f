// What a stage refuses, and that it stands where it stood afterwards.
#include "services/engine/pipeline/layer_stage.h"

#include "services/engine/pipeline/host_stage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/core/cpu.h"
#include "memory/stream/stream_state.h"

namespace lola::engine {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

ModelConfig ThreeLayers() {
  ModelConfig config = *NamedGeometry("tiny");
  config.geometry.layers = 3;
  config.defaults.window = config.defaults.chunk = config.defaults.cache_pairs = 16;
  return config;
}

std::string Text(const absl::Status& status) { return std::string(status.message()); }

class LayerStageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = *Model::Random(ThreeLayers(), 1, {.layers = LayerRange{1, 3}});
    terms_ = {.front = "front",
              .model_fingerprint = model_->fingerprint(),
              .layers = {1, 3},
              .model_layers = 3,
              .hidden = 64,
              .vocab = 272,
              .weight_dtype = "float32",
              .instruction_class = std::string(kernels::InstructionClass()),
              .slot_bytes = StageSlotBytes(*model_, {1, 3}, whole().stride_bytes()),
              .slots = 2,
              .rows_max = 32};
    stage_ = *MakeHostStages(1)->Make(model_, terms_);
  }
  memory::StateLayout whole() const { return {model_->geometry(), model_->default_settings()}; }
  absl::Status Step(std::vector<StageSegment> segments, size_t rows, size_t wanted) {
    const std::vector<float> hidden(rows * 64, 0.25f);
    logits_.assign(wanted * 272, 0.0f);
    return stage_->Step(segments, hidden, logits_, &outcome_);
  }

  std::vector<std::byte> Sections(size_t slot) {
    std::vector<std::byte> record(*stage_->RecordBytes(slot));
    auto copy = stage_->Copy(slot, record);
    EXPECT_TRUE(copy.ok() && (*copy)().ok());
    record.erase(record.begin(), record.begin() + memory::kPageBytes);
    return record;
  }

  std::shared_ptr<const Model> model_;
  StageTerms terms_;
  std::unique_ptr<LayerStage> stage_;
  std::vector<float> logits_;
  StageOutcome outcome_;
};

TEST_F(LayerStageTest, SlotsHaveTheBytesOfTheirLayers) {
  EXPECT_EQ(terms_.slot_bytes, CutLayout(whole(), {1, 3}).stride_bytes());
  // A larger slot is shared out in proportion.
  const size_t twice = 2 * whole().stride_bytes() - memory::kPageBytes;
  EXPECT_EQ(StageSlotBytes(*model_, {1, 3}, twice), 2 * terms_.slot_bytes - memory::kPageBytes);
}

TEST_F(LayerStageTest, TermsThatDifferAreRefusedWithBothValues) {
  const auto refusal = [&](auto change) {
    StageTerms terms = terms_;
    change(terms);
    const auto made = MakeHostStages(1)->Make(model_, terms);
    EXPECT_TRUE(absl::IsFailedPrecondition(made.status())) << made.status();
    return Text(made.status());
  };
  EXPECT_THAT(
      refusal([](StageTerms& t) { t.model_fingerprint = "f00d"; }),
      AllOf(HasSubstr("model_fingerprint"), HasSubstr("f00d"), HasSubstr(model_->fingerprint())));
  EXPECT_THAT(refusal([](StageTerms& t) {
                t.layers = {1, 2};
              }),
              HasSubstr("layers: the front has 1, this stage has 1-2"));
  EXPECT_THAT(refusal([](StageTerms& t) { t.weight_dtype = "int8"; }),
              HasSubstr("weight_dtype: the front has int8, this stage has float32"));
  EXPECT_THAT(refusal([](StageTerms& t) { t.instruction_class = "abacus"; }),
              HasSubstr("instruction_class: the front has abacus"));
  EXPECT_THAT(refusal([](StageTerms& t) { t.hidden = 65; }), HasSubstr("hidden"));
  EXPECT_THAT(refusal([](StageTerms& t) { t.vocab = 1; }), HasSubstr("vocab"));
  EXPECT_THAT(refusal([](StageTerms& t) { t.model_layers = 4; }), HasSubstr("model_layers"));
}

TEST_F(LayerStageTest, NumbersThatMakeNoSenseAreRefused) {
  for (const auto& change : std::vector<void (*)(StageTerms&)>{
           [](StageTerms& t) { t.slots = 0; }, [](StageTerms& t) { t.slot_bytes = 100; },
           [](StageTerms& t) { t.rows_max = 0; }, [](StageTerms& t) { t.rows_max = 1u << 30; },
           [](StageTerms& t) { t.slots = uint64_t{1} << 60; }}) {
    StageTerms terms = terms_;
    change(terms);
    EXPECT_TRUE(absl::IsInvalidArgument(MakeHostStages(1)->Make(model_, terms).status()));
  }
}

TEST_F(LayerStageTest, AStepThatIsWrongTouchesNothing) {
  ASSERT_TRUE(stage_->Reset(0, model_->default_settings()).ok());
  const auto expect = [&](const absl::Status& status, const std::string& part) {
    EXPECT_THAT(Text(status), HasSubstr(part));
    EXPECT_EQ(stage_->position(0), 0u);
  };
  expect(Step({{7, 0, 1, 0, {}}}, 1, 0), "slot: 7");
  expect(Step({{1, 0, 1, 0, {}}}, 1, 0), "slot: 1 holds no state");
  expect(Step({{0, 3, 1, 0, {}}}, 1, 0), "slot 0 position: front 3, stage 0");
  expect(Step({{0, 0, 1, 2, {}}}, 1, 2), "1 rows, 2 logits");
  expect(Step({{0, 0, 0, 0, {}}}, 0, 0), "0 rows");
  expect(Step({{0, 0, 40, 0, {}}}, 40, 0), "40 rows, must be 1 to 32");
  expect(Step({{0, 0, 2, 0, {}}}, 1, 0), "64 values for 128");
  expect(Step({{0, 0, 1, 1, {}}}, 1, 0), "room for 0 of 272");
  expect(Step({{0, 0, 1, 0, {}}, {0, 0, 1, 0, {}}}, 2, 0), "slot: 0 is there twice");
  ASSERT_TRUE(Step({{0, 0, 2, 1, {}}}, 2, 1).ok());
  EXPECT_TRUE(outcome_.segments[0].advanced);
  EXPECT_EQ(stage_->position(0), 2u);
}

TEST_F(LayerStageTest, SectionsThatContradictThePositionAreRefused) {
  const memory::LolaSettings& settings = model_->default_settings();
  ASSERT_TRUE(stage_->Reset(0, settings).ok());
  for (uint64_t at = 0; at < 96; at += 32) ASSERT_TRUE(Step({{0, at, 32, 0, {}}}, 32, 0).ok());
  const std::vector<std::byte> sections = Sections(0);
  const auto load = [&](uint64_t position, size_t bytes) {
    absl::Status begun = stage_->BeginLoad(1, settings, position, bytes);
    if (!begun.ok()) return begun;
    std::memcpy(stage_->LoadSpace(1)->data(), sections.data(), bytes);
    return stage_->Loaded(1);
  };
  EXPECT_TRUE(absl::IsInvalidArgument(stage_->Loaded(1)));  // nothing began
  EXPECT_TRUE(absl::IsInvalidArgument(stage_->LoadSpace(7).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(load(96, sections.size() - 1)));
  EXPECT_TRUE(absl::IsDataLoss(load(64, sections.size())));
  EXPECT_FALSE(stage_->RecordBytes(1).ok());
  EXPECT_TRUE(load(96, sections.size()).ok());
  EXPECT_EQ(stage_->position(1), 96u);
  EXPECT_EQ(Sections(1), sections);
  std::vector<uint64_t> cached(2);
  ASSERT_TRUE(stage_->CountCached(std::vector<size_t>{0, 1}, cached).ok());
  EXPECT_GT(cached[0], 0u);
  EXPECT_EQ(cached[0], cached[1]);
  memory::LolaSettings larger = settings;
  larger.cache_pairs = 256;
  EXPECT_TRUE(absl::IsFailedPrecondition(stage_->Reset(1, larger)));
}

}  // namespace
}  // namespace lola::engine
