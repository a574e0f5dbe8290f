// One pass of the model over everything that has something to feed.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "services/engine/runtime/batch_plan.h"
#include "services/engine/runtime/scheduler.h"

namespace lola::engine {

bool Scheduler::WantsLogits(const Stream& s) const {
  if (s.phase != Phase::kReady) return false;
  const Op* op = s.active();
  if (op == nullptr) return false;
  if (op->stage == Op::Stage::kSettling) return SettledPosition(s, *op) == s.end;
  if (op->stage != Op::Stage::kGenerating || op->cancelled) return false;
  auto found = attachments_.find(op->attachment);
  if (found == attachments_.end()) return false;
  if (!found->second->sink->Writable()) return false;
  if (found->second->request.durability == Durability::kNone) return true;
  uint64_t waiting = 0;
  for (const Op::Output& output : op->outbox) waiting += output.position >= s.committed;
  return waiting < options_.uncommitted_tokens_max;
}

// The last token of the stream stays unfed until its logits are wanted or something follows it.
uint64_t Scheduler::FeedableRows(const Stream& s, bool wants) const {
  const bool replaying = s.phase == Phase::kRestoring && s.restore && s.restore->log_loaded;
  if (!s.slot || s.poisoned || s.preempt || s.closing) return 0;
  if (s.phase != Phase::kReady && !replaying) return 0;
  uint64_t limit = s.tail.end();
  if (limit == s.end && !wants) limit = std::max(s.consumed, s.end == 0 ? 0 : s.end - 1);
  uint64_t rows = limit - s.consumed;
  if (s.next_checkpoint > s.consumed) rows = std::min(rows, s.next_checkpoint - s.consumed);
  return rows;
}

std::vector<Scheduler::Feed> Scheduler::PlanStep() {
  std::vector<Feed> feeds;
  std::vector<RowDemand> demands;
  const size_t n = residents_.size();
  for (size_t i = 0; i < n; ++i) {
    const StreamPtr& s = residents_[(turn_ + i) % n];
    const bool wants = WantsLogits(*s);
    const uint64_t rows = FeedableRows(*s, wants);
    if (rows == 0) continue;
    const bool decode = wants && rows == 1 && s->consumed + 1 == s->end;
    feeds.push_back({s, 0, wants});
    demands.push_back({rows, decode});
  }
  if (n > 0) turn_ = (turn_ + 1) % n;
  if (feeds.empty()) return feeds;
  const std::vector<uint32_t> rows =
      PlanRows(demands, {options_.step_rows, options_.prefill_rows_beside_decode});
  for (size_t i = 0; i < feeds.size(); ++i) {
    feeds[i].rows = rows[i];
    feeds[i].logits =
        feeds[i].logits && feeds[i].stream->consumed + rows[i] == feeds[i].stream->end;
  }
  std::erase_if(feeds, [](const Feed& feed) { return feed.rows == 0; });
  return feeds;
}

// True when a pass was made.
bool Scheduler::Step() {
  const std::vector<Feed> feeds = PlanStep();
  if (feeds.empty()) return false;
  const size_t vocab = model().geometry().vocab;
  const size_t wanted = size_t(
      std::count_if(feeds.begin(), feeds.end(), [](const Feed& feed) { return feed.logits; }));
  logits_.resize(std::max(logits_.size(), wanted * vocab));
  std::vector<Segment> segments(feeds.size());
  std::vector<memory::MemoryStats> memory_stats(feeds.size());
  size_t logits_used = 0;
  for (size_t i = 0; i < feeds.size(); ++i) {
    const Stream& s = *feeds[i].stream;
    Segment& segment = segments[i];
    segment.record = Record(s);
    segment.slot = *s.slot;
    segment.layout = &*s.layout;
    segment.settings = &s.record.settings;
    segment.tokens = s.tail.Ids(s.consumed, s.consumed + feeds[i].rows);
    segment.logits_rows = feeds[i].logits ? 1 : 0;
    segment.logits = feeds[i].logits ? &logits_[vocab * logits_used++] : nullptr;
    segment.stats = &memory_stats[i];
    const Op* op = s.active();
    if (runner_->samples() && feeds[i].logits && op->stage == Op::Stage::kGenerating) {
      segment.logits = nullptr;
      segment.sampling = &op->sampling;
      segment.recent = RecentTokens(s, *op);
    }
  }
  const Time started = std::chrono::steady_clock::now();
  const absl::Status status = runner_->Step(segments);
  stats_.step_s.Observe(
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
  ++stats_.steps;
  if (absl::IsUnavailable(status)) {
    LoseStates(status);
    return true;
  }
  for (size_t i = 0; i < feeds.size(); ++i) {
    if (!status.ok()) {
      Poison(feeds[i].stream, status);
      continue;
    }
    stats_.memory.Merge(memory_stats[i]);
    if (segments[i].status.ok() && memory_stats[i].nonfinite() > 0) {
      segments[i].status = absl::InternalError(
          absl::StrCat("layer memory: ", memory_stats[i].nonfinite(), " values are not numbers"));
    }
    AfterFeed(feeds[i], segments[i]);
  }
  return true;
}

void Scheduler::AfterFeed(const Feed& feed, const Segment& segment) {
  const StreamPtr& s = feed.stream;
  if (s->gone()) return;  // an earlier stream's end took this one along
  if (!segment.status.ok()) return Poison(s, segment.status);
  s->consumed += feed.rows;
  AddClass(s->computed_by, class_);
  ++(feed.logits ? stats_.decode_tokens : stats_.prefill_tokens);
  stats_.prefill_tokens += feed.rows - 1;
  if (s->consumed >= s->next_checkpoint) Checkpoint(s);
  if (s->phase == Phase::kRestoring) {
    stats_.replayed_tokens += feed.rows;
    s->report.replayed_tokens += feed.rows;
    return ContinueRestore(s);
  }
  if (segment.sampling != nullptr) {
    if (Op* op = s->active(); op != nullptr && op->stage == Op::Stage::kGenerating) {
      AcceptToken(s, *op, segment.sampled);
    }
  } else if (feed.logits) {
    TakeLogits(s, std::span<const float>(segment.logits, model().geometry().vocab));
  }
  if (s->gone() || !s->slot) return;
  const uint64_t needed = std::min(s->consumed, s->committed);
  s->tail.TrimTo(needed - std::min<uint64_t>(needed, kRepetitionWindowMax));
  Pump(s);
}

void Scheduler::TakeLogits(const StreamPtr& s, std::span<const float> logits) {
  Op* op = s->active();
  if (op != nullptr && op->stage == Op::Stage::kGenerating && !op->cancelled)
    return SampleNext(s, *op, logits);
  if (std::any_of(logits.begin(), logits.end(), [](float x) { return std::isnan(x); })) {
    return Poison(
        s, absl::InternalError(absl::StrCat("logits at position ", s->end, " are not numbers")));
  }
  // Kept: a later generation starts from them without feeding anything.
  s->settled.assign(logits.begin(), logits.end());
  s->settled_at = s->end;
}

void Scheduler::SampleNext(const StreamPtr& s, Op& op, std::span<const float> logits) {
  absl::StatusOr<SampledToken> token =
      sampler_.Pick(logits, op.sampling, s->end, RecentTokens(*s, op));
  if (!token.ok()) return Poison(s, token.status());
  AcceptToken(s, op, *token);
}

void Scheduler::AcceptToken(const StreamPtr& s, Op& op, const SampledToken& token) {
  if (absl::Status room = CheckRoom(*s, 1); !room.ok()) return FailOp(op, room);
  s->tail.Append(token.id, TokenAuthor::kModel);
  s->end = s->tail.end();
  TakeToken(*s, op, s->end - 1, token, /*replayed=*/false);
}

std::span<const int32_t> Scheduler::RecentTokens(const Stream& s, const Op& op) const {
  const uint64_t window =
      std::min<uint64_t>(op.sampling.repetition_window, s.tail.end() - s.tail.begin());
  return s.tail.Ids(s.end - window, s.end);
}

// The record cannot be trusted: the operation fails and the next one starts from a good state.
void Scheduler::Poison(const StreamPtr& s, const absl::Status& status) {
  if (s->gone()) return;
  ++stats_.bad_logits;
  if (s->phase == Phase::kRestoring) return FailRestore(s, status);
  s->poisoned = true;
  if (Op* op = s->active(); op != nullptr) {
    if (op->kind == Op::Kind::kGenerate || op->kind == Op::Kind::kAppend) {
      FailOp(*op, status);
    } else {
      if (op->on_snapshot) op->on_snapshot(status);
      if (op->on_inspect) op->on_inspect(status);
      op->on_snapshot = nullptr;
      op->on_inspect = nullptr;
      op->end = s->end;
      op->stage = Op::Stage::kProduced;
    }
  }
  Pump(s);
}

}  // namespace lola::engine
