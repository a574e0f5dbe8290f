// LayerMemory against the plain float64 reference, token by token, over all kinds of settings.
#include "memory/stream/layer_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "tests/memory/stream/reference_model.h"
#include "tests/memory/stream/stream_fixture.h"

namespace lola::memory {
namespace {

using test::RandomStream;
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

class AgreementTest : public ::testing::TestWithParam<Case> {};
class SelectionTest : public ::testing::TestWithParam<Case> {};

// Rounded rows decide near ties differently from the unrounded reference.
std::vector<Case> ExactCases() {
  std::vector<Case> cases = Cases();
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

TEST_P(AgreementTest, OutputsSelectionsAndStateFollowTheReference) {
  const Case& param = GetParam();
  const RandomStream source(test::SmallGeometry(), 150, 7, 0.4);
  const ModelGeometry& g = source.geometry;
  const StateLayout layout(g, param.settings);
  kernels::ThreadPool pool(1);
  StreamRunner runner(&layout, &source);
  std::vector<std::vector<ReferenceHead>> heads(g.layers);
  for (uint32_t layer = 0; layer < g.layers; ++layer) {
    for (uint32_t h = 0; h < g.query_heads; ++h) {
      const size_t map = size_t{g.head_dim} * g.map_dim();
      const auto part = [&](const std::vector<float>& all) {
        return std::vector<float>(all.begin() + h * map, all.begin() + (h + 1) * map);
      };
      heads[layer].emplace_back(param.settings, param.settings.CachePairs(layer),
                                source.frequencies, part(source.map_q[layer]),
                                part(source.map_k[layer]), source.gate[layer][h]);
    }
  }
  double worst = 0;
  for (size_t token = 0; token < source.tokens; ++token) {
    runner.Advance(1, pool);
    for (uint32_t layer = 0; layer < g.layers; ++layer) {
      for (uint32_t h = 0; h < g.query_heads; ++h) {
        ReferenceHead& head = heads[layer][h];
        const HeadView view = runner.State().InspectHead(layer, h);
        const std::set<int64_t> kept = Positions(view);
        // Rounding decides near ties; the reference then follows, so that errors do not add up.
        head.ForceNextSelection(kept);
        const Row y =
            head.Step(static_cast<int64_t>(token),
                      RowOf(source.q[layer], source.QStride(), token, h, g.head_dim),
                      RowOf(source.k[layer], source.KvStride(), token, h / g.group(), g.head_dim),
                      RowOf(source.v[layer], source.KvStride(), token, h / g.group(), g.head_dim));
        for (size_t i = 0; i < g.head_dim; ++i) {
          const double got = runner.outputs(layer)[token * source.QStride() + h * g.head_dim + i];
          worst = std::max(worst, std::abs(got - y[i]));
          ASSERT_NEAR(got, y[i], param.tolerance)
              << "token " << token << " layer " << layer << " head " << h << " dim " << i;
        }
        ASSERT_EQ(kept, head.CachedPositions()) << "token " << token << " head " << h;
        ASSERT_EQ(view.absorbed, head.AbsorbedPositions().size());
      }
    }
    ASSERT_TRUE(runner.State().Check(test::kTestModel).ok());
  }
  EXPECT_EQ(runner.stats().nonfinite(), 0u);
  RecordProperty("worst_error", std::to_string(worst));
}

// The reference ranks by its own scores here.
TEST_P(SelectionTest, SelectionsAreTheReferencesOwn) {
  const Case& param = GetParam();
  const RandomStream source(test::SmallGeometry(), 150, 11, 0.4);
  const ModelGeometry& g = source.geometry;
  const StateLayout layout(g, param.settings);
  kernels::ThreadPool pool(1);
  StreamRunner runner(&layout, &source);
  const size_t map = size_t{g.head_dim} * g.map_dim();
  ReferenceHead head(param.settings, param.settings.CachePairs(1), source.frequencies,
                     {source.map_q[1].begin(), source.map_q[1].begin() + map},
                     {source.map_k[1].begin(), source.map_k[1].begin() + map}, source.gate[1][0]);
  for (size_t token = 0; token < source.tokens; ++token) {
    runner.Advance(1, pool);
    head.Step(static_cast<int64_t>(token),
              RowOf(source.q[1], source.QStride(), token, 0, g.head_dim),
              RowOf(source.k[1], source.KvStride(), token, 0, g.head_dim),
              RowOf(source.v[1], source.KvStride(), token, 0, g.head_dim));
    const HeadView view = runner.State().InspectHead(1, 0);
    ASSERT_EQ(Positions(view), head.CachedPositions())
        << "token " << token << " margin " << head.last_margin();
    // Window, cache and H hold every position exactly once.
    std::set<int64_t> all = head.WindowPositions();
    all.merge(head.CachedPositions());
    all.merge(head.AbsorbedPositions());
    ASSERT_EQ(all.size(), token + 1);
    ASSERT_EQ(head.WindowPositions().size() + view.pairs.size() + view.absorbed, token + 1);
    ASSERT_EQ(*head.WindowPositions().begin() > static_cast<int64_t>(layout.WindowBegin(token)),
              (token + 1) % param.settings.chunk == 0 &&
                  token + 1 >= param.settings.window + param.settings.chunk);
  }
}

INSTANTIATE_TEST_SUITE_P(Settings, AgreementTest, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(Settings, SelectionTest, ::testing::ValuesIn(ExactCases()),
                         [](const auto& info) { return info.param.name; });

TEST(SoftmaxModeTest, IsPlainAttentionOverAllRotatedKeys) {
  for (const kernels::Dtype dtype : {kernels::Dtype::kFloat32, kernels::Dtype::kBFloat16}) {
    LolaSettings settings = LolaSettings::SoftmaxProfile(100);
    settings.cache_dtype = dtype;
    const RandomStream source(test::SmallGeometry(), 100, 3);
    const ModelGeometry& g = source.geometry;
    const StateLayout layout(g, settings);
    kernels::ThreadPool pool(1);
    StreamRunner runner(&layout, &source);
    for (const size_t rows : {1, 37, 2, 60}) runner.Advance(rows, pool);
    for (uint32_t h = 0; h < g.query_heads; ++h) {
      ReferenceHead head(settings, 0, source.frequencies, source.map_q[0], source.map_k[0], 0.5);
      for (size_t token = 0; token < source.tokens; ++token) {
        const Row y = head.Step(static_cast<int64_t>(token),
                                RowOf(source.q[0], source.QStride(), token, h, 32),
                                RowOf(source.k[0], source.KvStride(), token, h / g.group(), 32),
                                RowOf(source.v[0], source.KvStride(), token, h / g.group(), 32));
        for (size_t i = 0; i < g.head_dim; ++i) {
          ASSERT_NEAR(runner.outputs(0)[token * source.QStride() + h * g.head_dim + i], y[i],
                      dtype == kernels::Dtype::kFloat32 ? 1e-5 : 3e-2);
        }
      }
    }
    EXPECT_EQ(runner.State().CheckRoom(1).code(), absl::StatusCode::kResourceExhausted);
  }
}

TEST(SlotTest, KeptPairsStayAndFreedSlotsAreFilledInOrder) {
  LolaSettings settings = Small();
  const RandomStream source(test::SmallGeometry(), 320, 5);
  const StateLayout layout(source.geometry, settings);
  kernels::ThreadPool pool(1);
  StreamRunner runner(&layout, &source);
  HeadView before;
  while (runner.State().position() < source.tokens) {
    runner.Advance(16, pool);
    const HeadView after = runner.State().InspectHead(0, 1);
    std::map<uint64_t, uint32_t> slot_of;
    for (const CachedPairView& pair : before.pairs) slot_of[pair.position] = pair.slot;
    uint32_t last_new_slot = 0;
    bool any_new = false;
    for (const CachedPairView& pair : after.pairs) {  // by position
      if (slot_of.contains(pair.position)) {
        EXPECT_EQ(pair.slot, slot_of[pair.position]);
        continue;
      }
      if (any_new) {
        EXPECT_GT(pair.slot, last_new_slot);
      }
      last_new_slot = pair.slot;
      any_new = true;
    }
    before = after;
  }
  EXPECT_EQ(before.pairs.size(), 24u);
}

TEST(TieTest, EqualScoresKeepTheEarlierPosition) {
  LolaSettings settings = Small();
  settings.score = Score::kValueNorm;
  RandomStream source(test::SmallGeometry(), 96, 5);
  for (auto& v : source.v) std::fill(v.begin(), v.end(), 1.0f);
  const StateLayout layout(source.geometry, settings);
  kernels::ThreadPool pool(1);
  StreamRunner runner(&layout, &source);
  runner.Advance(96, pool);
  const HeadView view = runner.State().InspectHead(1, 3);
  ASSERT_EQ(view.pairs.size(), 24u);
  for (size_t i = 0; i < view.pairs.size(); ++i) EXPECT_EQ(view.pairs[i].position, i);
}

TEST(RescoreTest, WithoutRescoringAdmittedScoresStay) {
  LolaSettings settings = Small();
  settings.rescore = false;
  const RandomStream source(test::SmallGeometry(), 320, 5);
  const StateLayout layout(source.geometry, settings);
  kernels::ThreadPool pool(1);
  StreamRunner runner(&layout, &source);
  std::map<uint64_t, float> seen;
  while (runner.State().position() < source.tokens) {
    runner.Advance(16, pool);
    for (const CachedPairView& pair : runner.State().InspectHead(0, 2).pairs) {
      if (pair.score < 0) continue;  // admitted without a ranking
      const auto [it, fresh] = seen.emplace(pair.position, pair.score);
      if (!fresh) {
        EXPECT_EQ(it->second, pair.score) << "position " << pair.position;
      }
    }
  }
  EXPECT_GT(seen.size(), 24u);
}

TEST(BrokenNumbersTest, NanAndInfinityAreCounted) {
  for (const float bad : {NAN, INFINITY, 1e38f}) {
    for (int where = 0; where < 3; ++where) {
      RandomStream source(test::SmallGeometry(), 64, 5);
      auto& data = where == 0 ? source.q : where == 1 ? source.k : source.v;
      const size_t stride = where == 0 ? source.QStride() : source.KvStride();
      data[0][40 * stride + 3] = bad;
      const StateLayout layout(source.geometry, Small());
      kernels::ThreadPool pool(1);
      StreamRunner runner(&layout, &source);
      runner.Advance(40, pool);
      EXPECT_EQ(runner.stats().nonfinite(), 0u);
      runner.Advance(24, pool);
      // 1e38 is a number as long as it is only stored: it breaks through q.k or |v|^2.
      if (bad != 1e38f || where == 2) {
        EXPECT_GT(runner.stats().nonfinite(), 0u) << bad << " in " << where;
      }
    }
  }
}

}  // namespace
}  // namespace lola::memory
