// LayerMemory against the plain float64 reference, token by token, over all kinds of settings.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <string>

#include "tests/memory/stream/reference_model.h"
#include "tests/memory/stream/stream_fixture.h"

namespace lola::memory {
namespace {

using test::RandomStream;
using test::ReferenceCache;
using test::ReferenceHead;
using test::Row;
using test::StreamRunner;

struct Case {
  std::string name;
  LolaSettings settings;
  double tolerance = 2e-5;
};

LolaSettings Small() {
  LolaSettings settings = LolaSettings::PaperProfile();
  settings.window = settings.chunk = 16;
  settings.cache_pairs = 24;
  return settings;
}

template <typename Change>
Case Vary(std::string name, Change change, double tolerance = 2e-5) {
  Case result{std::move(name), Small(), tolerance};
  change(result.settings);
  return result;
}

std::vector<Case> Cases() {
  using S = LolaSettings;
  const auto constant = [](S& s) { s.memory_positions = MemoryPositions::kConstant; };
  return {
      Vary("Base", [](S&) {}),
      Vary("Constant", constant),
      Vary("Natural", [](S& s) { s.mixing = Mixing::kNatural; }),
      Vary("Lolcats", [](S& s) { s.mixing = Mixing::kLolcats; }),
      Vary("LongWindow", [](S& s) { s.window = 32; }),
      Vary("LongWindowConstant", [&](S& s) { constant(s), s.window = 48; }),
      Vary("ChunkNotOfSixteen", [&](S& s) { constant(s), s.chunk = 10, s.window = 20; }),
      Vary("NoCache", [](S& s) { s.cache_pairs = 0; }),
      Vary("NoCacheConstant", [&](S& s) { constant(s), s.cache_pairs = 0; }),
      Vary("CacheNeverFull", [](S& s) { s.cache_pairs = 512; }),
      Vary("CacheOfOne", [](S& s) { s.cache_pairs = 1; }),
      Vary("BudgetsPerLayer",
           [](S& s) {
             s.cache_pairs_per_layer = {0, 40};
           }),
      Vary("MassCap", [](S& s) { s.mass_cap = 20; }),
      Vary("Redundancy", [](S& s) { s.redundancy_threshold = 0.3f; }),
      Vary("Lifelong", [&](S& s) { constant(s), s.mass_cap = 32, s.redundancy_threshold = 0.3f; }),
      Vary("ValueNorm", [](S& s) { s.score = Score::kValueNorm; }),
      Vary("Random", [](S& s) { s.score = Score::kRandom; }),
      Vary("Recency", [](S& s) { s.score = Score::kRecency; }),
      Vary("LeaveOneOut", [](S& s) { s.score = Score::kLeaveOneOut; }),
      Vary(
          "BFloat16Rows", [](S& s) { s.cache_dtype = kernels::Dtype::kBFloat16; }, 3e-2),
      Vary(
          "BFloat16Constant", [&](S& s) { constant(s), s.cache_dtype = kernels::Dtype::kBFloat16; },
          3e-2),
  };
}

// What the first release did not have.
std::vector<Case> LaterCases() {
  using S = LolaSettings;
  const auto constant = [](S& s) { s.memory_positions = MemoryPositions::kConstant; };
  return {
      Vary("RelativeSre", [](S& s) { s.score = Score::kRelativeSre; }),
      Vary("RelativeLeaveOneOut", [](S& s) { s.score = Score::kRelativeLeaveOneOut; }),
      Vary("Hypothetical", [](S& s) { s.score = Score::kHypothetical; }),
      Vary("RelativeHypothetical", [](S& s) { s.score = Score::kRelativeHypothetical; }),
      Vary("KeyNorm", [](S& s) { s.score = Score::kKeyNorm; }),
      Vary("Attention", [](S& s) { s.score = Score::kAttention; }),
      Vary("AttentionConstant",
           [&](S& s) { constant(s), s.score = Score::kAttention, s.window = 32; }),
      Vary("Sinks", [](S& s) { s.sinks = 4; }),
      Vary("RecencyWithSinks", [](S& s) { s.score = Score::kRecency, s.sinks = 20; }),
      Vary("NothingButSinks", [](S& s) { s.sinks = s.cache_pairs; }),
      Vary("ChunkOfOne", [](S& s) { s.chunk = 1; }),
      Vary("ChunkOfOneConstant", [&](S& s) { constant(s), s.chunk = 1, s.mass_cap = 32; }),
      Vary("ChunkOfFour", [&](S& s) { constant(s), s.chunk = 4; }),
      Vary("Group", [](S& s) { s.cache_sharing = CacheSharing::kGroup; }),
      Vary("GroupMax", [](S& s) { s.cache_sharing = CacheSharing::kGroupMax; }),
      Vary("GroupLifelong",
           [&](S& s) {
             constant(s), s.cache_sharing = CacheSharing::kGroup;
             s.mass_cap = 32, s.redundancy_threshold = 0.3f;
           }),
      Vary("GroupLeaveOneOut",
           [](S& s) { s.cache_sharing = CacheSharing::kGroup, s.score = Score::kLeaveOneOut; }),
      Vary("GroupValueNorm",
           [](S& s) { s.cache_sharing = CacheSharing::kGroup, s.score = Score::kValueNorm; }),
      Vary("GroupAttention",
           [](S& s) { s.cache_sharing = CacheSharing::kGroup, s.score = Score::kAttention; }),
      Vary("GroupMaxAttentionSinks",
           [](S& s) {
             s.cache_sharing = CacheSharing::kGroupMax, s.score = Score::kAttention, s.sinks = 3;
           }),
      Vary("GroupNoCache", [](S& s) { s.cache_sharing = CacheSharing::kGroup, s.cache_pairs = 0; }),
      Vary("Adaptive", [](S& s) { s.adaptive_mass = 0.6f, s.cache_pairs_min = 4; }),
      Vary("AdaptiveSinksRedundancy",
           [&](S& s) {
             constant(s), s.adaptive_mass = 0.4f, s.sinks = 5, s.redundancy_threshold = 0.3f;
           }),
      Vary("AdaptiveGroupAttention",
           [](S& s) {
             s.adaptive_mass = 0.7f, s.cache_sharing = CacheSharing::kGroup;
             s.score = Score::kAttention;
           }),
      Vary("Float8", [](S& s) { s.cache_dtype = kernels::Dtype::kFloat8; }),
      Vary("Float8Constant",
           [&](S& s) { constant(s), s.cache_dtype = kernels::Dtype::kFloat8, s.window = 32; }),
      Vary("Float8GroupAdaptive",
           [](S& s) {
             s.cache_dtype = kernels::Dtype::kFloat8, s.cache_sharing = CacheSharing::kGroup;
             s.adaptive_mass = 0.6f;
           }),
      Vary("NoRescore", [](S& s) { s.rescore = false; }),
      Vary("NoRescoreGroupAdaptive",
           [](S& s) {
             s.rescore = false, s.cache_sharing = CacheSharing::kGroup, s.adaptive_mass = 0.8f;
           }),
  };
}

std::vector<Case> AllCases() {
  std::vector<Case> cases = Cases();
  for (Case& later : LaterCases()) cases.push_back(std::move(later));
  return cases;
}

class AgreementTest : public ::testing::TestWithParam<Case> {};
class SelectionTest : public ::testing::TestWithParam<Case> {};

// Rounded rows decide near ties differently from the unrounded reference.
std::vector<Case> ExactCases() {
  std::vector<Case> cases = AllCases();
  std::erase_if(cases,
                [](const Case& c) { return c.settings.cache_dtype != kernels::Dtype::kFloat32; });
  return cases;
}

std::set<int64_t> Positions(const HeadView& view) {
  std::set<int64_t> positions;
  for (const CachedPairView& pair : view.pairs) {
    positions.insert(static_cast<int64_t>(pair.position));
  }
  return positions;
}

Row RowOf(const std::vector<float>& data, size_t stride, size_t token, size_t head, size_t d) {
  const float* begin = data.data() + token * stride + head * d;
  return Row(begin, begin + d);
}

// The reference's caches of one layer, in order of their query heads.
std::vector<ReferenceCache> ReferenceCaches(const StateLayout& layout, const RandomStream& source,
                                            uint32_t layer) {
  const ModelGeometry& g = source.geometry;
  const size_t map = size_t{g.head_dim} * g.map_dim();
  const auto part = [&](const std::vector<float>& all, uint32_t h) {
    return std::vector<float>(all.begin() + h * map, all.begin() + (h + 1) * map);
  };
  std::vector<ReferenceCache> caches;
  for (uint32_t c = 0; c < layout.caches(); ++c) {
    std::vector<ReferenceHead> heads;
    for (uint32_t i = 0; i < layout.cache_heads(); ++i) {
      const uint32_t h = c * layout.cache_heads() + i;
      heads.emplace_back(layout.settings(), source.frequencies, part(source.map_q[layer], h),
                         part(source.map_k[layer], h), source.gate[layer][h]);
    }
    caches.emplace_back(layout.settings(), layout.settings().CachePairs(layer), std::move(heads));
  }
  return caches;
}

// One token through cache number c of a layer.
std::vector<Row> StepCache(ReferenceCache& cache, uint32_t c, const StateLayout& layout,
                           const RandomStream& source, uint32_t layer, size_t token) {
  const size_t d = source.geometry.head_dim;
  const uint32_t first = c * layout.cache_heads();
  const uint32_t kv = first / source.geometry.group();
  std::vector<Row> q;
  for (uint32_t i = 0; i < layout.cache_heads(); ++i) {
    q.push_back(RowOf(source.q[layer], source.QStride(), token, first + i, d));
  }
  return cache.Step(static_cast<int64_t>(token), q,
                    RowOf(source.k[layer], source.KvStride(), token, kv, d),
                    RowOf(source.v[layer], source.KvStride(), token, kv, d));
}

TEST_P(AgreementTest, OutputsSelectionsAndStateFollowTheReference) {
  const Case& param = GetParam();
  const RandomStream source(test::SmallGeometry(), 150, 7, 0.4);
  const ModelGeometry& g = source.geometry;
  const StateLayout layout(g, param.settings);
  kernels::ThreadPool pool(1);
  StreamRunner runner(&layout, &source);
  std::vector<std::vector<ReferenceCache>> caches;
  for (uint32_t layer = 0; layer < g.layers; ++layer) {
    caches.push_back(ReferenceCaches(layout, source, layer));
  }
  double worst = 0;
  for (size_t token = 0; token < source.tokens; ++token) {
    runner.Advance(1, pool);
    for (uint32_t layer = 0; layer < g.layers; ++layer) {
      for (uint32_t c = 0; c < layout.caches(); ++c) {
        ReferenceCache& cache = caches[layer][c];
        const uint32_t first = c * layout.cache_heads();
        const std::set<int64_t> kept = Positions(runner.State().InspectHead(layer, first));
        // Rounding decides near ties; the reference then follows, so that errors do not add up.
        cache.ForceNextSelection(kept);
        const std::vector<Row> outputs = StepCache(cache, c, layout, source, layer, token);
        for (uint32_t i = 0; i < outputs.size() * g.head_dim; ++i) {
          const double got =
              runner.outputs(layer)[token * source.QStride() + first * g.head_dim + i];
          const double want = outputs[i / g.head_dim][i % g.head_dim];
          worst = std::max(worst, std::abs(got - want));
          ASSERT_NEAR(got, want, param.tolerance)
              << "token " << token << " layer " << layer << " head " << first << " + " << i;
        }
        ASSERT_EQ(kept, cache.CachedPositions()) << "token " << token << " cache " << c;
        for (uint32_t i = 0; i < layout.cache_heads(); ++i) {
          const HeadView view = runner.State().InspectHead(layer, first + i);
          ASSERT_EQ(Positions(view), kept);
          ASSERT_EQ(view.absorbed, cache.AbsorbedPositions().size());
        }
      }
    }
    ASSERT_TRUE(runner.State().Check(test::kTestModel).ok())
        << runner.State().Check(test::kTestModel);
  }
  EXPECT_EQ(runner.stats().nonfinite(), 0u);
  RecordProperty("worst_error", std::to_string(worst));
}

// The reference ranks by its own scores here.
TEST_P(SelectionTest, SelectionsAreTheReferencesOwn) {
  const Case& param = GetParam();
  const RandomStream source(test::SmallGeometry(), 150, 11, 0.4);
  const StateLayout layout(source.geometry, param.settings);
  kernels::ThreadPool pool(1);
  StreamRunner runner(&layout, &source);
  ReferenceCache cache = std::move(ReferenceCaches(layout, source, 1)[0]);
  for (size_t token = 0; token < source.tokens; ++token) {
    runner.Advance(1, pool);
    StepCache(cache, 0, layout, source, 1, token);
    const HeadView view = runner.State().InspectHead(1, 0);
    ASSERT_EQ(Positions(view), cache.CachedPositions())
        << "token " << token << " margin " << cache.last_margin();
    // Window, cache and H hold every position exactly once.
    std::set<int64_t> all = cache.WindowPositions();
    all.merge(cache.CachedPositions());
    all.merge(std::set<int64_t>(cache.AbsorbedPositions()));
    ASSERT_EQ(all.size(), token + 1);
    ASSERT_EQ(cache.WindowPositions().size() + view.pairs.size() + view.absorbed, token + 1);
    ASSERT_EQ(*cache.WindowPositions().begin() > static_cast<int64_t>(layout.WindowBegin(token)),
              (token + 1) % param.settings.chunk == 0 &&
                  token + 1 >= param.settings.window + param.settings.chunk);
  }
}

INSTANTIATE_TEST_SUITE_P(Settings, AgreementTest, ::testing::ValuesIn(AllCases()),
                         [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(Settings, SelectionTest, ::testing::ValuesIn(ExactCases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace lola::memory
