// Slots: who has one, who waits, who leaves. A stream leaves with its state on the way to the
// shard, so leaving costs a copy.
#include <algorithm>
#include <utility>

#include "services/engine/runtime/scheduler.h"

namespace lola::engine {

void Scheduler::NeedSlot(const StreamPtr& s) {
  if (s->gone() || s->closing || s->phase != Phase::kParked) return;
  s->phase = Phase::kWaiting;
  s->waiting_since = std::chrono::steady_clock::now();
  // Its newest state is still on the way: what comes back must be that one. OnUploaded goes on.
  if (s->upload != nullptr) return;
  slot_queue_.push_back(s);
}

void Scheduler::TrySlots() {
  while (!slot_queue_.empty()) {
    absl::StatusOr<size_t> slot = states_->Acquire();
    if (!slot.ok()) {
      if (!EvictOne()) return;
      continue;
    }
    const StreamPtr s = slot_queue_.front();
    slot_queue_.pop_front();
    s->slot = *slot;
    s->slot_since = std::chrono::steady_clock::now();
    residents_.push_back(s);
    StartRestore(s, std::exchange(s->record_fresh, false));
  }
}

// The quiet stream that was used longest ago gives up its slot. False when there is none, or no
// buffer for its state.
bool Scheduler::EvictOne() {
  StreamPtr victim;
  for (const StreamPtr& s : residents_) {
    if (!s->quiet() || s->upload != nullptr) continue;
    if (victim == nullptr || s->last_used < victim->last_used) victim = s;
  }
  return victim != nullptr && Demote(victim);
}

bool Scheduler::Demote(const StreamPtr& s) {
  if (s->upload != nullptr || s->committed != s->end || s->appending) return false;
  if (s->consumed > s->snapshot_position && !BeginSnapshot(s, "", nullptr)) return false;
  DropSlot(s);
  s->phase = Phase::kParked;
  ++stats_.demotions;
  return true;
}

void Scheduler::DropSlot(const StreamPtr& s) {
  if (s->restore != nullptr && s->restore->stop_download) s->restore->stop_download();
  states_->Release(*s->slot);
  s->slot.reset();
  std::erase(residents_, s);
  s->restore.reset();
  s->settled.clear();
  s->settled.shrink_to_fit();
  s->computed_by.clear();
  s->cached_pairs = s->cache_capacity = 0;
  s->consumed = 0;
  s->preempt = false;
  s->poisoned = false;
  s->tail.Reset(s->end);
}

// Somebody has waited long enough: the running stream that has had its slot longest must go.
void Scheduler::PreemptOne() {
  const Time now = std::chrono::steady_clock::now();
  if (slot_queue_.empty() || now - slot_queue_.front()->waiting_since < options_.slot_slice) return;
  StreamPtr victim;
  for (const StreamPtr& s : residents_) {
    if (s->preempt) return;  // one at a time
    if (s->phase != Phase::kReady || s->closing || s->poisoned || s->quiet()) continue;
    if (now - s->slot_since < options_.slot_slice) continue;
    if (victim == nullptr || s->slot_since < victim->slot_since) victim = s;
  }
  if (victim != nullptr) victim->preempt = true;
}

void Scheduler::Sweep() {
  const Time now = std::chrono::steady_clock::now();
  std::vector<StreamPtr> all;
  for (const auto& [id, s] : streams_) all.push_back(s);
  for (const StreamPtr& s : all) {
    if (s->gone() || s->closing) continue;
    if (s->preempt && slot_queue_.empty()) {
      s->preempt = false;  // nobody waits any more
      Pump(s);
      continue;
    }
    if (s->preempt) {
      if (Demote(s)) {
        ++stats_.preemptions;
        Pump(s);
      }
      continue;
    }
    const bool idle = s->quiet() || (s->phase == Phase::kParked && s->ops.empty());
    if (!idle) {
      // A snapshot that waited for a buffer or for the one before it is tried again.
      if (s->phase == Phase::kReady) Pump(s);
      continue;
    }
    if (s->attachments.empty() && now - s->last_used > options_.idle_release) {
      StartClosing(s, "", nullptr);
    } else if (s->slot && now - s->last_used > options_.idle_demote) {
      Demote(s);
    }
  }
  PreemptOne();
  At(now + std::chrono::milliseconds(slot_queue_.empty() ? 100 : 20), [this] { Sweep(); });
}

}  // namespace lola::engine
