#include "services/engine/tokenizer/bpe_model.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "kernels/core/check.h"
#include "memory/text.h"
#include "services/engine/tokenizer/characters.h"

namespace lola::engine {
namespace {

// Words up to this many symbols are merged by scanning, which beats the heap there.
constexpr size_t kScannedSymbolsMax = 48;
constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();

struct Candidate {
  uint32_t rank;
  uint32_t at;   // index of the left symbol
  int32_t id;    // what the two become
  int32_t left;  // the symbols it was found for: stale when they have changed
  int32_t right;
};

// The heap's top is the best rank, then the leftmost.
bool Worse(const Candidate& a, const Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
}

}  // namespace

std::optional<int32_t> BpeModel::Find(std::string_view spelling) const {
  const auto found = ids_.find(ToAbsl(spelling));
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

std::optional<uint8_t> BpeModel::FallbackByte(int32_t id) const {
  if (!byte_fallback_) return std::nullopt;
  const auto found = std::find(bytes_.begin(), bytes_.end(), id);
  if (found == bytes_.end()) return std::nullopt;
  return static_cast<uint8_t>(found - bytes_.begin());
}

bool BpeModel::CutsBefore(std::string_view mark) const {
  // A whole-word lookup sees across; so does an unknown character, which waits for its neighbour.
  if (byte_level_ || ignore_merges_ || !byte_fallback_ ||
      words_.find(ToAbsl(mark)) == words_.end() ||
      std::count(bytes_.begin(), bytes_.end(), -1) > 0) {
    return false;
  }
  for (const auto& [pair, merge] : merges_) {
    const std::string& piece = pieces_[static_cast<size_t>(merge.id)];
    for (size_t at = piece.find(mark, 1); at != std::string::npos; at = piece.find(mark, at + 1)) {
      const bool behind_mark =
          at >= mark.size() && piece.substr(at - mark.size(), mark.size()) == mark;
      if (!behind_mark) return false;
    }
  }
  return true;
}

void BpeModel::Encode(std::string_view word, std::vector<int32_t>* ids) const {
  if (word.empty()) return;
  if (ignore_merges_) {
    if (const auto found = words_.find(ToAbsl(word)); found != words_.end()) {
      ids->push_back(found->second);
      return;
    }
  }
  const size_t begin = ids->size();
  AppendSymbols(word, ids);
  if (ids->size() - begin <= kScannedSymbolsMax) {
    MergeShort(ids, begin);
  } else {
    MergeLong(ids, begin);
  }
}

void BpeModel::AppendSymbols(std::string_view word, std::vector<int32_t>* symbols) const {
  if (byte_level_) {
    for (const char c : word) symbols->push_back(bytes_[static_cast<uint8_t>(c)]);
    return;
  }
  std::optional<int32_t> unknown;
  for (size_t at = 0; at < word.size();) {
    const size_t size = CodePointAt(word, at).size;
    AppendCharacter(word.substr(at, size), &unknown, symbols);
    at += size;
  }
  if (unknown) symbols->push_back(*unknown);
}

// `unknown` is an unknown token not written yet: a run of them becomes one when they are fused.
void BpeModel::AppendCharacter(std::string_view character, std::optional<int32_t>* unknown,
                               std::vector<int32_t>* symbols) const {
  if (const auto found = words_.find(ToAbsl(character)); found != words_.end()) {
    if (*unknown) symbols->push_back(**unknown);
    unknown->reset();
    symbols->push_back(found->second);
    return;
  }
  const bool has_bytes =
      byte_fallback_ && std::all_of(character.begin(), character.end(),
                                    [&](char c) { return bytes_[static_cast<uint8_t>(c)] >= 0; });
  if (has_bytes) {
    for (const char c : character) symbols->push_back(bytes_[static_cast<uint8_t>(c)]);
    return;
  }
  LOLA_CHECK(unknown_.has_value());  // Parse refuses vocabularies without any way out
  if (*unknown && !fuse_unknown_) symbols->push_back(**unknown);
  *unknown = unknown_;
}

void BpeModel::MergeShort(std::vector<int32_t>* ids, size_t begin) const {
  const size_t n = ids->size() - begin;
  int32_t* const symbols = ids->data() + begin;
  std::array<Merge, kScannedSymbolsMax> pairs;  // pairs[i]: of symbols i and i + 1
  const auto look = [&](size_t i) {
    const Merge* merge = FindMerge(symbols[i], symbols[i + 1]);
    pairs[i] = merge != nullptr ? *merge : Merge{kNoRank, 0};
  };
  for (size_t i = 0; i + 1 < n; ++i) look(i);
  size_t left = n;
  while (left > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < left; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNoRank) break;
    symbols[best] = pairs[best].id;
    std::copy(symbols + best + 2, symbols + left, symbols + best + 1);
    --left;
    if (left > 1) std::copy(pairs.begin() + best + 1, pairs.begin() + left, pairs.begin() + best);
    if (best > 0) look(best - 1);
    if (best + 1 < left) look(best);
  }
  ids->resize(begin + left);
}

void BpeModel::MergeLong(std::vector<int32_t>* ids, size_t begin) const {
  const size_t n = ids->size() - begin;
  std::vector<Symbol> symbols(n);
  std::vector<Candidate> heap;
  const auto offer = [&](int32_t at) {
    if (at < 0 || symbols[at].behind < 0) return false;
    const int32_t left = symbols[at].id, right = symbols[symbols[at].behind].id;
    const Merge* merge = FindMerge(left, right);
    if (merge != nullptr) heap.push_back({merge->rank, uint32_t(at), merge->id, left, right});
    return merge != nullptr;
  };
  for (size_t i = 0; i < n; ++i) {
    symbols[i] = {(*ids)[begin + i], int32_t(i) - 1, i + 1 < n ? int32_t(i) + 1 : -1};
  }
  for (size_t i = 0; i < n; ++i) offer(int32_t(i));
  std::make_heap(heap.begin(), heap.end(), Worse);
  while (!heap.empty()) {
    const Candidate top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), Worse);
    heap.pop_back();
    Symbol& symbol = symbols[top.at];
    // A symbol taken by its left neighbour has the id -1.
    if (symbol.id != top.left || symbol.behind < 0 || symbols[symbol.behind].id != top.right) {
      continue;
    }
    Symbol& taken = symbols[symbol.behind];
    symbol.id = top.id;
    symbol.behind = taken.behind;
    taken.id = -1;
    if (symbol.behind >= 0) symbols[symbol.behind].before = int32_t(top.at);
    if (offer(symbol.before)) std::push_heap(heap.begin(), heap.end(), Worse);
    if (offer(int32_t(top.at))) std::push_heap(heap.begin(), heap.end(), Worse);
  }
  ids->resize(begin);
  for (int32_t at = 0; at >= 0; at = symbols[at].behind) ids->push_back(symbols[at].id);
}

}  // namespace lola::engine
