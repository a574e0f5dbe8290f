#include "memory/store/token_block.h"

#include "absl/strings/str_cat.h"
#include "rocksdb/merge_operator.h"

namespace lola::store {
namespace {

void PutVarint(uint32_t value, std::string* out) {
  while (value >= 0x80) {
    *out += char(value | 0x80);
    value >>= 7;
  }
  *out += char(value);
}

// False at the end or for more than 32 bits.
bool GetVarint(std::string_view* in, uint32_t* value) {
  uint64_t result = 0;
  for (int shift = 0; shift < 35 && !in->empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(in->front());
    in->remove_prefix(1);
    result |= uint64_t(byte & 0x7f) << shift;
    if ((byte & 0x80) == 0) {
      *value = uint32_t(result);
      return result <= 0xffffffffu;
    }
  }
  return false;
}

absl::Status Damaged(std::string_view what, uint64_t value, uint64_t wanted) {
  return absl::DataLossError(absl::StrCat("token block: ", std::string(what), " is ", value,
                                          ", at most ", wanted, " fits"));
}

// Joins the pieces in `bytes` to the tokens of the block so far.
absl::Status ApplyPieces(std::string_view bytes, std::vector<LoggedToken>* tokens) {
  while (!bytes.empty()) {
    uint32_t offset = 0;
    uint32_t header = 0;
    if (!GetVarint(&bytes, &offset) || !GetVarint(&bytes, &header)) {
      return absl::DataLossError("token block: cut off in the head of a piece");
    }
    const uint64_t count = header >> 1;
    if (offset > tokens->size()) return Damaged("offset", offset, tokens->size());
    if (count == 0 || count > kBlockTokens - offset) {
      return Damaged("count", count, kBlockTokens - offset);
    }
    tokens->resize(offset);
    for (uint64_t i = 0; i < count; ++i) {
      uint32_t id = 0;
      if (!GetVarint(&bytes, &id)) return absl::DataLossError("token block: cut off in a token");
      if (id > 0x7fffffffu) return Damaged("token id", id, 0x7fffffffu);
      tokens->push_back({int32_t(id), (header & 1) != 0});
    }
  }
  return absl::OkStatus();
}

class MergeBlocks : public rocksdb::MergeOperator {
 public:
  const char* Name() const override { return "lola.token_block.v1"; }

  bool FullMergeV2(const MergeOperationInput& in, MergeOperationOutput* out) const override {
    std::vector<LoggedToken> tokens;
    if (in.existing_value != nullptr && !Apply(*in.existing_value, &tokens)) return false;
    for (const rocksdb::Slice& piece : in.operand_list) {
      if (!Apply(piece, &tokens)) return false;
    }
    out->new_value = EncodeBlock(tokens);
    return true;
  }

  // Pieces side by side mean the same as pieces one by one.
  bool PartialMergeMulti(const rocksdb::Slice&, const std::deque<rocksdb::Slice>& operands,
                         std::string* out, rocksdb::Logger*) const override {
    out->clear();
    for (const rocksdb::Slice& piece : operands) out->append(piece.data(), piece.size());
    return true;
  }

 private:
  static bool Apply(const rocksdb::Slice& piece, std::vector<LoggedToken>* tokens) {
    return ApplyPieces({piece.data(), piece.size()}, tokens).ok();
  }
};

}  // namespace

void EncodePiece(uint64_t offset, bool by_model, std::span<const int32_t> ids, std::string* out) {
  PutVarint(uint32_t(offset), out);
  PutVarint(uint32_t(ids.size() << 1 | (by_model ? 1 : 0)), out);
  for (const int32_t id : ids) PutVarint(uint32_t(id), out);
}

absl::StatusOr<std::vector<LoggedToken>> DecodeBlock(std::string_view bytes) {
  std::vector<LoggedToken> tokens;
  if (absl::Status status = ApplyPieces(bytes, &tokens); !status.ok()) return status;
  return tokens;
}

std::string EncodeBlock(std::span<const LoggedToken> tokens) {
  std::string bytes;
  std::vector<int32_t> ids;
  for (size_t begin = 0; begin < tokens.size();) {
    size_t end = begin;
    ids.clear();
    while (end < tokens.size() && tokens[end].by_model == tokens[begin].by_model) {
      ids.push_back(tokens[end++].id);
    }
    EncodePiece(begin, tokens[begin].by_model, ids, &bytes);
    begin = end;
  }
  return bytes;
}

std::shared_ptr<rocksdb::MergeOperator> TokenBlockMerge() {
  return std::make_shared<MergeBlocks>();
}

}  // namespace lola::store
