// When snapshots are taken and what becomes of them.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/engine/runtime/scheduler.h"

namespace lola::engine {

// At most checkpoint_tokens behind the newest snapshot, on a chunk boundary: there the recurrent
// state has just changed, and restored streams cut their work at the same places.
void Scheduler::ScheduleCheckpoint(Stream& s) {
  const uint64_t chunk = std::max<uint32_t>(1, s.record.settings.chunk);
  const uint64_t earliest =
      std::max(s.consumed + 1, s.snapshot_position + options_.checkpoint_tokens);
  s.next_checkpoint = (earliest + chunk - 1) / chunk * chunk;
}

void Scheduler::Checkpoint(const StreamPtr& s) {
  // Busy with the one before: the next chunk boundary is soon enough.
  if (s->upload == nullptr) BeginSnapshot(s, "", nullptr);
  ScheduleCheckpoint(*s);
}

bool Scheduler::BeginSnapshot(const StreamPtr& s, std::string name,
                              Engine::Callback<SnapshotRecord> done) {
  if (s->upload != nullptr) return false;
  const Time started = std::chrono::steady_clock::now();
  std::shared_ptr<SnapshotJob> job = uploader_.Take(s->layout->stride_bytes());
  if (job == nullptr) return false;
  absl::StatusOr<StateCopy> copy = states_->Copy(*s->slot, job->record);
  if (!copy.ok()) return false;
  job->arrived = *std::move(copy);
  const Time copied = std::chrono::steady_clock::now();
  stats_.snapshot_copy_s.Observe(std::chrono::duration<double>(copied - started).count());
  job->stream_id = s->id;
  job->epoch = s->epoch;
  job->position = name.empty() ? s->consumed : s->end;
  job->state_position = s->consumed;
  job->computed_by = s->computed_by;
  job->name = std::move(name);
  job->identity = s->identity;
  job->layout = s->layout;
  // The job must not own itself through its callback.
  job->done = [mailbox = mailbox_, this, s, weak = std::weak_ptr<SnapshotJob>(job),
               copied](absl::StatusOr<SnapshotRecord> result) {
    if (auto held = weak.lock()) {
      mailbox->Post([this, s, held, result, copied] { OnUploaded(s, held, result, copied); });
    }
  };
  s->snapshot_position = job->state_position;
  s->upload = std::move(job);
  s->upload_submitted = false;
  s->on_upload = std::move(done);
  ScheduleCheckpoint(*s);
  SubmitUpload(s);
  return true;
}

// A snapshot must not be ahead of the log. Below the end even its next token must be there, so that
// whoever restores it finds something to feed.
void Scheduler::SubmitUpload(const StreamPtr& s) {
  if (s->upload == nullptr || s->upload_submitted) return;
  const uint64_t position = s->upload->state_position;
  const bool rest = position == s->end && s->committed == s->end;
  if (s->committed <= position && !rest) return;
  s->upload_submitted = true;
  ++s->upload->attempts;
  uploader_.Submit(s->upload);
}

void Scheduler::OnUploaded(const StreamPtr& s, const std::shared_ptr<SnapshotJob>& job,
                           absl::StatusOr<SnapshotRecord> result, Time started) {
  if (s->gone() || s->upload != job) return;
  if (!result.ok() && absl::IsAborted(result.status())) {
    ++stats_.fenced_writes;
    return DropStream(s, result.status());
  }
  if (!result.ok() && job->attempts < options_.snapshot_attempts) {
    const auto wait = std::min(options_.retry_first * (1 << job->attempts), options_.retry_max);
    At(std::chrono::steady_clock::now() + wait, [this, s, job] {
      if (s->upload != job) return;
      s->upload_submitted = false;
      SubmitUpload(s);
    });
    return;
  }
  s->upload.reset();
  const auto on_upload = std::exchange(s->on_upload, nullptr);
  if (result.ok()) {
    ++stats_.snapshots;
    stats_.snapshot_bytes += result->size_bytes;
    stats_.snapshot_upload_s.Observe(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
    s->newest_snapshot = *result;
  } else {
    // Nothing is lost: the log has the tokens, a restore replays a little more of it.
    ++stats_.snapshot_failures;
    s->snapshot_position = s->newest_snapshot ? s->newest_snapshot->state() : 0;
    if (s->slot) ScheduleCheckpoint(*s);
  }
  if (on_upload) on_upload(result);
  if (s->phase == Phase::kWaiting) slot_queue_.push_back(s);
  Pump(s);
}

}  // namespace lola::engine
