// A state comes back: the newest snapshot that verifies, then the log behind it.
#include <algorithm>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "memory/snapshot/reader.h"
#include "memory/stream/stream_state.h"
#include "services/engine/runtime/scheduler.h"

namespace lola::engine {
namespace {

// Feeds a download into a slot. Owns all it touches, so a download that outlives the engine writes
// into memory that is still there. Stop: from the scheduler thread, the rest from the download's.
class SlotWriter {
 public:
  SlotWriter(ResidentStates::Staging staging, const memory::SnapshotIdentity& identity,
             const memory::StateLayout& layout, uint64_t position)
      : staging_(std::move(staging)),
        identity_(identity),
        layout_(layout),
        reader_(identity_, layout_, staging_.bytes, position) {}

  absl::Status Feed(std::span<const std::byte> bytes) {
    std::lock_guard lock(mu_);
    if (stopped_) return absl::CancelledError("nobody waits for this state any more");
    if (status_.ok()) status_ = reader_.Feed(bytes);
    return status_;
  }
  // The staging may be the slot itself, which somebody else gets next. Waits for the piece at hand.
  void Stop() {
    std::lock_guard lock(mu_);
    stopped_ = true;
  }
  // The verdict over what was fed.
  absl::Status Finish() {
    if (status_.ok()) status_ = reader_.Finish().status();
    return status_;
  }
  const absl::Status& status() const { return status_; }
  const ResidentStates::Staging& staging() const { return staging_; }

