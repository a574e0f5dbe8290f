// The newest part of one stream's token log in memory: positions [begin, end). Not thread-safe.
#ifndef LOLA_SERVICES_ENGINE_RUNTIME_TOKEN_TAIL_H_
#define LOLA_SERVICES_ENGINE_RUNTIME_TOKEN_TAIL_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "services/engine/runtime/stream_backend.h"

namespace lola::engine {

class TokenTail {
 public:
  uint64_t begin() const { return begin_; }
  uint64_t end() const { return begin_ + ids_.size() - offset_; }

  // Empty, at `position`.
  void Reset(uint64_t position);
  void Append(int32_t id, TokenAuthor author);
  void Append(std::span<const int32_t> ids, TokenAuthor author);
  // Forgets what lies before `position`.
  void TrimTo(uint64_t position);

  // REQUIRES: begin() <= from <= to <= end(). Valid until the next change.
  std::span<const int32_t> Ids(uint64_t from, uint64_t to) const;
  TokenAuthor AuthorAt(uint64_t position) const;
  // [from, to) as runs of one author each.
  std::vector<TokenRun> Runs(uint64_t from, uint64_t to) const;

 private:
  size_t Index(uint64_t position) const { return offset_ + size_t(position - begin_); }

  uint64_t begin_ = 0;
  size_t offset_ = 0;  // of begin_ in the vectors
  std::vector<int32_t> ids_;
  std::vector<TokenAuthor> authors_;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_RUNTIME_TOKEN_TAIL_H_
