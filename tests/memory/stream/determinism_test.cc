// The state and the outputs are a function of the tokens alone: not of splits, threads or restores.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "tests/memory/stream/stream_fixture.h"

namespace lola::memory {
namespace {

using test::RandomStream;
using test::StreamRunner;

LolaSettings Settings(int variant) {
  LolaSettings s = LolaSettings::LifelongProfile();
  s.window = s.chunk = 16;
  s.cache_pairs = 40;
  s.mass_cap = 64;
  switch (variant) {
    case 0:
      break;
    case 1:  // several chunks in the window, whole-block rows
      s.window = 64;
      s.memory_positions = MemoryPositions::kRotary;
      break;
    case 2:  // rows that do not fill their blocks
      s.chunk = s.window = 24;
      s.cache_dtype = kernels::Dtype::kBFloat16;
      break;
    case 3:
      s.cache_pairs = 0;
      s.mixing = Mixing::kLolcats;
      break;
    case 4:
      s.score = Score::kLeaveOneOut;
      s.mixing = Mixing::kNatural;
      break;
    case 5:
      s = LolaSettings::SoftmaxProfile(400);
      break;
    case 6:
      s.cache_sharing = CacheSharing::kGroup;
      s.score = Score::kAttention;
      s.sinks = 4;
      break;
    case 7:
      s.cache_sharing = CacheSharing::kGroupMax;
      s.cache_dtype = kernels::Dtype::kBFloat16;
      s.adaptive_mass = 0.5f;
      break;
    case 8:  // sums over queries, several distances
      s.window = 32;
      s.score = Score::kAttention;
      s.adaptive_mass = 0.7f;
      s.cache_pairs_min = 8;
      break;
    case 10:
      s.cache_dtype = kernels::Dtype::kFloat8;
      s.adaptive_mass = 0.6f;  // pairs move between slots
      break;
    case 11:
      s = LolaSettings::SoftmaxProfile(400);
      s.cache_dtype = kernels::Dtype::kFloat8;
      break;
    case 9:  // an event after every token
      s.window = 8;
      s.chunk = 1;
      s.cache_sharing = CacheSharing::kGroup;
      s.score = Score::kRelativeLeaveOneOut;
      break;
  }
  return s;
}

ModelGeometry Geometry(int variant) {
  ModelGeometry g = test::SmallGeometry();
  if (variant % 2 == 1) {
    g.head_dim = 16;  // half a wide tile
    g.feature_dim = 32;
    g.query_heads = 8;
    g.kv_heads = 4;
  }
  return g;
}

class DeterminismTest : public ::testing::TestWithParam<int> {};

TEST_P(DeterminismTest, NoSplitAndNoThreadCountChangesABit) {
  const LolaSettings settings = Settings(GetParam());
  const RandomStream source(Geometry(GetParam()), 400, 21, 0.3);
  const StateLayout layout(source.geometry, settings);
  kernels::ThreadPool single(1);
  StreamRunner whole(&layout, &source);
  whole.Advance(source.tokens, single);
  ASSERT_EQ(whole.stats().nonfinite(), 0u);
  std::mt19937_64 random(GetParam());
  for (int trial = 0; trial < 12; ++trial) {
    kernels::ThreadPool pool(1 + trial % 4);
    StreamRunner split(&layout, &source);
    const size_t longest = trial < 3 ? 1 : 1 + random() % 90;
    while (split.State().position() < source.tokens) {
      const size_t left = source.tokens - split.State().position();
      split.Advance(std::min<size_t>(left, 1 + random() % longest), pool);
    }
    ASSERT_EQ(split.State().Digest(), whole.State().Digest()) << "trial " << trial;
    ASSERT_EQ(split.record(), whole.record()) << "trial " << trial;
    for (uint32_t layer = 0; layer < source.geometry.layers; ++layer) {
      ASSERT_EQ(0, std::memcmp(split.outputs(layer).data(), whole.outputs(layer).data(),
                               whole.outputs(layer).size() * sizeof(float)))
          << "trial " << trial << " layer " << layer;
    }
  }
}

TEST_P(DeterminismTest, ACopyOfTheBytesGoesOnLikeTheOriginal) {
  const LolaSettings settings = Settings(GetParam());
  const RandomStream source(Geometry(GetParam()), 400, 22, 0.3);
  const StateLayout layout(source.geometry, settings);
  kernels::ThreadPool pool(2);
  StreamRunner whole(&layout, &source);
  std::vector<std::pair<size_t, std::vector<std::byte>>> copies;
  std::mt19937_64 random(GetParam() + 100);
  while (whole.State().position() < source.tokens) {
    copies.emplace_back(whole.State().position(), whole.record());
    const size_t left = source.tokens - whole.State().position();
    whole.Advance(std::min<size_t>(left, 1 + random() % 70), pool);
  }
  for (const auto& [position, bytes] : copies) {
    StreamRunner restored(&layout, &source);
    // Whatever was in the slot before must not matter.
    std::fill(restored.record().begin(), restored.record().end(), std::byte{0xa5});
    std::memcpy(restored.record().data(), bytes.data(), bytes.size());
    ASSERT_TRUE(restored.State().Check(test::kTestModel).ok());
    ASSERT_EQ(restored.State().position(), position);
    restored.Advance(source.tokens - position, pool);
    ASSERT_EQ(restored.record(), whole.record()) << "restored at " << position;
  }
}

TEST_P(DeterminismTest, DeadRowsAreZero) {
  const LolaSettings settings = Settings(GetParam());
  if (settings.mode == Mode::kSoftmax) return;
  const RandomStream source(Geometry(GetParam()), 400, 23);
  const StateLayout layout(source.geometry, settings);
  kernels::ThreadPool pool(1);
  StreamRunner runner(&layout, &source);
  // Right after an event one chunk of the ring is free: its values must be zero bytes.
  const size_t position = 5 * settings.window + settings.chunk;
  runner.Advance(position / settings.chunk * settings.chunk, pool);
  const uint64_t next = runner.State().position();
  const size_t begin = layout.layer(1).window_v + layout.RingRow(next) * layout.row_bytes();
  for (size_t i = 0; i < layout.chunk_rows() * layout.row_bytes(); ++i) {
    ASSERT_EQ(runner.record()[begin + i], std::byte{0}) << "byte " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Settings, DeterminismTest, ::testing::Range(0, 12));

}  // namespace
}  // namespace lola::memory
