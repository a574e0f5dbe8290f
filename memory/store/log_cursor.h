#ifndef LOLA_MEMORY_STORE_LOG_CURSOR_H_
#define LOLA_MEMORY_STORE_LOG_CURSOR_H_

// Reads a stream's tokens in order, over all logs it shares. Sees one version of the logs: the one
// at its creation. One thread at a time; the store must outlive it.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "lola/record/v1/record.pb.h"
#include "memory/store/record_db.h"

namespace lola::store {

class LogCursor {
 public:
  // Tokens [from, to). REQUIRES: from <= to <= the stream's committed position; the stream is
  // locked during the call, so that record and logs are of one version.
  LogCursor(const RecordDb& db, const record::v1::StreamRecord& record, uint64_t from, uint64_t to);

  uint64_t position() const { return position_; }
  // The next tokens, at most a block of them; empty at the end. DATA_LOSS naming stream and log
  // when the log lacks tokens the record promises.
  absl::StatusOr<std::vector<LoggedToken>> Next();

 private:
  const RecordDb& db_;
  const std::string stream_id_;
  std::vector<record::v1::LogSegment> segments_;
  std::unique_ptr<rocksdb::Iterator> it_;
  size_t segment_ = 0;
  uint64_t position_;
  const uint64_t to_;
};

}  // namespace lola::store

#endif  // LOLA_MEMORY_STORE_LOG_CURSOR_H_
