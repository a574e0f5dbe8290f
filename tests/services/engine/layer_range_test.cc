#include "services/engine/layer_range.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/engine/model.h"
#include "services/engine/weights.h"

namespace lola::engine {
namespace {

using ::testing::HasSubstr;

const char kTinyModel[] = LOLA_SOURCE_DIR "/tests/testdata/parity/tiny_model";

std::string Refusal(const std::string& text) {
  const auto parsed = ParseLayerRange(text);
  return parsed.ok() ? "" : std::string(parsed.status().message());
}

TEST(LayerRangeTest, ReadsWhatPeopleWrite) {
  EXPECT_EQ(*ParseLayerRange("4-7"), (LayerRange{4, 8}));
  EXPECT_EQ(*ParseLayerRange("0"), (LayerRange{0, 1}));
  EXPECT_EQ((LayerRange{4, 8}).ToString(), "4-7");
  EXPECT_EQ((LayerRange{4, 5}).ToString(), "4");
  for (const char* bad : {"", "-", "a", "1-", "-1", "7-4", "1-2-3", "0-4294967295", "1 - 2"}) {
    EXPECT_THAT(Refusal(bad), HasSubstr("layers: \"" + std::string(bad) + "\"")) << bad;
  }
  EXPECT_TRUE(CheckLayerRange({0, 3}, 3).ok());
  EXPECT_THAT(std::string(CheckLayerRange({2, 5}, 4).message()),
              HasSubstr("layers: 2-4, the model has 4"));
  EXPECT_FALSE(CheckLayerRange({2, 2}, 4).ok());
}

TEST(LayerRangeTest, ACutRecordIsAHeaderAndThePieceOfTheWholeOne) {
  ModelConfig config = *NamedGeometry("tiny");
  config.geometry.layers = 6;
  memory::LolaSettings settings = config.defaults;
  settings.cache_pairs_per_layer = {0, 16, 64, 1, 200, 17};
  const memory::StateLayout whole(config.geometry, settings);
  for (uint32_t first = 0; first < 6; ++first) {
    for (uint32_t end = first + 1; end <= 6; ++end) {
      const memory::StateLayout cut = CutLayout(whole, {first, end});
      const RecordPiece piece = PieceOf(whole, {first, end});
      ASSERT_EQ(cut.stride_bytes(), memory::kPageBytes + piece.bytes);
      const size_t shift = piece.offset - memory::kPageBytes;
      for (uint32_t i = 0; i < end - first; ++i) {
        const memory::LayerOffsets &a = cut.layer(i), &b = whole.layer(first + i);
        EXPECT_EQ(a.begin + shift, b.begin);
        EXPECT_EQ(a.h + shift, b.h);
        EXPECT_EQ(a.window_v + shift, b.window_v);
        EXPECT_EQ(a.cache_meta + shift, b.cache_meta);
        EXPECT_EQ(a.end + shift, b.end);
      }
    }
  }
}

TEST(LayerRangeTest, LoadingARangeKeepsItsWeightsAndTheWholeModelsIdentity) {
  const auto whole = Model::Load(kTinyModel, {});
  ASSERT_TRUE(whole.ok()) << whole.status();
  ASSERT_EQ((*whole)->geometry().layers, 2u);
  EXPECT_TRUE((*whole)->whole());
  uint64_t parameters = 0, bytes = 0;
  for (const LayerRange& range : {LayerRange{0, 1}, LayerRange{1, 2}}) {
    const auto part = Model::Load(kTinyModel, {.layers = range});
    ASSERT_TRUE(part.ok()) << part.status();
    EXPECT_EQ((*part)->fingerprint(), (*whole)->fingerprint());
    EXPECT_EQ((*part)->geometry(), (*whole)->geometry());
    EXPECT_EQ((*part)->layers_geometry().layers, 1u);
    EXPECT_EQ((*part)->weights().layers.size(), 1u);
    EXPECT_EQ((*part)->has_first_layer(), range.first == 0);
    EXPECT_EQ((*part)->has_last_layer(), range.end == 2);
    EXPECT_EQ((*part)->weights().embedding.empty(), range.first != 0);
    EXPECT_EQ((*part)->weights().norm.empty(), range.end != 2);
    EXPECT_FALSE((*part)->whole());
    parameters += (*part)->parameters();
    bytes += (*part)->weight_bytes();
  }
  EXPECT_EQ(parameters, (*whole)->parameters());
  EXPECT_EQ(bytes, (*whole)->weight_bytes());
  const auto beyond = Model::Load(kTinyModel, {.layers = LayerRange{1, 3}});
  EXPECT_TRUE(absl::IsInvalidArgument(beyond.status())) << beyond.status();
  EXPECT_THAT(std::string(beyond.status().message()), HasSubstr("layers: 1-2, the model has 2"));
}

TEST(LayerRangeTest, AMiddleRangeHoldsNeitherEnd) {
  for (const bool tied : {false, true}) {
    ModelConfig config = *NamedGeometry("tiny");
    config.geometry.layers = 3;
    config.tied_embeddings = tied;
    const auto middle = Model::Random(config, 1, {.layers = LayerRange{1, 2}});
    ASSERT_TRUE(middle.ok());
    const ModelWeights& weights = (*middle)->weights();
    EXPECT_EQ(weights.head.bytes(), 0u);
    EXPECT_TRUE(weights.embedding.empty() && weights.embedding_bf16.empty());
    EXPECT_TRUE(weights.norm.empty());
    // Tied rows are wanted at both ends.
    const auto first = Model::Random(config, 1, {.layers = LayerRange{0, 1}});
    EXPECT_EQ((*first)->weights().head.bytes() > 0, tied);
  }
}

}  // namespace
}  // namespace lola::engine
