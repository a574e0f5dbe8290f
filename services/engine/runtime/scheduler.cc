#include "services/engine/runtime/scheduler.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace lola::engine {
namespace {

constexpr std::chrono::milliseconds kSweepInterval{100};
constexpr std::chrono::milliseconds kOccupancyInterval{1000};

std::array<std::byte, 16> FingerprintBytes(const Model& model) {
  auto hash = memory::HashFromHex(model.fingerprint(), "model fingerprint");
  LOLA_CHECK(hash.ok()) << hash.status().ToString();
  std::array<std::byte, 16> bytes;
  std::memcpy(bytes.data(), hash->data(), bytes.size());
  return bytes;
}

// Streams whose cached pairs are counted at once where their states are not in this process.
constexpr size_t kCountedAtOnce = 8;

uint64_t CacheCapacity(const Stream& s) {
  uint64_t pairs = 0;
  const memory::ModelGeometry& geometry = s.layout->geometry();
  for (uint32_t layer = 0; layer < geometry.layers; ++layer) {
    pairs += uint64_t{geometry.query_heads} * s.record.settings.CachePairs(layer);
  }
  return pairs;
}

bool Transient(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsResourceExhausted(status) || absl::IsCancelled(status);
}

}  // namespace

Scheduler::Scheduler(const EngineOptions& options, std::unique_ptr<ModelRunner> runner,
                     std::shared_ptr<const Tokenizer> tokenizer,
                     std::shared_ptr<StreamBackend> backend, std::shared_ptr<ResidentStates> states)
    : options_(options),
      runner_(std::move(runner)),
      tokenizer_(std::move(tokenizer)),
      backend_(std::move(backend)),
      states_(std::move(states)),
      fingerprint_(FingerprintBytes(runner_->model())),
      class_(runner_->instruction_class()),
      uploader_(backend_, states_, options.snapshot_buffers, options.slot_bytes),
      shards_(backend_->shards()) {
  stats_.slots = options_.slots;
  published_ = stats_;
  published_at_ = std::chrono::steady_clock::now();
  thread_ = std::thread([this] { Loop(); });
}

Scheduler::~Scheduler() {
  mailbox_->Close();
  thread_.join();
  for (const auto& [id, s] : streams_) {  // they and what they own point at each other
    s->attachments.clear();
    s->upload.reset();
    s->ops.clear();
  }
}

AttachmentId Scheduler::NewAttachment(AttachRequest request, std::shared_ptr<EventSink> sink) {
  auto attachment = std::make_shared<Attachment>();
  attachment->id = next_attachment_++;
  attachment->request = std::move(request);
  attachment->sink = std::move(sink);
  Post([this, attachment] { StartAttach(attachment); });
  return attachment->id;
}

void Scheduler::Loop() {
  const auto now = std::chrono::steady_clock::now();
  At(now + kSweepInterval, [this] { Sweep(); });
  At(now + kOccupancyInterval, [this] { CountNow(); });
  At(now + options_.lease_renewal, [this] { RenewLeases(); });
  std::vector<Mailbox::Task> tasks;
  while (mailbox_->Take(&tasks, NextWake())) {
    for (Mailbox::Task& task : tasks) task();
    tasks.clear();
    RunTimers();
    CheckRunner();
    if (!slot_queue_.empty()) TrySlots();
    // Copies: both calls may drop streams.
    for (const StreamPtr& s : std::vector<StreamPtr>(closing_)) ProgressClosing(s);
    KickAppends();
    more_work_ = Step();
    KickAppends();
    PublishStatistics();
  }
}

Time Scheduler::NextWake() const {
  if (more_work_ || timers_.empty()) return std::chrono::steady_clock::now();
  return timers_.begin()->first;
}

void Scheduler::RunTimers() {
  const Time now = std::chrono::steady_clock::now();
  while (!timers_.empty() && timers_.begin()->first <= now) {
    Mailbox::Task task = std::move(timers_.begin()->second);
    timers_.erase(timers_.begin());
    task();
  }
}