 private:
  const ResidentStates::Staging staging_;
  const memory::SnapshotIdentity identity_;
  const memory::StateLayout layout_;
  memory::SnapshotReader reader_;
  absl::Status status_;
  std::mutex mu_;  // a piece is written whole, or not at all
  bool stopped_ = false;
};

}  // namespace

void Scheduler::StartRestore(const StreamPtr& s, bool fresh_record) {
  s->phase = Phase::kRestoring;
  s->restore = std::make_shared<Restore>();
  s->restore->started = std::chrono::steady_clock::now();
  if (fresh_record || s->end == 0) {
    ChooseCandidates(*s);
    return TryCandidate(s);
  }
  // Retention may have removed what we knew of: the record is asked again.
  backend_->Describe(
      s->id, Posted<absl::StatusOr<StreamRecord>>([this, s, job = s->restore](
                                                      absl::StatusOr<StreamRecord> record) {
        if (s->restore != job) return;
        if (!record.ok()) {
          if (RetryLater(job->backoff, record.status(), [this, s, job] {
                if (s->restore == job) StartRestore(s, false);
              })) {
            return;
          }
          return FailRestore(s, record.status());
        }
        if (record->owner_epoch != s->epoch) {
          ++stats_.fenced_writes;
          return DropStream(
              s, absl::AbortedError(absl::StrCat("owner epoch: ours is ", s->epoch,
                                                 ", the record's is ", record->owner_epoch)));
        }
        s->record.snapshots = std::move(record->snapshots);
        ChooseCandidates(*s);
        TryCandidate(s);
      }));
}

// Best first: the newest below the end of the log, because from there the log brings logits. One
// at the very end comes first only when the others would cost more than two checkpoint intervals.
void Scheduler::ChooseCandidates(Stream& s) {
  Restore& job = *s.restore;
  std::vector<SnapshotRecord> at_end;
  for (const SnapshotRecord& snapshot : s.record.snapshots) {
    if (snapshot.state() == s.end) at_end.push_back(snapshot);
    if (snapshot.state() < s.end) job.candidates.push_back(snapshot);
  }
  std::stable_sort(job.candidates.begin(), job.candidates.end(),
                   [](const auto& a, const auto& b) { return a.state() > b.state(); });
  const uint64_t below = job.candidates.empty() ? 0 : job.candidates.front().state();
  const bool far = s.end - below > 2 * options_.checkpoint_tokens;
  if (!s.restore_below_end) {
    job.candidates.insert(far ? job.candidates.begin() : job.candidates.end(), at_end.begin(),
                          at_end.end());
  }
  s.restore_below_end = false;
}

void Scheduler::TryCandidate(const StreamPtr& s) {
  const std::shared_ptr<Restore> job = s->restore;
  if (job->next_candidate >= job->candidates.size()) {
    // Nothing verifies, or there is nothing: the log alone must do.
    absl::Status reset = states_->Reset(*s->slot, *s->layout, fingerprint_);
    return reset.ok() ? StartReplay(s, 0) : FailRestore(s, reset);
  }
  const SnapshotRecord& snapshot = job->candidates[job->next_candidate];
  auto writer = std::make_shared<SlotWriter>(states_->Stage(*s->slot, s->layout->stride_bytes()),
                                             s->identity, *s->layout, snapshot.state());
  job->stop_download = [writer] { writer->Stop(); };
  backend_->GetSnapshot(
      s->id, snapshot.blob_id,
      [writer](std::span<const std::byte> bytes) { return writer->Feed(bytes); },
      [mailbox = mailbox_, this, s, job, writer](absl::Status transport) {
        const absl::Status fed = transport.ok() ? writer->Finish() : writer->status();
        mailbox->Post([this, s, job, writer, fed, transport] {
          const bool whole = s->restore == job && fed.ok() && transport.ok();
          if (!whole) return OnCandidate(s, job, fed, transport);
          BringState(s, job, writer->staging());
        });
      });
}

// A state that arrived whole goes to where it will be computed on; others go on meanwhile.
void Scheduler::BringState(const StreamPtr& s, const std::shared_ptr<Restore>& job,
                           const ResidentStates::Staging& staging) {
  states_->Bring(*s->slot, *s->layout, staging,
                 [mailbox = mailbox_, this, s, job, staging](absl::Status arrived) {
                   mailbox->Post([this, s, job, staging, arrived] {
                     if (s->restore != job) return;
                     const absl::Status adopted =
                         arrived.ok() ? states_->Adopt(*s->slot, *s->layout, staging) : arrived;
                     if (!adopted.ok()) return FailRestore(s, adopted);
                     OnCandidate(s, job, absl::OkStatus(), absl::OkStatus());
                   });
                 });
}

void Scheduler::OnCandidate(const StreamPtr& s, const std::shared_ptr<Restore>& job,
                            absl::Status fed, absl::Status transport) {
  if (s->restore != job) return;
  if (fed.ok() && !transport.ok() && RetryLater(job->backoff, transport, [this, s, job] {
        if (s->restore == job) TryCandidate(s);
      })) {
    return;
  }
  if (fed.ok() && (absl::IsUnavailable(transport) || absl::IsDeadlineExceeded(transport))) {
    return FailRestore(s, transport);  // the blob may be fine: no reason to recompute
  }
  job->backoff.Reset();
  const uint64_t position = job->candidates[job->next_candidate].state();
  ++job->next_candidate;
  if (!fed.ok() || !transport.ok()) {
    ++job->skipped;
    ++stats_.skipped_snapshots;
    return TryCandidate(s);
  }
  job->reused = position;
  job->computed_by = job->candidates[job->next_candidate - 1].computed_by;
  if (job->computed_by.empty()) AddClass(job->computed_by, kUnknownClass);
  s->newest_snapshot = job->candidates[job->next_candidate - 1];
  StartReplay(s, position);
}

void Scheduler::StartReplay(const StreamPtr& s, uint64_t position) {
  const std::shared_ptr<Restore> job = s->restore;
  s->report = RestoreReport{};
  s->report.kind = s->end == 0 ? RestoreReport::Kind::kNew : RestoreReport::Kind::kRestored;
  s->report.reused_tokens = job->reused;
  s->report.skipped_snapshots = job->skipped;
  s->consumed = position;
  s->computed_by = job->computed_by;
  s->snapshot_position = position;
  if (position == 0) s->newest_snapshot.reset();
  ScheduleCheckpoint(*s);
  // Some history before the state's position serves the repetition penalty.
  s->tail.Reset(position - std::min<uint64_t>(position, kRepetitionWindowMax));
  if (s->tail.end() == s->end) {
    job->log_loaded = true;
    return ContinueRestore(s);
  }
  ReadPage(s);
}

void Scheduler::ReadPage(const StreamPtr& s) {
  const std::shared_ptr<Restore> job = s->restore;
  job->reading_page = true;
  const uint64_t from = s->tail.end();
  const uint64_t to = std::min(s->end, from + options_.replay_page_tokens);
  backend_->ReadTokens(s->id, from, to,
                       Posted<absl::StatusOr<std::vector<TokenRun>>>(
                           [this, s, job](absl::StatusOr<std::vector<TokenRun>> runs) {
                             OnPage(s, job, std::move(runs));
                           }));
}

void Scheduler::OnPage(const StreamPtr& s, const std::shared_ptr<Restore>& job,
                       absl::StatusOr<std::vector<TokenRun>> runs) {
  if (s->restore != job) return;
  job->reading_page = false;
  if (!runs.ok()) {
    if (RetryLater(job->backoff, runs.status(), [this, s, job] {
          if (s->restore == job) ReadPage(s);
        })) {
      return;
    }
    return FailRestore(
        s, absl::Status(runs.status().code(), absl::StrCat("log from position ", s->tail.end(),
                                                           ": ", runs.status().message())));
  }
  job->backoff.Reset();
  for (const TokenRun& run : *runs) {
    if (run.position != s->tail.end()) {
      return FailRestore(s,
                         absl::DataLossError(absl::StrCat("log: tokens at position ", run.position,
                                                          ", expected ", s->tail.end())));
    }
    s->tail.Append(run.ids, run.author);
  }
  if (s->tail.end() >= s->consumed) job->log_loaded = true;
  ContinueRestore(s);
}

// After a page came or a part was fed: more pages, or ready.
void Scheduler::ContinueRestore(const StreamPtr& s) {
  const std::shared_ptr<Restore> job = s->restore;
  if (s->tail.end() < s->end) {
    s->tail.TrimTo(s->consumed - std::min<uint64_t>(s->consumed, kRepetitionWindowMax));
    const uint64_t ahead = s->tail.end() - std::min(s->tail.end(), s->consumed);
    if (!job->reading_page && ahead < options_.replay_page_tokens) ReadPage(s);
    return;
  }
  if (s->consumed + 1 < s->end) return;
  SayContinuation(*s);
  s->restore.reset();
  s->phase = Phase::kReady;
  s->slot_since = s->last_used = std::chrono::steady_clock::now();
  s->report.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - job->started).count();
  if (s->end > 0) {
    ++stats_.restores;
    ++stats_.promotions;
    if (s->report.replayed_tokens > 0) ++stats_.recoveries;
    stats_.restore_s.Observe(s->report.seconds);
  }
  OnReady(s);
}

// What the stream goes on from: the snapshot's state, and tokens that the owner before chose.
void Scheduler::SayContinuation(Stream& s) {
  Classes computed_by = s.restore->computed_by;
  if (s.end > 0) AddClass(computed_by, s.previous_class);
  if (!computed_by.empty() && computed_by.back() != class_) ++stats_.class_changes;
  s.previous_class = class_;
  s.report.continuation = JudgeContinuation(computed_by, class_);
  s.report.instruction_class = class_;
  s.report.computed_by = std::move(computed_by);
}

// Of a stream that is here: how it goes on was decided when it came.
RestoreReport Scheduler::ResidentReport(const Stream& s) {
  RestoreReport report;
  report.kind = RestoreReport::Kind::kResident;
  report.reused_tokens = s.consumed;
  report.continuation = s.report.continuation;
  report.instruction_class = s.report.instruction_class;
  report.computed_by = s.report.computed_by;
  return report;
}

void Scheduler::FailRestore(const StreamPtr& s, const absl::Status& status) {
  // Ownership is given back: another worker, or a later attempt, may fare better.
  backend_->Release(s->id, s->epoch, [](absl::Status) {});
  DropStream(s, status);
}

}  // namespace lola::engine
