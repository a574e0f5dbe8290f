// The device's step against the CPU's: same model, same tokens, outputs and states compared, for
// every kind of settings and every shape the kernels are made for.
#include "tests/services/engine/device/device_testing.h"

namespace lola::engine {
namespace {

class AgainstCpu : public testing::TestWithParam<Case> {};

// How far the device may be from the CPU.
//
// float32 rows: float32 on both sides, in another order, and on the device in three bfloat16
// products for one of float32 (kernels/cuda/mma.h: relative error of a product below 2^-16, of
// logits and outputs a few 1e-6). 2e-4 is ten times what the logits (of order one) differ by here;
// a wrong pair or rotation shows as 1e-2 and more.
//
// Narrow rows: an element that lies within such an error of the middle between two stored numbers
// goes to the other one, a step of 2^-8 (bfloat16) or 2^-3 (float8) of its size away; sizes
// reach 4. H takes in one such element times a feature of at most about a half: 0.01 and 0.25. A
// row's output takes it in with the pair's weight (a tenth), and the logits one head's dimension
// with a weight of a tenth again: 2e-4 and 5e-3, of which float8 is held to 2e-3, a fifth of what a
// wrong pair does.
struct Bounds {
  double logits, state;
};
Bounds BoundsFor(kernels::Dtype rows) {
  if (rows == kernels::Dtype::kFloat8) return {2e-3, 0.25};
  if (rows == kernels::Dtype::kBFloat16) return {4e-4, 0.01};
  return {2e-4, 2e-3};
}

void ExpectSameMemory(World& world, Judge& judge, const Model& model, double bound) {
  std::vector<std::byte> record = world.Record(0);
  memory::StreamState state(&world.layout(), record);
  ASSERT_TRUE(state.Check(model.fingerprint_bytes()).ok())
      << state.Check(model.fingerprint_bytes());
  for (uint32_t layer = 0; layer < model.geometry().layers; ++layer) {
    for (uint32_t head = 0; head < model.geometry().query_heads; ++head) {
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
    EXPECT_LT(LargestDifference(floats(record), floats(judge.stream().record())), bound)
        << section.name;
  }
}

void ExpectTheCpusAnswers(const std::shared_ptr<const Model>& model, const LolaSettings& settings,
                          size_t count, uint64_t seed, const Bounds& bounds) {
  World world(model, settings);
  Judge judge(*model, settings);
  const std::vector<int32_t> tokens = DistinctTokens(count, model->geometry().vocab, seed);
  size_t at = 0;
  for (const size_t piece : RandomPieces(tokens.size(), 5)) {
    const std::span<const int32_t> next = std::span(tokens).subspan(at, piece);
    const std::vector<float> got = world.Feed(0, next), want = judge.Feed(next);
    at += piece;
    ASSERT_LT(LargestDifference(got, want), bounds.logits) << "after " << at << " tokens";
  }
  EXPECT_EQ(world.arena().position(0), tokens.size());
  const memory::MemoryStats &got = world.stats(), &want = judge.stats();
  EXPECT_EQ(got.events, want.events);
  EXPECT_EQ(got.absorptions, want.absorptions);
  EXPECT_EQ(got.admissions, want.admissions);
  EXPECT_EQ(got.displacements, want.displacements);
  EXPECT_EQ(got.recall_error_count, want.recall_error_count);
  EXPECT_EQ(got.occupancy_sum, want.occupancy_sum);
  EXPECT_EQ(got.occupancy_count, want.occupancy_count);
  if (settings.mode == memory::Mode::kLola) {
    ExpectSameMemory(world, judge, *model, bounds.state);
  }
}

TEST_P(AgainstCpu, LogitsAndStates) {
  ExpectTheCpusAnswers(TinyModel(), GetParam().settings, 300, GetParam().seed,
                       BoundsFor(GetParam().settings.cache_dtype));
}

// Narrow weights round activations on both sides (bfloat16, float8: to eight bits, int8: to 1/127
// of the largest of its group), and one near the middle of two steps goes either way: a step times
// a weight of about an eighth in the residual, several of them in the logits. With few roundings,
// as for the first token of a stream, most logits agree as in float32; later ones stay within 0.05
// (they are of order one; another table, scale or matrix changes them by as much). Scores move with
// them, so no cache is chosen here; that the int8 products alone are exact is in
// tests/kernels/cuda.
void ExpectNarrowWeightsToAgree(const std::shared_ptr<const Model>& model) {
  LolaSettings settings = Small();
  settings.cache_pairs = 0;
  World world(model, settings);
  const std::vector<int32_t> tokens = DistinctTokens(100, model->geometry().vocab, 11);
  int close = 0;
  constexpr int kFirst = 24;
  for (int i = 0; i < kFirst; ++i) {
    world.Clear(0);
    Judge judge(*model, settings);
    const auto token = std::span(tokens).subspan(i, 1);
    const double difference = LargestDifference(world.Feed(0, token), judge.Feed(token));
    close += difference < 1e-4 ? 1 : 0;
  }
  EXPECT_GE(close, kFirst / 2);
  world.Clear(0);
  Judge judge(*model, settings);
  size_t at = 0;
  for (const size_t piece : RandomPieces(tokens.size(), 5)) {
    const std::span<const int32_t> next = std::span(tokens).subspan(at, piece);
    at += piece;
    const std::vector<float> got = world.Feed(0, next), want = judge.Feed(next);
    const std::vector<float> zeros(want.size());
    const double relative = LargestDifference(got, want) / LargestDifference(want, zeros);
    EXPECT_LT(relative, 0.02) << at << " tokens";
  }
}

std::shared_ptr<const Model> NarrowModel(WeightDtype dtype, bool tied) {
  ModelConfig config = *NamedGeometry("tiny");
  config.geometry.vocab = 512;
  config.geometry.hidden = 80;  // not whole groups of 64
  config.tied_embeddings = tied;
  auto model = Model::Random(config, 7, {.dtype = dtype});
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

TEST(NarrowWeights, BFloat16) {
  ExpectNarrowWeightsToAgree(NarrowModel(WeightDtype::kBFloat16, false));
}
TEST(NarrowWeights, BFloat16Tied) {
  ExpectNarrowWeightsToAgree(NarrowModel(WeightDtype::kBFloat16, true));
}
TEST(NarrowWeights, Int8) { ExpectNarrowWeightsToAgree(NarrowModel(WeightDtype::kInt8, false)); }
TEST(NarrowWeights, Int8Tied) { ExpectNarrowWeightsToAgree(NarrowModel(WeightDtype::kInt8, true)); }
TEST(NarrowWeights, Float8) {
  ExpectNarrowWeightsToAgree(NarrowModel(WeightDtype::kFloat8, false));
}
TEST(NarrowWeights, Float8Tied) {
  ExpectNarrowWeightsToAgree(NarrowModel(WeightDtype::kFloat8, true));
}

INSTANTIATE_TEST_SUITE_P(Settings, AgainstCpu, testing::ValuesIn(AllCases()),
                         [](const auto& info) { return std::string(info.param.name); });

// Other shapes: every head size the kernels are made for, groups that do not fill a tile of
// columns, feature maps wider and narrower than the head.
struct WideCase {
  const char* name;
  uint32_t query_heads, kv_heads, head_dim, feature_dim;
  kernels::Dtype rows;
  memory::CacheSharing sharing;
};
class OtherShapes : public testing::TestWithParam<WideCase> {};

TEST_P(OtherShapes, LogitsAndStates) {
  const WideCase& wide = GetParam();
  ModelConfig config = *NamedGeometry("tiny");
  memory::ModelGeometry& g = config.geometry;
  g.vocab = 512;
  g.query_heads = wide.query_heads;
  g.kv_heads = wide.kv_heads;
  g.head_dim = wide.head_dim;
  g.feature_dim = wide.feature_dim;
  auto model = Model::Random(config, 7, {.dtype = WeightDtype::kFloat32});
  ASSERT_TRUE(model.ok()) << model.status();
  LolaSettings settings = Small();
  settings.cache_dtype = wide.rows;
  settings.cache_sharing = wide.sharing;
  settings.cache_pairs = 40;
  ExpectTheCpusAnswers(*std::move(model), settings, 130, 11, BoundsFor(wide.rows));
}

using kernels::Dtype;
using memory::CacheSharing;
INSTANTIATE_TEST_SUITE_P(
    Shapes, OtherShapes,
    testing::Values(
        WideCase{"d32", 4, 2, 32, 64, Dtype::kFloat32, CacheSharing::kHead},
        WideCase{"d32_float8", 3, 1, 32, 32, Dtype::kFloat8, CacheSharing::kGroup},
        WideCase{"d64", 6, 2, 64, 128, Dtype::kFloat32, CacheSharing::kGroup},
        WideCase{"d64_bfloat16", 4, 1, 64, 64, Dtype::kBFloat16, CacheSharing::kHead},
        WideCase{"d64_group_of_ten", 10, 1, 64, 64, Dtype::kFloat8, CacheSharing::kGroup},
        WideCase{"d128", 2, 1, 128, 256, Dtype::kFloat32, CacheSharing::kHead},
        WideCase{"d128_bfloat16", 4, 1, 128, 128, Dtype::kBFloat16, CacheSharing::kGroup},
        WideCase{"d128_float8", 2, 2, 128, 128, Dtype::kFloat8, CacheSharing::kHead}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace lola::engine
