#include "memory/store/log_cursor.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "memory/ids.h"
#include "memory/store/keys.h"

namespace lola::store {

LogCursor::LogCursor(const RecordDb& db, const record::v1::StreamRecord& record, uint64_t from,
                     uint64_t to)
    : db_(db),
      stream_id_(record.stream_id()),
      segments_(record.log().begin(), record.log().end()),
      it_(db.NewLogIterator()),
      position_(from),
      to_(to) {
  if (!segments_.empty()) segments_.back().set_upto(to);  // the writer's end is the committed one
}

absl::StatusOr<std::vector<LoggedToken>> LogCursor::Next() {
  if (position_ >= to_) return std::vector<LoggedToken>{};
  while (segment_ < segments_.size() && segments_[segment_].upto() <= position_) ++segment_;
  if (segment_ == segments_.size() || segments_[segment_].from() > position_) {
    return absl::DataLossError(
        absl::StrCat("stream ", memory::Quoted(stream_id_), ": no log has position ", position_));
  }
  const record::v1::LogSegment& segment = segments_[segment_];
  const uint64_t block = (position_ - segment.from()) / kBlockTokens;
  const uint64_t block_start = segment.from() + block * kBlockTokens;
  const uint64_t end = std::min({block_start + kBlockTokens, segment.upto(), to_});
  const std::string key = BlockKey(segment.log_id(), block);
  if (it_->Valid() && it_->key() != ToSlice(key)) it_->Next();
  if (!it_->Valid() || it_->key() != ToSlice(key)) it_->Seek(ToSlice(key));
  if (!it_->status().ok()) return db_.ToStatus(it_->status());
  std::vector<LoggedToken> tokens;
  if (it_->Valid() && it_->key() == ToSlice(key)) {
    auto decoded = DecodeBlock(ToView(it_->value()));
    if (!decoded.ok()) return decoded.status();
    tokens = *std::move(decoded);
  }
  if (block_start + tokens.size() < end) {
    return absl::DataLossError(
        absl::StrCat("stream ", memory::Quoted(stream_id_), ": log ", segment.log_id(),
                     " ends at position ", block_start + tokens.size(), ", the record says ", end));
  }
  tokens.resize(end - block_start);
  tokens.erase(tokens.begin(), tokens.begin() + ptrdiff_t(position_ - block_start));
  position_ = end;
  return tokens;
}

}  // namespace lola::store
