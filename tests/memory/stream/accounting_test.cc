// Our bytes from the layout, and the published "4.6x smaller cache" recomputed under eight sets of
// assumptions (memory/stream/BYTES.md has the table in words).
#include "memory/stream/accounting.h"

#include <gtest/gtest.h>

#include "tests/memory/stream/stream_fixture.h"

namespace lola::memory {
namespace {

constexpr double kMiB = 1 << 20;
constexpr double kTokens = 4096;

// Llama-3.1-8B with the feature maps of its linearised checkpoints.
ModelGeometry Llama8B() {
  return {.layers = 32,
          .hidden = 4096,
          .query_heads = 32,
          .kv_heads = 8,
          .head_dim = 128,
          .feature_dim = 128,
          .ffn = 14336,
          .vocab = 128256};
}

// What somebody may count when comparing; per layer, bytes.
struct Assumptions {
  double softmax_heads;  // heads whose cache the softmax model is charged for
  double window_pairs;   // kept in full
  double window_heads;
  double cache_pairs;
  double cache_heads;
  double vectors_of_a_pair;  // 2: key and value; 3: and the key's features
  double state_heads;        // heads that are charged for H and s
  double state_element;      // bytes
};

double Ratio(const Assumptions& a) {
  constexpr double kRow = 128 * 2;  // bfloat16
  const double softmax = kTokens * 2 * kRow * a.softmax_heads;
  const double pairs = (a.window_pairs * a.window_heads + a.cache_pairs * a.cache_heads) *
                       a.vectors_of_a_pair * kRow;
  const double state = a.state_heads * (128 * 128 + 128) * a.state_element;
  return softmax / (pairs + state);
}

TEST(PublishedFactor, EightWaysToCountAtFourThousandTokens) {
  // S1, S2: per query head on both sides; the features stored, or a window of 2 eta without them.
  EXPECT_NEAR(Ratio({1, 256, 1, 256, 1, 3, 1, 4}), 4.566, 5e-4);
  EXPECT_NEAR(Ratio({1, 512, 1, 256, 1, 2, 1, 4}), 4.566, 5e-4);
  // S3, S5: pairs alone, eta + lambda = 128 + 768 and 256 + 256.
  EXPECT_NEAR(Ratio({1, 128, 1, 768, 1, 2, 0, 0}), 4.571, 5e-4);
  EXPECT_NEAR(Ratio({1, 256, 1, 256, 1, 2, 0, 0}), 8.0, 1e-9);
  // S4: per head, keys and values, H and s in float32 or bfloat16.
  EXPECT_NEAR(Ratio({1, 256, 1, 256, 1, 2, 1, 4}), 6.39, 5e-3);
  EXPECT_NEAR(Ratio({1, 256, 1, 256, 1, 2, 1, 2}), 7.10, 5e-3);
  // S6: real bytes. The softmax cache and the window are shared by 4 query heads, the rest is not.
  EXPECT_NEAR(Ratio({8, 256, 8, 256, 32, 2, 32, 4}), 2.28, 5e-3);
  EXPECT_NEAR(Ratio({8, 512, 8, 256, 32, 2, 32, 4}), 2.00, 5e-3);
  // S7: the sparse cache shared too. S8: S6 with eta = 128, lambda = 768.
  EXPECT_NEAR(Ratio({8, 512, 8, 256, 8, 2, 32, 4}), 3.19, 5e-3);
  EXPECT_NEAR(Ratio({8, 256, 8, 768, 32, 2, 32, 4}), 1.07, 5e-3);
}

StateLayout Paper8B(CacheSharing sharing, kernels::Dtype dtype) {
  LolaSettings settings = LolaSettings::PaperProfile();
  settings.window = settings.chunk = 256;
  settings.cache_pairs = 256;
  settings.cache_sharing = sharing;
  settings.cache_dtype = dtype;
  return StateLayout(Llama8B(), settings);
}

double RatioOf(const StateLayout& layout) {
  const double softmax = kTokens * static_cast<double>(FullCacheBytesPerToken(
                                       layout.geometry(), kernels::Dtype::kBFloat16));
  return softmax / static_cast<double>(layout.stride_bytes());
}

// Our record is S6 and S7 with a window of 2 eta, and pays for what a service needs besides: the
// correction of s (0.5 MiB) and 16 bytes of position and scores for each pair.
TEST(Accounting, OurRecordsPayWhatTheyHold) {
  const StateLayout own = Paper8B(CacheSharing::kHead, kernels::Dtype::kBFloat16);
  const StateBytes bytes = AccountFor(own);
  EXPECT_EQ(bytes.recurrent, 65 * kMiB);  // 64 MiB of H, 0.5 of s, 0.5 of its correction
  EXPECT_EQ(bytes.window, 64 * kMiB);
  EXPECT_EQ(bytes.cache, 128 * kMiB);
  EXPECT_LE(bytes.bookkeeping, 4.3 * kMiB);
  EXPECT_EQ(bytes.total, own.stride_bytes());
  EXPECT_NEAR(RatioOf(own), 1.96, 5e-3);
  const StateLayout shared = Paper8B(CacheSharing::kGroup, kernels::Dtype::kBFloat16);
  EXPECT_EQ(AccountFor(shared).cache, 32 * kMiB);
  EXPECT_NEAR(RatioOf(shared), 3.16, 5e-3);
  const StateLayout small = Paper8B(CacheSharing::kGroup, kernels::Dtype::kFloat8);
  EXPECT_EQ(AccountFor(small).cache, 16 * kMiB);
  EXPECT_NEAR(RatioOf(small), 4.47, 5e-3);
}

TEST(Accounting, TheFullCacheOfEqualBytesIsCountedInItsOwnRows) {
  const ModelGeometry g = Llama8B();
  EXPECT_EQ(FullCacheBytesPerToken(g, kernels::Dtype::kBFloat16), 131072u);
  EXPECT_EQ(FullCacheBytesPerToken(g, kernels::Dtype::kFloat8), 65536u + 512u);
  EXPECT_EQ(FullCacheTokens(g, kernels::Dtype::kBFloat16, 512 << 20), 4096u);
  EXPECT_EQ(FullCacheTokens(g, kernels::Dtype::kBFloat16, (512 << 20) - 1), 4095u);
}

TEST(Accounting, EveryByteBelongsToSomething) {
  for (const auto dtype :
       {kernels::Dtype::kFloat32, kernels::Dtype::kBFloat16, kernels::Dtype::kFloat8}) {
    LolaSettings lola = LolaSettings::LifelongProfile();
    lola.score = Score::kAttention;
    LolaSettings softmax = LolaSettings::SoftmaxProfile(100);
    for (LolaSettings* settings : {&lola, &softmax}) {
      settings->cache_dtype = dtype;
      const StateBytes bytes = AccountFor(StateLayout(test::SmallGeometry(), *settings));
      EXPECT_EQ(bytes.recurrent + bytes.window + bytes.cache + bytes.bookkeeping, bytes.total);
      EXPECT_LT(bytes.bookkeeping, bytes.total / 2);
      EXPECT_GT(bytes.window, 0u);
    }
  }
}

}  // namespace
}  // namespace lola::memory
