// Byte pair encoding of one word: the merges of a vocabulary, applied best rank first, leftmost
// first. Immutable after Parse: any thread may call.
//
// Symbols a word starts from are its bytes (byte-level vocabularies, whose printable spelling is
// undone at load) or its characters (SentencePiece-style ones, where a character without a token
// becomes its <0xNN> bytes or the unknown token).
#ifndef LOLA_SERVICES_ENGINE_TOKENIZER_BPE_MODEL_H_
#define LOLA_SERVICES_ENGINE_TOKENIZER_BPE_MODEL_H_

#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "services/engine/json_reader.h"

namespace lola::engine {

class BpeModel {
 public:
  // `model` of a tokenizer.json; `byte_level`: the vocabulary is in the printable spelling of
  // bytes. Ids in `control` never come out of a word: no merge leads to them and no whole word is
  // one. INVALID_ARGUMENT naming field and value; UNIMPLEMENTED for settings we lack.
  static absl::StatusOr<BpeModel> Parse(const Json& model, bool byte_level,
                                        const std::set<int32_t>& control);

  // Appends the ids of one word. Linear in its length up to the logarithm of a heap.
  // REQUIRES: valid UTF-8 unless byte-level.
  void Encode(std::string_view word, std::vector<int32_t>* ids) const;

  // One more than the largest id.
  size_t size() const { return pieces_.size(); }
  // The bytes (byte-level) or characters a token stands for in a word; empty for ids without one.
  const std::string& piece(int32_t id) const { return pieces_[static_cast<size_t>(id)]; }
  // As in the file; empty for ids without a token.
  const std::string& spelling(int32_t id) const { return spellings_[static_cast<size_t>(id)]; }
  // The vocabulary's id of a string in the file's own spelling.
  std::optional<int32_t> Find(std::string_view spelling) const;
  // The byte a <0xNN> token stands for.
  std::optional<uint8_t> FallbackByte(int32_t id) const;
  // A text may be cut in front of `mark` when no merge reaches across such a place: the words on
  // both sides then encode as they would together.
  bool CutsBefore(std::string_view mark) const;

 private:
  struct Merge {
    uint32_t rank = 0;
    int32_t id = 0;
  };
  struct Symbol {
    int32_t id, before, behind;  // neighbours by index; -1 = none
  };

  absl::Status ReadVocabulary(const Json& vocab, bool byte_level);
  absl::Status ReadMerges(const Json& merges, const std::set<int32_t>& control);
  absl::Status ReadMerge(size_t rank, const std::string& left, const std::string& right,
                         const std::set<int32_t>& control);
  absl::Status FindFirstSymbols();
  void IndexWords(const std::set<int32_t>& control);

  const Merge* FindMerge(int32_t left, int32_t right) const {
    const auto found = merges_.find(uint64_t(uint32_t(left)) << 32 | uint32_t(right));
    return found == merges_.end() ? nullptr : &found->second;
  }
  void AppendSymbols(std::string_view word, std::vector<int32_t>* symbols) const;
  void AppendCharacter(std::string_view character, std::optional<int32_t>* unknown,
                       std::vector<int32_t>* symbols) const;
  void MergeShort(std::vector<int32_t>* ids, size_t begin) const;
  void MergeLong(std::vector<int32_t>* ids, size_t begin) const;

  bool byte_level_ = false;
  bool byte_fallback_ = false;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
  std::optional<int32_t> unknown_;
  std::vector<std::string> spellings_;               // id -> as in the file
  std::vector<std::string> pieces_;                  // id -> as found in words
  absl::flat_hash_map<std::string, int32_t> ids_;    // spelling -> id
  absl::flat_hash_map<std::string, int32_t> words_;  // piece -> id, without control ids
  absl::flat_hash_map<uint64_t, Merge> merges_;      // left << 32 | right
  std::array<int32_t, 256> bytes_{};                 // byte -> id; -1 = none
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_TOKENIZER_BPE_MODEL_H_
