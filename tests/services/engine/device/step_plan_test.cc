// How a step is cut: pieces, waves, tiles, lanes.
#include "services/engine/device/step_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace lola::engine {
namespace {

memory::LolaSettings Chunks(uint32_t chunk) {
  memory::LolaSettings settings = memory::LolaSettings::LifelongProfile();
  settings.window = settings.chunk = chunk;
  return settings;
}

// Every token of every stream is in one row, one piece and one tile; waves and lanes are whole and
// in order; no piece crosses the end of a chunk.
TEST(StepPlanTest, EveryTokenHasOnePlace) {
  const memory::LolaSettings settings[] = {Chunks(16), Chunks(40)};
  std::mt19937_64 random(5);
  StepPlan plan;
  for (int round = 0; round < 200; ++round) {
    std::vector<StepPart> parts(1 + random() % 5);
    size_t total = 0;
    for (StepPart& part : parts) {
      part = {&settings[random() % 2], random() % 100, uint32_t(1 + random() % 90)};
      total += part.rows;
    }
    plan.Build(parts);
    ASSERT_EQ(plan.rows.size(), total);
    std::vector<uint32_t> next(parts.size(), 0);
    uint32_t row = 0;
    for (const Piece& piece : plan.pieces) {
      EXPECT_EQ(piece.first_row, row);
      EXPECT_EQ(piece.offset, next[piece.part]);
      const uint64_t first = parts[piece.part].position + piece.offset;
      const uint32_t chunk = parts[piece.part].settings->chunk;
      EXPECT_EQ(first / chunk, (first + piece.rows - 1) / chunk);
      for (uint32_t r = 0; r < piece.rows; ++r) {
        EXPECT_EQ(plan.rows[row + r].position, first + r);
        EXPECT_EQ(plan.rows[row + r].segment, piece.part);
      }
      next[piece.part] += piece.rows;
      row += piece.rows;
    }
    for (size_t i = 0; i < parts.size(); ++i) EXPECT_EQ(next[i], parts[i].rows);
    uint32_t tile = 0, event = 0;
    row = 0;
    for (const Wave& wave : plan.waves) {
      EXPECT_EQ(wave.first_row, row);
      EXPECT_EQ(wave.first_tile, tile);
      EXPECT_EQ(wave.first_event, event);
      for (uint32_t t = 0; t < wave.tiles; ++t, ++tile) {
        EXPECT_EQ(plan.tiles[tile].first_row, row);
        EXPECT_EQ(plan.tiles[tile].position, plan.rows[row].position);
        row += plan.tiles[tile].rows;
      }
      EXPECT_EQ(row, wave.first_row + wave.rows);
      event += wave.events;
    }
    EXPECT_EQ(row, total);
    EXPECT_EQ(tile, plan.tiles.size());
    EXPECT_EQ(event, plan.events.size());
  }
}

TEST(StepPlanTest, LanesHaveAboutAsManyRowsEach) {
  const memory::LolaSettings settings = Chunks(128);
  StepPlan plan;
  const StepPart alone[] = {{&settings, 0, 2048}};
  plan.Build(alone);
  const std::vector<Lane> lanes = plan.Lanes(512);
  ASSERT_EQ(lanes.size(), 2u);
  EXPECT_EQ(lanes[0].rows, 1024u);
  EXPECT_EQ(lanes[1].rows, 1024u);
  EXPECT_EQ(lanes[1].first_row, 1024u);
  EXPECT_EQ(lanes[0].waves + lanes[1].waves, plan.waves.size());
  EXPECT_EQ(plan.Lanes(4096).size(), 1u);
  // Beside many streams that decode, the long one has what is left.
  std::vector<StepPart> mixed(700, StepPart{&settings, 5, 1});
  mixed.push_back({&settings, 0, 512});
  plan.Build(mixed);
  EXPECT_EQ(plan.Lanes(512)[0].rows, 828u);
  EXPECT_EQ(plan.Lanes(512)[1].rows, 384u);
  // One wave is one lane, however many rows.
  const std::vector<StepPart> wide(600, StepPart{&settings, 5, 1});
  plan.Build(wide);
  EXPECT_EQ(plan.Lanes(512).size(), 1u);
  EXPECT_TRUE(plan.single);
}

TEST(StepPlanTest, EventsFollowTheChunkThatLeaves) {
  memory::LolaSettings settings = Chunks(16);
  settings.window = 32;
  const StepPart part[] = {{&settings, 40, 30}};
  StepPlan plan;
  plan.Build(part);
  // The window of 32 gives a chunk up whenever 16 more are full: at 48 the first one.
  std::vector<uint64_t> leaving;
  for (const cuda::Event& event : plan.events) leaving.push_back(event.first_position);
  EXPECT_THAT(leaving, testing::ElementsAre(0, 16));
  ASSERT_EQ(plan.waves.size(), 3u);
  EXPECT_EQ(plan.waves[0].events, 1u);
  EXPECT_EQ(plan.waves[1].events, 1u);
  EXPECT_EQ(plan.waves[2].events, 0u);
}

}  // namespace
}  // namespace lola::engine
