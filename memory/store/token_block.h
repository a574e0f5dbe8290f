#ifndef LOLA_MEMORY_STORE_TOKEN_BLOCK_H_
#define LOLA_MEMORY_STORE_TOKEN_BLOCK_H_

// Encoding of a token log. A log is cut into blocks of kBlockTokens tokens; the store's value of a
// block is a sequence of pieces:
//   varint offset   tokens of the block before this piece
//   varint header   count << 1 | 1 if the model wrote them
//   varint id ...   `count` token ids
// An append is one more piece, merged into the block by the record store itself (TokenBlockMerge),
// so that an append writes its own bytes only. A piece that starts before the present end replaces
// what lies behind its start: a write that failed but reached the disk cannot make a token twice.
// Pure functions, any thread. Damage is DATA_LOSS.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rocksdb {
class MergeOperator;
}

namespace lola::store {

inline constexpr uint64_t kBlockTokens = 1024;

struct LoggedToken {
  int32_t id = 0;
  bool by_model = false;
  bool operator==(const LoggedToken&) const = default;
};

// Appends one piece to `out`.
// REQUIRES: every id >= 0; 1 <= ids.size(); offset + ids.size() <= kBlockTokens.
void EncodePiece(uint64_t offset, bool by_model, std::span<const int32_t> ids, std::string* out);

// All tokens of a block.
absl::StatusOr<std::vector<LoggedToken>> DecodeBlock(std::string_view bytes);

// The shortest encoding of `tokens`, which begin at the block's start.
std::string EncodeBlock(std::span<const LoggedToken> tokens);

// Joins pieces; a damaged or gapped block is corruption.
std::shared_ptr<rocksdb::MergeOperator> TokenBlockMerge();

}  // namespace lola::store

#endif  // LOLA_MEMORY_STORE_TOKEN_BLOCK_H_
