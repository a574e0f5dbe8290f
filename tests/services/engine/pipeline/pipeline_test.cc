// A pipeline computes what one process computes, bit for bit: whatever the cut, the splits of the
// tokens, the company in a step, and the moves of records between pipelines and single workers.
#include "services/engine/pipeline/pipeline_runner.h"

#include <gmock/gmock.h>

#include <cstring>
#include <deque>

#include "tests/services/engine/model_testing.h"
#include "tests/services/engine/pipeline/local_stage_link.h"

namespace lola::engine {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr size_t kRows = 96;
constexpr size_t kTokens = 240;
constexpr size_t kSlots = 4;
constexpr uint64_t kSeed = 5;

ModelConfig FiveLayers(bool tied = false) {
  ModelConfig config = *NamedGeometry("tiny");
  config.geometry.layers = 5;
  config.tied_embeddings = tied;
  config.defaults.window = 32;
  config.defaults.chunk = 16;
  config.defaults.cache_pairs = 32;
  return config;
}

memory::LolaSettings Small(memory::LolaSettings settings) {
  settings.window = 32;
  settings.chunk = 16;
  settings.cache_pairs = 24;
  settings.mass_cap = settings.mass_cap > 0 ? 64 : 0;
  return settings;
}

// Different layouts resident together.
std::vector<memory::LolaSettings> Kinds() {
  std::vector<memory::LolaSettings> kinds = {
      Small(memory::LolaSettings::LifelongProfile()), Small(memory::LolaSettings::PaperProfile()),
      memory::LolaSettings::SoftmaxProfile(256), Small(memory::LolaSettings::LifelongProfile())};
  kinds[1].cache_dtype = kernels::Dtype::kBFloat16;
  kinds[3].cache_pairs_per_layer = {8, 24, 2, 17, 31};
  kinds[3].sinks = 2;
  return kinds;
}

bool SameBits(const float* a, const float* b, size_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

// A runner with its slots: a pipeline, or one process.
struct Place {
  explicit Place(std::unique_ptr<ModelRunner> made, size_t slot_bytes) : runner(std::move(made)) {
    auto taken = runner->MakeStates(slot_bytes, kSlots, 2);
    EXPECT_TRUE(taken.ok()) << taken.status();
    states = *std::move(taken);
  }
  std::unique_ptr<ModelRunner> runner;
  std::unique_ptr<ResidentStates> states;
};

// One stream: what it should compute, and where it is.
struct Progress {
  Progress(const Model& model, const memory::LolaSettings& kind, uint64_t seed)
      : settings(kind),
        layout(model.geometry(), kind),
        tokens(RandomTokens(kTokens, model.geometry().vocab, seed)) {
    StepWorkspace workspace(model, kRows, 1);
    kernels::ThreadPool pool(1);
    TestStream reference(model, kind);
    expected = reference.Feed(tokens, 37, workspace, pool);
    digest = memory::ToHex(reference.state().Digest());
  }
  std::vector<std::byte> Record() {
    std::vector<std::byte> record(layout.stride_bytes());
    auto copy = place->states->Copy(slot, record);
    EXPECT_TRUE(copy.ok() && (*copy)().ok());
    return record;
  }
  void MoveTo(Place* next, const Model& model) {
    const std::vector<std::byte> record = place == nullptr ? std::vector<std::byte>() : Record();
    if (place != nullptr) place->states->Release(slot);
    place = next;
    slot = *place->states->Acquire();
    if (record.empty()) {
      ASSERT_TRUE(place->states->Reset(slot, layout, model.fingerprint_bytes()).ok());
      return;
    }
    const ResidentStates::Staging staging = place->states->Stage(slot, record.size());
    std::copy(record.begin(), record.end(), staging.bytes.begin());
    ASSERT_TRUE(BringAndAdopt(*place->states, slot, layout, staging).ok());
  }

  const memory::LolaSettings settings;
  const memory::StateLayout layout;
  const std::vector<int32_t> tokens;
  std::vector<float> expected;
  std::string digest;
  Place* place = nullptr;
  size_t slot = 0;
  size_t done = 0;
  std::vector<float> logits;
};

// Advances some of the streams at `place` by pieces of their tokens, all logits wanted or one.
void StepSome(Place& place, std::deque<Progress>& streams, size_t vocab, std::mt19937_64& random) {
  std::vector<Segment> segments;
  std::vector<Progress*> in_step;
  size_t room = kRows;
  for (Progress& p : streams) {
    if (p.place != &place || p.done == kTokens || random() % 4 == 0) continue;
    size_t rows = random() % 3 == 0 ? 1 : 1 + random() % 50;
    rows = std::min({rows, kTokens - p.done, room});
    if (rows == 0) continue;
    room -= rows;
    const size_t wanted = random() % 2 == 0 ? rows : 1;
    p.logits.assign(wanted * vocab, 0.0f);
    Segment segment;
    segment.record = place.states->record(p.slot, p.layout.stride_bytes());
    segment.slot = p.slot;
    segment.layout = &p.layout;
    segment.settings = &p.settings;
    segment.tokens = std::span(p.tokens).subspan(p.done, rows);
    segment.logits_rows = uint32_t(wanted);
    segment.logits = p.logits.data();
    segments.push_back(segment);
    in_step.push_back(&p);
  }
  if (segments.empty()) return;
  const absl::Status stepped = place.runner->Step(segments);
  ASSERT_TRUE(stepped.ok()) << stepped;
  for (size_t i = 0; i < segments.size(); ++i) {
    Progress& p = *in_step[i];
    ASSERT_TRUE(segments[i].status.ok()) << segments[i].status;
    p.done += segments[i].tokens.size();
    const float* expected = p.expected.data() + (p.done - segments[i].logits_rows) * vocab;
    ASSERT_TRUE(SameBits(p.logits.data(), expected, p.logits.size())) << "position " << p.done;
  }
}

void RunAnyWay(const ModelConfig& config, WeightDtype dtype, uint64_t seed) {
  const std::shared_ptr<const Model> whole = *Model::Random(config, kSeed, {.dtype = dtype});
  const size_t slot_bytes = memory::StateLayout(whole->geometry(), Kinds()[2]).stride_bytes() * 2;
  std::mt19937_64 random(seed);
  std::deque<CutModel> models;
  std::deque<Place> places;
  places.emplace_back(MakeModelRunner(whole, kRows, 2), slot_bytes);
  for (const std::vector<uint32_t>& cuts :
       {std::vector<uint32_t>{1, 2, 3, 4}, std::vector<uint32_t>{2}, std::vector<uint32_t>{1, 4}}) {
    models.emplace_back(config, kSeed, cuts, dtype);
    EXPECT_EQ(models.back().front->fingerprint(), whole->fingerprint());
    const int threads = 1 + int(random() % 2);
    places.emplace_back(models.back().Runner(kRows, threads, 1 + random() % 40), slot_bytes);
  }
  std::deque<Progress> streams;
  for (const memory::LolaSettings& kind : Kinds()) {
    streams.emplace_back(*whole, kind, 100 + streams.size());
    streams.back().MoveTo(&places[random() % places.size()], *whole);
  }
  const auto unfinished = [&] {
    return std::any_of(streams.begin(), streams.end(),
                       [](const Progress& p) { return p.done < kTokens; });
  };
  while (unfinished() && !::testing::Test::HasFatalFailure()) {
    for (Progress& p : streams) {
      if (random() % 6 == 0) p.MoveTo(&places[random() % places.size()], *whole);
    }
    for (Place& place : places) StepSome(place, streams, whole->geometry().vocab, random);
  }
  for (Progress& p : streams) {
    std::vector<std::byte> record = p.Record();
    const memory::StreamState state(&p.layout, record);
    EXPECT_TRUE(state.Check(whole->fingerprint_bytes()).ok());
    EXPECT_EQ(state.position(), kTokens);
    EXPECT_EQ(memory::ToHex(state.Digest()), p.digest) << p.settings.ToString();
  }
}

TEST(Pipeline, NoCutAndNoMoveChangesABit) {
  RunAnyWay(FiveLayers(), WeightDtype::kFloat32, 1);
  RunAnyWay(FiveLayers(/*tied=*/true), WeightDtype::kFloat32, 2);
}

TEST(Pipeline, NoCutAndNoMoveChangesABitOfSmallWeights) {
  RunAnyWay(FiveLayers(/*tied=*/true), WeightDtype::kBFloat16, 3);
  RunAnyWay(FiveLayers(), WeightDtype::kInt8, 4);
}

class PipelineOfThree : public ::testing::Test {
 protected:
  PipelineOfThree() : model_(FiveLayers(), kSeed, {2, 3}), place_(model_.Runner(kRows), Bytes()) {}
  size_t Bytes() const {
    return memory::StateLayout(model_.front->geometry(), model_.front->default_settings())
        .stride_bytes();
  }
  Segment Feed(size_t slot, std::span<const int32_t> tokens) {
    Segment segment;
    segment.slot = slot;
    segment.layout = &layout_;
    segment.settings = &layout_.settings();
    segment.tokens = tokens;
    segment.logits_rows = 1;
    segment.logits = &logits_[slot * 272];
    return segment;
  }
  size_t NewSlot() {
    const size_t slot = *place_.states->Acquire();
    EXPECT_TRUE(place_.states->Reset(slot, layout_, model_.front->fingerprint_bytes()).ok());
    return slot;
  }

  CutModel model_;
  Place place_;
  const memory::StateLayout layout_{model_.front->geometry(), model_.front->default_settings()};
  std::vector<float> logits_ = std::vector<float>(kSlots * 272);
};

TEST_F(PipelineOfThree, ARefusedSegmentLeavesTheOthersAlone) {
  const size_t good = NewSlot(), bad = NewSlot();
  const std::vector<int32_t> tokens = {1, 2, 3}, wrong = {1, 272};
  std::vector<Segment> segments = {Feed(bad, wrong), Feed(good, tokens)};
  ASSERT_TRUE(place_.runner->Step(segments).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(segments[0].status)) << segments[0].status;
  EXPECT_TRUE(segments[1].status.ok()) << segments[1].status;
  // The refused one goes on from where it stood.
  segments = {Feed(bad, tokens)};
  ASSERT_TRUE(place_.runner->Step(segments).ok());
  EXPECT_TRUE(segments[0].status.ok()) << segments[0].status;
  EXPECT_TRUE(SameBits(&logits_[good * 272], &logits_[bad * 272], 272));
  // All refused: no stage is asked.
  const int before = model_.stages[0]->steps;
  segments = {Feed(bad, wrong)};
  ASSERT_TRUE(place_.runner->Step(segments).ok());
  EXPECT_EQ(model_.stages[0]->steps, before);
}

TEST_F(PipelineOfThree, AStageThatDiesTakesAllStatesAndComesBackEmpty) {
  const size_t slot = NewSlot();
  const std::vector<int32_t> tokens = {1, 2, 3};
  std::vector<Segment> segments = {Feed(slot, tokens)};
  model_.stages[1]->steps_to_death = 0;
  absl::Status stepped = place_.runner->Step(segments);
  EXPECT_TRUE(absl::IsUnavailable(stepped)) << stepped;
  EXPECT_THAT(std::string(stepped.message()), AllOf(HasSubstr("stage-2"), HasSubstr("3-4")));
  EXPECT_TRUE(absl::IsUnavailable(place_.runner->health()));
  // The session may be opened again only by Recover: until then nothing is stepped.
  stepped = place_.runner->Step(segments);
  EXPECT_TRUE(absl::IsUnavailable(stepped)) << stepped;
  model_.stages[1]->away = true;
  EXPECT_TRUE(absl::IsUnavailable(place_.runner->Recover()));
  model_.stages[1]->away = false;
  ASSERT_TRUE(place_.runner->Recover().ok());
  EXPECT_TRUE(place_.runner->health().ok());
  EXPECT_EQ(model_.stages[0]->sessions, 1);
  EXPECT_EQ(model_.stages[1]->sessions, 2);
  // A slot that nobody filled since is refused rather than stepped: the ranges disagree.
  stepped = place_.runner->Step(segments);
  EXPECT_TRUE(absl::IsUnavailable(stepped)) << stepped;
}

TEST_F(PipelineOfThree, CopiesAreBounded) {
  const size_t slot = NewSlot();
  std::vector<std::byte> a(Bytes()), b(Bytes()), c(Bytes());
  auto first = place_.states->Copy(slot, a);
  auto second = place_.states->Copy(slot, b);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_TRUE(absl::IsResourceExhausted(place_.states->Copy(slot, c).status()));
  ASSERT_TRUE((*first)().ok());
  first = absl::CancelledError("dropped");
  EXPECT_TRUE(place_.states->Copy(slot, c).ok());
}

TEST_F(PipelineOfThree, SettingsThatDoNotFitAStageAreRefusedWithNumbers) {
  memory::LolaSettings settings = model_.front->default_settings();
  settings.cache_pairs_per_layer = {0, 0, 96, 0, 0};  // a small state, but all of it in layer 2
  ASSERT_LE(memory::StateLayout(model_.front->geometry(), settings).stride_bytes(), Bytes());
  const absl::Status refused = place_.runner->CheckSettings(settings);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), AllOf(HasSubstr("layers 2"), HasSubstr("stage-1")));
  settings.cache_pairs_per_layer = {32, 32, 32, 32, 32};
  EXPECT_TRUE(place_.runner->CheckSettings(settings).ok());
}

