#include "memory/store/token_block.h"

#include <random>

#include "rocksdb/merge_operator.h"
#include "tests/memory/store/store_fixture.h"

namespace lola::store {
namespace {

std::string Piece(uint64_t offset, bool by_model, const std::vector<int32_t>& ids) {
  std::string bytes;
  EncodePiece(offset, by_model, ids, &bytes);
  return bytes;
}

TEST(TokenBlock, DecodesWhatWasEncoded) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<LoggedToken> tokens(random() % (kBlockTokens + 1));
    for (auto& token : tokens) {
      token = {int32_t(random() % (uint64_t{1} << (1 + random() % 31))), random() % 8 == 0};
    }
    const auto decoded = DecodeBlock(EncodeBlock(tokens));
    ASSERT_TRUE(decoded.ok());
    ASSERT_EQ(*decoded, tokens);
  }
}

TEST(TokenBlock, SmallIdsTakeOneByte) {
  EXPECT_EQ(EncodeBlock(std::vector<LoggedToken>(1024, {100, true})).size(), 1024u + 3u);
}

TEST(TokenBlock, LaterPieceReplacesFromItsOffset) {
  const std::string bytes =
      Piece(0, false, {1, 2, 3}) + Piece(2, true, {9, 8}) + Piece(2, true, {9, 8});
  const auto tokens = DecodeBlock(bytes);
  ASSERT_TRUE(tokens.ok());
  EXPECT_EQ(*tokens, (std::vector<LoggedToken>{{1, false}, {2, false}, {9, true}, {8, true}}));
}

TEST(TokenBlock, DamageIsDataLoss) {
  const std::string good = Piece(0, false, {1000, 2000});
  EXPECT_REFUSED(DecodeBlock(good.substr(0, 1)).status(), kDataLoss, "head of a piece");
  EXPECT_REFUSED(DecodeBlock(good.substr(0, 4)).status(), kDataLoss, "in a token");
  EXPECT_REFUSED(DecodeBlock(Piece(1, false, {1})).status(), kDataLoss, "offset is 1");
  EXPECT_REFUSED(DecodeBlock(std::string("\0\0", 2)).status(), kDataLoss, "count is 0");
  EXPECT_REFUSED(DecodeBlock("\xff\xff\xff\xff\xff\xff").status(), kDataLoss, "head");
  EXPECT_REFUSED(DecodeBlock(std::string("\0\x02\xff\xff\xff\xff\x0f", 7)).status(), kDataLoss,
                 "token id");
}

TEST(TokenBlock, MergeJoinsInAnyGrouping) {
  using Input = rocksdb::MergeOperator::MergeOperationInput;
  const auto merge = TokenBlockMerge();
  const std::vector<std::string> pieces = {Piece(0, false, {1, 2}), Piece(2, true, {3}),
                                           Piece(3, true, {4, 5})};
  const std::vector<rocksdb::Slice> slices(pieces.begin(), pieces.end());
  std::string joined;
  rocksdb::Slice existing;
  rocksdb::MergeOperator::MergeOperationOutput out(joined, existing);
  ASSERT_TRUE(merge->FullMergeV2(Input("key", nullptr, slices, nullptr), &out));
  EXPECT_EQ(joined, Piece(0, false, {1, 2}) + Piece(2, true, {3, 4, 5}));
  std::string partial;
  ASSERT_TRUE(merge->PartialMergeMulti("key", {slices[1], slices[2]}, &partial, nullptr));
  const rocksdb::Slice first = slices[0];
  std::string again;
  rocksdb::MergeOperator::MergeOperationOutput out_again(again, existing);
  ASSERT_TRUE(merge->FullMergeV2(Input("key", &first, {partial}, nullptr), &out_again));
  EXPECT_EQ(again, joined);
  std::string unused;
  rocksdb::MergeOperator::MergeOperationOutput refused(unused, existing);
  EXPECT_FALSE(merge->FullMergeV2(Input("key", nullptr, {slices[1]}, nullptr), &refused));
}

}  // namespace
}  // namespace lola::store
