// What runs the model is gone: a device that failed, a stage of a pipeline that died. Every
// resident state went with it, nothing that was acknowledged did: snapshots and log are at the
// shards. All streams are given back at once, so that another worker, or this one later, restores
// them.
#include "absl/strings/str_cat.h"
#include "services/engine/runtime/scheduler.h"

namespace lola::engine {
namespace {

constexpr std::chrono::milliseconds kRecoveryInterval{50};

}  // namespace

// Called once per round of the loop: at least every sweep.
void Scheduler::CheckRunner() {
  if (lost_.ok()) {
    if (const absl::Status health = runner_->health(); !health.ok()) LoseStates(health);
    return;
  }
  const Time now = std::chrono::steady_clock::now();
  if (now < next_recovery_) return;
  next_recovery_ = now + kRecoveryInterval;
  lost_ = runner_->Recover();
  stats_.model_lost = !lost_.ok();
  std::lock_guard lock(published_mu_);
  published_lost_ = lost_;
}

void Scheduler::LoseStates(const absl::Status& status) {
  lost_ = status;
  next_recovery_ = std::chrono::steady_clock::now();
  ++stats_.model_losses;
  stats_.model_lost = true;
  {
    // Before anybody is told: who asks because of that must hear it too.
    std::lock_guard lock(published_mu_);
    published_lost_ = lost_;
  }
  std::vector<StreamPtr> all;
  for (const auto& [id, s] : streams_) all.push_back(s);
  for (const StreamPtr& s : all) {
    if (s->gone()) continue;
    if (s->closing) {
      // On its way out already: it leaves without a last snapshot, as soon as the log has its end.
      s->poisoned = s->slot.has_value();
    } else if (s->phase != Phase::kAcquiring) {
      backend_->Release(s->id, s->epoch, [](absl::Status) {});
      DropStream(s, status);
    }
  }
}

}  // namespace lola::engine
