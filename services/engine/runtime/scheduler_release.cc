// Leaving: a stream is brought to rest, written down and given back; a worker does so with all.
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/engine/runtime/scheduler.h"

namespace lola::engine {

void Scheduler::Release(const std::string& stream_id, std::string target,
                        Engine::Callback<ReleaseResult> done) {
  auto found = streams_.find(stream_id);
  if (found == streams_.end()) {
    return done(absl::NotFoundError(absl::StrCat("stream ", stream_id, " is not owned here")));
  }
  StartClosing(found->second, std::move(target), std::move(done));
}

void Scheduler::StartClosing(const StreamPtr& s, std::string target,
                             Engine::Callback<ReleaseResult> done) {
  if (!s->closing) {
    s->closing.emplace();
    s->closing->target = std::move(target);
    closing_.push_back(s);
    std::erase(slot_queue_, s);
    if (s->phase == Phase::kWaiting) s->phase = Phase::kParked;
  }
  if (done) s->closing->done.push_back(std::move(done));
  ProgressClosing(s);
}

// Called until it is done: after every round of the loop. Feeding has stopped already (Step skips
// closing streams), so a stream comes to rest as soon as its last tokens are acknowledged.
void Scheduler::ProgressClosing(const StreamPtr& s) {
  if (s->gone() || !s->closing || s->closing->releasing) return;
  Closing& closing = *s->closing;
  if (s->phase == Phase::kAcquiring && !drain_expired_) return;
  if (drain_expired_) return FinishClosing(s);
  if (s->phase == Phase::kRestoring) {
    DropSlot(s);
    s->phase = Phase::kParked;
  }
  if (s->committed < s->end || s->appending || s->upload != nullptr) return;
  if (s->slot && !s->poisoned && s->consumed > s->snapshot_position && !closing.skip_snapshot) {
    closing.skip_snapshot = BeginSnapshot(s, "", nullptr);  // once, then its end is awaited
    return;
  }
  if (s->slot) {
    DropSlot(s);
    s->phase = Phase::kParked;
  }
  closing.releasing = true;
  SendRelease(s);
}

void Scheduler::SendRelease(const StreamPtr& s) {
  backend_->Release(
      s->id, s->epoch, Posted<absl::Status>([this, s](absl::Status status) {
        if (s->gone()) return;
        if (!status.ok() && !drain_expired_ && RetryLater(s->closing->backoff, status, [this, s] {
              if (!s->gone()) SendRelease(s);
            })) {
          return;
        }
        // A release that cannot be said is said by the lease running out.
        if (absl::IsAborted(status)) ++stats_.fenced_writes;
        FinishClosing(s);
      }));
}

void Scheduler::FinishClosing(const StreamPtr& s) {
  ++stats_.released_streams;
  ++drained_;
  ReleaseResult result{s->end, s->newest_snapshot};
  const auto waiting = std::exchange(s->closing->done, {});
  DropStream(s, absl::AbortedError("released"));
  for (const auto& done : waiting) done(result);
}

void Scheduler::Drain(std::chrono::milliseconds deadline, std::function<void(uint32_t)> done) {
  if (!draining_) {
    draining_ = true;
    drained_ = 0;
  }
  // The earliest of several deadlines holds: a SIGTERM does not wait for an operator's long one.
  At(std::chrono::steady_clock::now() + deadline, [this] { drain_expired_ = true; });
  on_drained_.push_back(std::move(done));
  std::vector<StreamPtr> all;
  for (const auto& [id, s] : streams_) all.push_back(s);
  for (const StreamPtr& s : all) StartClosing(s, "", nullptr);
  CheckDrained();
}

void Scheduler::CheckDrained() {
  if (!draining_ || !streams_.empty()) return;
  for (auto& done : std::exchange(on_drained_, {})) done(drained_);
}

void Scheduler::RenewLeases() {
  At(std::chrono::steady_clock::now() + options_.lease_renewal, [this] { RenewLeases(); });
  if (streams_.empty()) return;
  // Whether the round before was answered or not: one shard that hangs must not cost the leases at
  // the others. The backend's deadline bounds how many rounds are under way.
  backend_->Renew(Posted<absl::Status>([this](absl::Status status) {
    if (!status.ok()) ++stats_.lease_renewal_failures;
  }));
}

}  // namespace lola::engine