TEST(PipelineStart, AModelThatIsNotTheFrontsIsRefusedNamingBoth) {
  CutModel model(FiveLayers(), kSeed, {2});
  const CutModel other(FiveLayers(), kSeed + 1, {2});
  model.stages = other.stages;
  const auto states = model.Runner(kRows)->MakeStates(1 << 20, 1, 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(states.status())) << states.status();
  EXPECT_THAT(std::string(states.status().message()),
              AllOf(HasSubstr("stage-1"), HasSubstr(model.front->fingerprint()),
                    HasSubstr(other.front->fingerprint())));
}

TEST(PipelineStart, AStageThatIsAwayIsNamedAfterThePatience) {
  CutModel model(FiveLayers(), kSeed, {2});
  model.stages[0]->away = true;
  const auto states = model.Runner(kRows)->MakeStates(1 << 20, 1, 1);
  EXPECT_TRUE(absl::IsUnavailable(states.status())) << states.status();
  EXPECT_THAT(std::string(states.status().message()), HasSubstr("stage-1"));
}

TEST(PipelineStart, CutsWithHolesAndOverlapsAreRefused) {
  const auto message = [](uint32_t front_end, std::vector<LayerRange> ranges) {
    std::vector<std::unique_ptr<StageLink>> links;
    for (const LayerRange& range : ranges) {
      links.push_back(std::make_unique<LocalStageLink>(
          "s" + std::to_string(range.first),
          std::make_shared<LocalStage>(*Model::Random(FiveLayers(), kSeed, {.layers = range}))));
    }
    return std::string(CheckCut(5, {0, front_end}, links).message());
  };
  EXPECT_EQ(message(2, {{2, 3}, {3, 5}}), "");
  EXPECT_THAT(message(2, {{3, 5}}), AllOf(HasSubstr("layer 2 of 5 is nowhere"),
                                          HasSubstr("layers 0-1 are here, 3-4 at s3")));
  EXPECT_THAT(message(2, {{2, 4}}), HasSubstr("layer 4 of 5 is nowhere"));
  EXPECT_THAT(message(3, {{2, 5}}), HasSubstr("layer 2 of 5 is out of order or there twice"));
  EXPECT_THAT(message(2, {{3, 5}, {2, 3}}), HasSubstr("layer 2 of 5 is nowhere"));
}

}  // namespace
}  // namespace lola::engine
