#include "services/engine/runtime/token_tail.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace lola::engine {

void TokenTail::Reset(uint64_t position) {
  begin_ = position;
  offset_ = 0;
  ids_.clear();
  authors_.clear();
  ids_.shrink_to_fit();
  authors_.shrink_to_fit();
}

void TokenTail::Append(int32_t id, TokenAuthor author) {
  ids_.push_back(id);
  authors_.push_back(author);
}

void TokenTail::Append(std::span<const int32_t> ids, TokenAuthor author) {
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  authors_.insert(authors_.end(), ids.size(), author);
}

void TokenTail::TrimTo(uint64_t position) {
  position = std::min(position, end());
  if (position <= begin_) return;
  offset_ += size_t(position - begin_);
  begin_ = position;
  // Moving the rest down costs its length; doing it only when half is waste keeps that amortised.
  if (offset_ < 1024 || offset_ * 2 < ids_.size()) return;
  ids_.erase(ids_.begin(), ids_.begin() + ptrdiff_t(offset_));
  authors_.erase(authors_.begin(), authors_.begin() + ptrdiff_t(offset_));
  offset_ = 0;
}

std::span<const int32_t> TokenTail::Ids(uint64_t from, uint64_t to) const {
  LOLA_CHECK(begin_ <= from && from <= to && to <= end())
      << "tokens [" << from << ", " << to << ") of [" << begin_ << ", " << end() << ")";
  return std::span(ids_).subspan(Index(from), size_t(to - from));
}

TokenAuthor TokenTail::AuthorAt(uint64_t position) const {
  LOLA_CHECK(begin_ <= position && position < end())
      << "token " << position << " of [" << begin_ << ", " << end() << ")";
  return authors_[Index(position)];
}

std::vector<TokenRun> TokenTail::Runs(uint64_t from, uint64_t to) const {
  const std::span<const int32_t> ids = Ids(from, to);
  std::vector<TokenRun> runs;
  for (size_t i = 0; i < ids.size();) {
    TokenRun run;
    run.position = from + i;
    run.author = AuthorAt(run.position);
    size_t next = i;
    while (next < ids.size() && AuthorAt(from + next) == run.author) ++next;
    run.ids.assign(ids.begin() + ptrdiff_t(i), ids.begin() + ptrdiff_t(next));
    runs.push_back(std::move(run));
    i = next;
  }
  return runs;
}

}  // namespace lola::engine
