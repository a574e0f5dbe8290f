#include "memory/stream/layout.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/memory/stream/stream_fixture.h"

namespace lola::memory {
namespace {

StateLayout Layout(const LolaSettings& settings) {
  return StateLayout(test::SmallGeometry(), settings);
}

TEST(LayoutTest, SectionsAreAlignedOrderedAndDisjoint) {
  LolaSettings odd = LolaSettings::LifelongProfile();
  odd.chunk = 10;
  odd.window = 30;
  odd.cache_pairs = 7;
  odd.cache_dtype = kernels::Dtype::kBFloat16;
  for (const LolaSettings& settings :
       {LolaSettings::LifelongProfile(), LolaSettings::SoftmaxProfile(100), odd}) {
    const StateLayout layout = Layout(settings);
    EXPECT_EQ(layout.stride_bytes() % kPageBytes, 0u);
    size_t end = 0;
    std::set<std::string> names;
    for (const Section& section : layout.Sections()) {
      EXPECT_EQ(section.offset % kSectionAlign, 0u) << section.name;
      EXPECT_EQ(section.offset, end) << section.name << " leaves a gap or overlaps";
      EXPECT_TRUE(names.insert(section.name).second) << section.name;
      end = section.offset + section.bytes;
    }
    EXPECT_EQ(end, layout.stride_bytes());
    for (uint32_t i = 0; i < 2; ++i) EXPECT_EQ(layout.layer(i).begin % kPageBytes, 0u);
  }
}

TEST(LayoutTest, SizeIsTheFormulaAndNothingElse) {
  const StateLayout layout = Layout(LolaSettings::LifelongProfile());
  // Per layer: 4 query heads of 64 x 32 H, s twice, 128 cached pairs; 2 kv heads of 128 ring rows.
  const size_t h = 4 * 64 * 32 * 4;
  const size_t s = 4 * 2 * 64 * 4;
  const size_t window = 2 * 2 * 128 * 32 * 4;
  const size_t cache = 2 * 4 * 128 * 32 * 4;
  const size_t meta = 4 * 128 * 16;
  const size_t counters = 4 * 64;
  const size_t layer = (h + s + window + cache + meta + counters + kPageBytes - 1) / kPageBytes;
  EXPECT_EQ(layout.stride_bytes(), kPageBytes + 2 * layer * kPageBytes);
}

TEST(LayoutTest, ASharedCacheIsStoredOncePerGroup) {
  LolaSettings settings = LolaSettings::LifelongProfile();
  const StateLayout own = Layout(settings);
  settings.cache_sharing = CacheSharing::kGroup;
  const StateLayout shared = Layout(settings);
  const auto cache_bytes = [](const StateLayout& layout) {
    return layout.layer(0).window_mass - layout.layer(0).cache_k;
  };
  // 128 pairs of key, value and SlotMeta for 4 query heads, or for their 2 kv heads.
  EXPECT_EQ(cache_bytes(own), 4 * 128 * (2 * 32 * 4 + sizeof(SlotMeta)));
  EXPECT_EQ(cache_bytes(shared), cache_bytes(own) / 2);
  EXPECT_EQ(shared.caches(), 2u);
  EXPECT_EQ(own.layout_version(), kRecordLayoutVersion);
  EXPECT_EQ(shared.layout_version(), kExtendedLayoutVersion);
}

TEST(LayoutTest, OnlyTheAttentionScoreKeepsMasses) {
  LolaSettings settings = LolaSettings::LifelongProfile();
  const StateLayout plain = Layout(settings);
  EXPECT_EQ(plain.layer(1).window_mass, plain.layer(1).cache_mass);
  settings.score = Score::kAttention;
  const StateLayout layout = Layout(settings);
  EXPECT_EQ(layout.layer(1).cache_mass - layout.layer(1).window_mass, 4 * 128 * sizeof(float));
  EXPECT_EQ(layout.layer(1).window_mass,
            plain.layer(1).window_mass + layout.layer(1).begin - plain.layer(1).begin);
}

TEST(LayoutTest, Float8RowsAreAByteAnElementAndAByteARow) {
  LolaSettings settings = LolaSettings::LifelongProfile();
  settings.cache_dtype = kernels::Dtype::kFloat8;
  const StateLayout layout = Layout(settings);
  const LayerOffsets& at = layout.layer(0);
  EXPECT_EQ(at.window_v - at.window_k, 2 * 128 * 32);
  EXPECT_EQ(at.cache_v - at.cache_k, 4 * 128 * 32);
  EXPECT_EQ(at.window_v_exponents - at.window_k_exponents, 2 * 128);
  EXPECT_EQ(at.cache_v_exponents - at.cache_k_exponents, 4 * 128);
  const StateLayout plain = Layout(LolaSettings::LifelongProfile());
  EXPECT_EQ(plain.layer(0).window_k_exponents, plain.layer(0).cache_v_exponents);
  EXPECT_EQ(layout.layout_version(), kExtendedLayoutVersion);
}

TEST(LayoutTest, BudgetsPerLayerChangeOnlyTheirLayer) {
  LolaSettings settings = LolaSettings::LifelongProfile();
  settings.cache_pairs_per_layer = {0, 256};
  const StateLayout layout = Layout(settings);
  EXPECT_EQ(layout.cache_slots(0), 0u);
  EXPECT_EQ(layout.cache_slots(1), 256u);
  EXPECT_EQ(layout.layer(0).cache_k, layout.layer(0).cache_meta);
}

TEST(LayoutTest, RingRowsOfLivePositionsNeverCollide) {
  LolaSettings settings = LolaSettings::LifelongProfile();
  settings.chunk = 10;
  settings.window = 30;
  const StateLayout layout = Layout(settings);
  EXPECT_EQ(layout.ring_chunks(), 4u);
  EXPECT_EQ(layout.chunk_rows(), 16u);
  for (uint64_t position = 0; position < 400; ++position) {
    std::set<uint32_t> rows;
    for (uint64_t j = layout.WindowBegin(position); j <= position; ++j) {
      EXPECT_LT(layout.RingRow(j), layout.ring_rows());
      EXPECT_TRUE(rows.insert(layout.RingRow(j)).second) << j << " at " << position;
    }
  }
}

TEST(LayoutTest, WindowIsATerrace) {
  const StateLayout layout = Layout(LolaSettings::LifelongProfile());
  EXPECT_EQ(layout.WindowBegin(0), 0u);
  EXPECT_EQ(layout.WindowBegin(127), 0u);
  EXPECT_EQ(layout.WindowBegin(128), 64u);
  EXPECT_EQ(layout.WindowBegin(191), 64u);
  EXPECT_EQ(layout.WindowBegin(192), 128u);
}

TEST(LayoutDeathTest, InvalidSettingsAreAProgrammersError) {
  LolaSettings settings;
  settings.window = 65;
  EXPECT_DEATH(Layout(settings), "chunk 64 does not divide window 65");
}

}  // namespace
}  // namespace lola::memory