bool Scheduler::RetryLater(Backoff& backoff, const absl::Status& status, Mailbox::Task again) {
  if (!Transient(status)) return false;
  const Time now = std::chrono::steady_clock::now();
  if (!backoff.since) {
    backoff.since = now;
    backoff.delay = options_.retry_first;
  } else {
    backoff.delay = std::min(backoff.delay * 2, options_.retry_max);
  }
  if (now + backoff.delay > *backoff.since + options_.unavailable_deadline) return false;
  At(now + backoff.delay, std::move(again));
  return true;
}

EngineStatistics Scheduler::statistics() const {
  std::lock_guard lock(published_mu_);
  return published_;
}

absl::Status Scheduler::health() const {
  std::lock_guard lock(published_mu_);
  if (!published_lost_.ok()) return published_lost_;
  const auto still = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::steady_clock::now() - published_at_);
  if (still <= options_.stuck_after) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("the model's pass has not come back for ", still.count(), " ms"));
}

void Scheduler::PublishStatistics() {
  stats_.slots_used = uint32_t(residents_.size());
  stats_.open_streams = uint32_t(streams_.size());
  stats_.attachments = uint32_t(attachments_.size());
  stats_.waiting_for_slot = uint32_t(slot_queue_.size());
  stats_.queued_tokens = queued_tokens_;
  stats_.draining = draining_;
  stats_.runner = runner_->counters();
  stats_.uncommitted_tokens = 0;
  stats_.uncommitted_tokens_of_one_max = 0;
  stats_.queued_ops = 0;
  for (const StreamPtr& s : residents_) {
    const uint64_t lag = s->end - s->committed;
    stats_.uncommitted_tokens += lag;
    stats_.uncommitted_tokens_of_one_max = std::max(stats_.uncommitted_tokens_of_one_max, lag);
    stats_.queued_ops += uint32_t(s->ops.size());
  }
  for (const StreamPtr& s : slot_queue_) stats_.queued_ops += uint32_t(s->ops.size());
  std::lock_guard lock(published_mu_);
  published_ = stats_;
  published_at_ = std::chrono::steady_clock::now();
}

void Scheduler::CountNow() {
  std::vector<StreamPtr> ready;
  for (const StreamPtr& s : residents_) {
    const bool caches = s->phase == Phase::kReady && s->slot && !s->poisoned &&
                        s->record.settings.mode == memory::Mode::kLola;
    if (caches) ready.push_back(s);
  }
  // On a device, or at stages, a count costs a step's pause: they take turns there.
  const bool here = !ready.empty() && !Record(*ready.front()).empty();
  const size_t now = here ? ready.size() : std::min(ready.size(), kCountedAtOnce);
  std::vector<ResidentStates::Held> states;
  std::vector<Stream*> counted;
  for (size_t i = 0; i < now; ++i) {
    Stream& s = *ready[(count_turn_ + i) % ready.size()];
    counted.push_back(&s);
    states.push_back({*s.slot, &*s.layout});
  }
  count_turn_ += now;
  std::vector<uint64_t> cached(now);
  // When what holds the states is lost, the loop finds out by itself.
  if (now > 0 && states_->CountCached(states, cached).ok()) {
    for (size_t i = 0; i < now; ++i) {
      counted[i]->cached_pairs = cached[i];
      counted[i]->cache_capacity = CacheCapacity(*counted[i]);
    }
  }
  stats_.cached_pairs = stats_.cache_capacity = 0;
  for (const StreamPtr& s : ready) {
    stats_.cached_pairs += s->cached_pairs;
    stats_.cache_capacity += s->cache_capacity;
  }
  At(std::chrono::steady_clock::now() + kOccupancyInterval, [this] { CountNow(); });
}

std::span<std::byte> Scheduler::Record(const Stream& s) const {
  return states_->record(*s.slot, s.layout->stride_bytes());
}

}  // namespace lola::engine
