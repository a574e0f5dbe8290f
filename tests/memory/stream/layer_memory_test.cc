// What LayerMemory does beyond agreeing with the reference: slots, ties, sharing, broken numbers.
#include "memory/stream/layer_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "tests/memory/stream/reference_model.h"
#include "tests/memory/stream/stream_fixture.h"

namespace lola::memory {
namespace {

using test::RandomStream;
using test::ReferenceHead;
using test::Row;
using test::StreamRunner;

LolaSettings Small() {
  LolaSettings settings = LolaSettings::PaperProfile();
  settings.window = settings.chunk = 16;
  settings.cache_pairs = 24;
  return settings;
}

Row RowOf(const std::vector<float>& data, size_t stride, size_t token, size_t head, size_t d) {
  const float* begin = data.data() + token * stride + head * d;
  return Row(begin, begin + d);
}

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
      ReferenceHead head(settings, source.frequencies, source.map_q[0], source.map_k[0], 0.5);
      for (size_t token = 0; token < source.tokens; ++token) {
        const Row y = head.Attend(static_cast<int64_t>(token),
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

// A group of one head shares with nobody: the same pairs, outputs and sums, bit for bit.
TEST(SharingTest, AGroupOfOneIsAHeadOfItsOwn) {
  ModelGeometry geometry = test::SmallGeometry();
  geometry.kv_heads = geometry.query_heads;
  const RandomStream source(geometry, 150, 5, 0.4);
  const StateLayout own(geometry, Small());
  LolaSettings settings = Small();
  settings.cache_sharing = CacheSharing::kGroup;
  const StateLayout shared(geometry, settings);
  kernels::ThreadPool pool(1);
  StreamRunner a(&own, &source), b(&shared, &source);
  a.Advance(150, pool);
  b.Advance(150, pool);
  for (uint32_t layer = 0; layer < geometry.layers; ++layer)
    EXPECT_EQ(a.outputs(layer), b.outputs(layer));
  EXPECT_TRUE(std::equal(a.record().begin() + kPageBytes, a.record().end(),
                         b.record().begin() + kPageBytes, b.record().end()));
}

// Heads of one group that see the same keys through the same maps want the same pairs; the sum over
// two such heads is twice the score of one, so sharing changes nothing they do.
TEST(SharingTest, HeadsThatAgreeLoseNothingBySharing) {
  RandomStream source(test::SmallGeometry(), 150, 5, 0.4);
  const ModelGeometry& g = source.geometry;
  const size_t map = size_t{g.head_dim} * g.map_dim();
  for (uint32_t layer = 0; layer < g.layers; ++layer) {
    for (uint32_t h = 1; h < g.query_heads; h += 2) {
      auto& maps = source.map_k[layer];
      std::copy_n(maps.begin() + (h - 1) * map, map, maps.begin() + h * map);
    }
  }
  kernels::ThreadPool pool(1);
  const StateLayout own(g, Small());
  StreamRunner alone(&own, &source);
  alone.Advance(150, pool);
  for (const CacheSharing sharing : {CacheSharing::kGroup, CacheSharing::kGroupMax}) {
    LolaSettings settings = Small();
    settings.cache_sharing = sharing;
    const StateLayout layout(g, settings);
    StreamRunner shared(&layout, &source);
    shared.Advance(150, pool);
    EXPECT_LT(layout.stride_bytes(), own.stride_bytes());
    for (uint32_t layer = 0; layer < g.layers; ++layer) {
      EXPECT_EQ(shared.outputs(layer), alone.outputs(layer)) << Name(sharing);
    }
  }
}

TEST(AdaptiveTest, TheShareOfTheScoresSetsTheSize) {
  const RandomStream source(test::SmallGeometry(), 320, 5);
  kernels::ThreadPool pool(1);
  double last = 0;
  for (const float share : {0.2f, 0.5f, 0.8f, 1.0f}) {
    LolaSettings settings = Small();
    settings.adaptive_mass = share;
    settings.cache_pairs_min = 2;
    const StateLayout layout(source.geometry, settings);
    StreamRunner runner(&layout, &source);
    runner.Advance(source.tokens, pool);
    const double average = runner.stats().average_occupancy();
    EXPECT_GT(average, last) << share;
    last = average;
    ASSERT_TRUE(runner.State().Check(test::kTestModel).ok());
  }
  EXPECT_LE(last, 24.0);
}

TEST(BrokenNumbersTest, NanAndInfinityAreCountedInFloat8RowsToo) {
  for (const float bad : {NAN, INFINITY}) {
    for (const bool in_value : {false, true}) {
      RandomStream source(test::SmallGeometry(), 64, 5);
      (in_value ? source.v : source.k)[0][40 * source.KvStride() + 3] = bad;
      LolaSettings settings = Small();
      settings.cache_dtype = kernels::Dtype::kFloat8;
      const StateLayout layout(source.geometry, settings);
      kernels::ThreadPool pool(1);
      StreamRunner runner(&layout, &source);
      runner.Advance(40, pool);
      EXPECT_EQ(runner.stats().nonfinite(), 0u);
      runner.Advance(24, pool);
      EXPECT_GT(runner.stats().nonfinite(), 0u) << bad << in_value;
    }
  }
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
