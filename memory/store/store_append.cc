#include <algorithm>

#include "absl/strings/str_cat.h"
#include "memory/env/failpoint.h"
#include "memory/store/keys.h"
#include "memory/store/request_check.h"
#include "memory/store/store_impl.h"

namespace lola::store {

// What an entry still has to write: its tokens from `skip` on.
struct StoreImpl::PreparedEntry {
  uint64_t skip = 0;   // tokens of the entry that are already in the log
  uint64_t count = 0;  // tokens to write behind the committed end
};

namespace {

uint64_t TokensOf(const v1::AppendEntry& entry) {
  uint64_t count = 0;
  for (const v1::TokenRun& run : entry.runs()) count += uint64_t(run.ids_size());
  return count;
}

// How stale the stored time of last use may get before an append writes the record too.
int64_t UseLagMs(const StreamRecord& record) {
  constexpr int64_t kLagMsMax = 60'000;
  return record.ttl_ms() == 0 ? kLagMsMax : std::min(kLagMsMax, record.ttl_ms() / 16);
}

}  // namespace

absl::StatusOr<v1::AppendBatchReply> StoreImpl::Append(const v1::AppendBatchRequest& request) {
  if (absl::Status status = CheckAppendBatch(request); !status.ok()) return status;
  std::vector<int> order(size_t(request.entries_size()));
  for (int i = 0; i < request.entries_size(); ++i) order[size_t(i)] = i;
  std::sort(order.begin(), order.end(), [&](int a, int b) {
    return request.entries(a).stream_id() < request.entries(b).stream_id();
  });
  std::vector<std::string> ids;
  ids.reserve(order.size());
  for (const int i : order) ids.push_back(request.entries(i).stream_id());
  auto streams = table_->LockEach(ids);

  v1::AppendBatchReply reply;
  for (int i = 0; i < request.entries_size(); ++i) reply.add_results();
  rocksdb::WriteBatch batch;
  std::vector<PreparedEntry> prepared(order.size());
  const int64_t now_ms = options_.clock->UnixMs();
  uint64_t refused = 0, retried = 0, tokens = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const v1::AppendEntry& entry = request.entries(order[i]);
    absl::Status status = streams[i].status();
    if (status.ok()) status = PrepareEntry(entry, **streams[i], &prepared[i]);
    if (!status.ok()) {
      v1::AppendResult& result = *reply.mutable_results(order[i]);
      result.set_code(int(status.code()));
      result.set_message(std::string(status.message()));
      prepared[i] = {};
      ++refused;
      continue;
    }
    StreamEntry& stream = **streams[i];
    stream.record.set_last_used_unix_ms(std::max(now_ms, stream.record.last_used_unix_ms()));
    if (prepared[i].count == 0) {
      ++retried;
      continue;
    }
    tokens += prepared[i].count;
    PutTokens(entry, prepared[i], stream, &batch);
    if (now_ms - stream.stored_used_ms > UseLagMs(stream.record)) PutRecord(stream.record, &batch);
  }
  if (batch.Count() > 0) {
    LOLA_FAILPOINT("store.append.before_commit");
    const bool sync = request.durability() != v1::DURABILITY_NONE;
    if (absl::Status status = db_->Commit(&batch, sync); !status.ok()) return status;
  }
  for (size_t i = 0; i < order.size(); ++i) {
    if (!streams[i].ok()) continue;
    StreamEntry& stream = **streams[i];
    stream.committed += prepared[i].count;
    if (now_ms - stream.stored_used_ms > UseLagMs(stream.record) && prepared[i].count > 0) {
      stream.stored_used_ms = now_ms;
    }
    if (stream.exists) {
      reply.mutable_results(order[i])->set_committed_position(stream.committed);
    }
  }
  Count([&](StoreStats& counts) {
    ++counts.append_calls;
    counts.append_entries += order.size();
    counts.append_tokens += tokens;
    counts.log_tokens += tokens;
    counts.append_retries += retried;
    counts.append_refused += refused;
  });
  LOLA_FAILPOINT("store.append.after_commit");
  return reply;
}

absl::Status StoreImpl::PrepareEntry(const v1::AppendEntry& entry, StreamEntry& stream,
                                     PreparedEntry* prepared) {
  if (!stream.exists) {
    return absl::NotFoundError(
        absl::StrCat("stream ", memory::Quoted(entry.stream_id()), " not found"));
  }
  if (absl::Status status = CheckAppendEntry(entry); !status.ok()) return status;
  if (absl::Status status = CheckEpoch(stream, entry.epoch()); !status.ok()) return status;
  const uint64_t base = entry.runs(0).position();
  if (base > stream.committed) {
    return absl::OutOfRangeError(absl::StrCat("position: the append starts at ", base, ", stream ",
                                              memory::Quoted(entry.stream_id()), " ends at ",
                                              stream.committed));
  }
  const uint64_t count = TokensOf(entry);
  prepared->skip = std::min(stream.committed - base, count);
  prepared->count = count - prepared->skip;
  return prepared->skip == 0 ? absl::OkStatus() : CheckOverlap(entry, stream, prepared->skip);
}

absl::Status StoreImpl::CheckOverlap(const v1::AppendEntry& entry, const StreamEntry& stream,
                                     uint64_t count) {
  const uint64_t base = entry.runs(0).position();
  LogCursor cursor(*db_, stream.record, base, base + count);
  int run = 0;
  int index = 0;
  uint64_t position = base;
  while (position < base + count) {
    auto logged = cursor.Next();
    if (!logged.ok()) return logged.status();
    for (const LoggedToken& token : *logged) {
      while (index == entry.runs(run).ids_size()) {
        ++run;
        index = 0;
      }
      const int32_t id = entry.runs(run).ids(index++);
      if (id != token.id) {
        return absl::FailedPreconditionError(
            absl::StrCat("ids: at position ", position, " the append has token ", id, ", stream ",
                         memory::Quoted(entry.stream_id()), " has ", token.id));
      }
      ++position;
    }
  }
  return absl::OkStatus();
}

void StoreImpl::PutTokens(const v1::AppendEntry& entry, const PreparedEntry& prepared,
                          const StreamEntry& stream, rocksdb::WriteBatch* batch) const {
  const memory::LogId log_id = stream.own_log();
  const uint64_t log_from = stream.own_log_from();
  uint64_t skip = prepared.skip;
  uint64_t position = stream.committed;
  // One piece per block and run; pieces of one block travel as one merge.
  std::string pieces;
  uint64_t pieces_block = 0;
  const auto flush = [&] {
    if (pieces.empty()) return;
    batch->Merge(db_->log_family(), BlockKey(log_id, pieces_block), pieces);
    pieces.clear();
  };
  for (const v1::TokenRun& run : entry.runs()) {
    std::span<const int32_t> ids(run.ids().data(), size_t(run.ids_size()));
    const uint64_t skipped = std::min<uint64_t>(skip, ids.size());
    skip -= skipped;
    ids = ids.subspan(skipped);
    while (!ids.empty()) {
      const uint64_t block = (position - log_from) / kBlockTokens;
      const uint64_t offset = (position - log_from) % kBlockTokens;
      const uint64_t count = std::min<uint64_t>(ids.size(), kBlockTokens - offset);
      if (block != pieces_block) flush();
      pieces_block = block;
      EncodePiece(offset, run.author() == v1::TOKEN_AUTHOR_MODEL, ids.first(count), &pieces);
      ids = ids.subspan(count);
      position += count;
    }
  }
  flush();
}

}  // namespace lola::store
