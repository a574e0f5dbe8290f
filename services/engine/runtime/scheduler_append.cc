// The token log: one append in flight per shard, everything that comes meanwhile goes into the
// next one (group commit).
#include <algorithm>
#include <utility>

#include "services/engine/runtime/scheduler.h"

namespace lola::engine {

void Scheduler::KickAppends() {
  std::vector<std::shared_ptr<AppendBatch>> batches(shards_.size());
  std::vector<uint64_t> tokens(shards_.size(), 0);
  for (size_t i = 0; i < residents_.size(); ++i) {
    // The same rotation as for steps: a full batch leaves nobody out for ever.
    const StreamPtr& s = residents_[(turn_ + i) % residents_.size()];
    if (s->end == s->committed || s->appending || shards_[s->shard].in_flight) continue;
    if (tokens[s->shard] >= options_.append_batch_tokens_max) continue;
    auto& batch = batches[s->shard];
    if (batch != nullptr && batch->entries.size() >= options_.append_batch_streams_max) continue;
    if (batch == nullptr) {
      batch = std::make_shared<AppendBatch>();
      batch->durability = Durability::kNone;
    }
    const uint64_t room = options_.append_batch_tokens_max - tokens[s->shard];
    const uint64_t to = std::min(s->end, s->committed + room);
    batch->entries.push_back({s->id, s->epoch, s->tail.Runs(s->committed, to)});
    tokens[s->shard] += to - s->committed;
    const bool none = !s->attachments.empty() &&
                      std::all_of(s->attachments.begin(), s->attachments.end(), [](const auto& a) {
                        return a->request.durability == Durability::kNone;
                      });
    if (!none) batch->durability = Durability::kLocal;
    s->appending = true;
    shards_[s->shard].streams.push_back(s);
  }
  for (size_t shard = 0; shard < batches.size(); ++shard) {
    if (batches[shard] == nullptr) continue;
    shards_[shard].batch = std::move(batches[shard]);
    shards_[shard].in_flight = true;
    ++stats_.append_batches;
    SendAppend(shard);
  }
}

void Scheduler::SendAppend(size_t shard) {
  backend_->Append(shard, shards_[shard].batch,
                   Posted<absl::StatusOr<std::vector<AppendResult>>>(
                       [this, shard](absl::StatusOr<std::vector<AppendResult>> results) {
                         OnAppended(shard, std::move(results));
                       }));
}

void Scheduler::OnAppended(size_t shard, absl::StatusOr<std::vector<AppendResult>> results) {
  ShardQueue& queue = shards_[shard];
  if (results.ok() && results->size() != queue.batch->entries.size()) {
    results = absl::InternalError("append: the shard answered for another number of streams");
  }
  absl::Status status = results.status();
  // The whole batch is repeated unchanged: entries that arrived before are recognised and answered
  // OK. So one entry that has to wait makes the batch wait.
  if (status.ok()) {
    for (const AppendResult& result : *results) {
      if (absl::IsUnavailable(result.status) || absl::IsResourceExhausted(result.status)) {
        status = result.status;
      }
    }
  }
  if (!status.ok() && RetryLater(queue.backoff, status, [this, shard] { SendAppend(shard); })) {
    ++stats_.append_retries;
    return;
  }
  queue.backoff.Reset();
  const auto batch = std::exchange(queue.batch, nullptr);
  const std::vector<StreamPtr> streams = std::exchange(queue.streams, {});
  queue.in_flight = false;
  for (size_t i = 0; i < streams.size(); ++i) {
    streams[i]->appending = false;
    if (streams[i]->gone()) continue;
    const AppendResult result = results.ok() ? (*results)[i] : AppendResult{status, 0};
    OnAppendResult(streams[i], batch->entries[i], result);
  }
}

void Scheduler::OnAppendResult(const StreamPtr& s, const AppendEntry& entry,
                               const AppendResult& result) {
  if (!result.status.ok()) {
    if (absl::IsAborted(result.status)) ++stats_.fenced_writes;
    // The log has something else at our positions: another owner wrote it. As good as fenced.
    const bool fenced = absl::IsAborted(result.status) || absl::IsFailedPrecondition(result.status);
    return DropStream(s, fenced ? absl::AbortedError(result.status.message()) : result.status);
  }
  const TokenRun& last = entry.runs.back();
  s->committed = std::max(s->committed, last.position + last.ids.size());
  const bool client_tokens =
      std::any_of(entry.runs.begin(), entry.runs.end(),
                  [](const TokenRun& run) { return run.author == TokenAuthor::kClient; });
  for (const AttachmentPtr& a : std::vector<AttachmentPtr>(s->attachments)) {
    // Released model tokens are durable by themselves; the rest is worth telling.
    const bool tell = client_tokens || a->request.durability == Durability::kNone;
    if (tell && a->opened && s->committed > a->durable_told) {
      a->durable_told = s->committed;
      a->sink->OnDurable(s->committed);
    }
    ReplayMore(a);
  }
  SubmitUpload(s);
  Pump(s);
}

}  // namespace lola::engine
