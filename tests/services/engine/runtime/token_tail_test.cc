#include "services/engine/runtime/token_tail.h"

#include <gtest/gtest.h>

namespace lola::engine {
namespace {

TEST(TokenTail, KeepsPositionsAcrossTrims) {
  TokenTail tail;
  tail.Reset(100);
  for (int32_t i = 0; i < 5000; ++i) tail.Append(i, TokenAuthor::kClient);
  tail.TrimTo(3000);
  EXPECT_EQ(tail.begin(), 3000u);
  EXPECT_EQ(tail.end(), 5100u);
  EXPECT_EQ(tail.Ids(3000, 3001)[0], 2900);
  tail.TrimTo(10);  // nothing to forget there
  EXPECT_EQ(tail.begin(), 3000u);
  tail.TrimTo(9000);  // no further than the end
  EXPECT_EQ(tail.begin(), 5100u);
  EXPECT_EQ(tail.Ids(5100, 5100).size(), 0u);
}

TEST(TokenTail, SplitsRunsByAuthor) {
  TokenTail tail;
  tail.Reset(7);
  const std::vector<int32_t> client = {1, 2};
  tail.Append(client, TokenAuthor::kClient);
  tail.Append(3, TokenAuthor::kModel);
  tail.Append(4, TokenAuthor::kModel);
  tail.Append(5, TokenAuthor::kClient);
  const auto runs = tail.Runs(8, 12);
  ASSERT_EQ(runs.size(), 3u);
  EXPECT_EQ(runs[0].position, 8u);
  EXPECT_EQ(runs[0].ids, std::vector<int32_t>({2}));
  EXPECT_EQ(runs[1].author, TokenAuthor::kModel);
  EXPECT_EQ(runs[1].ids, std::vector<int32_t>({3, 4}));
  EXPECT_EQ(runs[2].position, 11u);
}

TEST(TokenTailDeathTest, ReadingOutsideIsAProgrammingError) {
  TokenTail tail;
  tail.Reset(10);
  EXPECT_DEATH(tail.Ids(9, 10), "tokens");
}

}  // namespace
}  // namespace lola::engine
