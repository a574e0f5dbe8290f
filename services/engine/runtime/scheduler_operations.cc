// Operations: queueing, starting in order, matching against what the log already holds.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/engine/runtime/scheduler.h"

namespace lola::engine {

void Scheduler::AddOp(AttachmentId id, std::unique_ptr<Op> op) {
  auto found = attachments_.find(id);
  if (found == attachments_.end()) return;  // ended meanwhile; its sink knows
  const AttachmentPtr attachment = found->second;
  const StreamPtr s = attachment->stream;
  const uint64_t tokens = op->ids.size();
  const uint64_t most = std::min(options_.queued_tokens_per_stream_max, options_.queued_tokens_max);
  if (tokens > most) {  // waiting would not help
    ++stats_.rejected_ops;
    return FailAttachment(
        attachment, absl::InvalidArgumentError(absl::StrCat("append: ", tokens, " tokens, at most ",
                                                            most, " fit in one")));
  }
  uint64_t queued = 0;
  size_t ops = attachment->early.size();
  for (const auto& other : attachment->early) queued += other->ids.size();
  if (s != nullptr) {
    ops += s->ops.size();
    for (const auto& other : s->ops) queued += other->ids.size();
  }
  if (ops >= options_.ops_per_stream_max) {
    ++stats_.rejected_ops;
    return FailAttachment(attachment, OpsFull(ops));
  }
  std::string full;
  if (queued + tokens > options_.queued_tokens_per_stream_max) {
    full = absl::StrCat("queued tokens of the stream: ", queued + tokens, " of at most ",
                        options_.queued_tokens_per_stream_max);
  } else if (queued_tokens_ + tokens > options_.queued_tokens_max) {
    full = absl::StrCat("queued tokens of the worker: ", queued_tokens_ + tokens, " of at most ",
                        options_.queued_tokens_max);
  }
  if (!full.empty()) {
    ++stats_.rejected_ops;
    return FailAttachment(
        attachment, absl::ResourceExhaustedError(
                        absl::StrCat(full, "; retry in ", options_.retry_hint.count(), " ms")));
  }
  op->attachment = id;
  queued_tokens_ += tokens;
  if (s == nullptr) return attachment->early.push_back(std::move(op));
  ++(op->kind == Op::Kind::kAppend ? stats_.appends : stats_.generations);
  s->ops.push_back(std::move(op));
  s->last_used = std::chrono::steady_clock::now();
  Pump(s);
}

absl::Status Scheduler::OpsFull(size_t ops) const {
  return absl::ResourceExhaustedError(
      absl::StrCat("operations of the stream: ", ops, " of at most ", options_.ops_per_stream_max,
                   "; retry in ", options_.retry_hint.count(), " ms"));
}

void Scheduler::AddInternalOp(std::string stream_id, std::unique_ptr<Op> op) {
  auto box = std::make_shared<std::unique_ptr<Op>>(std::move(op));  // closures must be copyable
  OwnStream(stream_id, /*takeover=*/false, nullptr, std::make_shared<Backoff>(),
            [this, stream_id, box](absl::StatusOr<StreamPtr> opened) {
              absl::Status status = opened.status();
              if (status.ok() && (*opened)->closing) {
                status = absl::UnavailableError(absl::StrCat(stream_id, " is leaving"));
              }
              if (status.ok() && (*opened)->ops.size() >= options_.ops_per_stream_max) {
                ++stats_.rejected_ops;
                status = OpsFull((*opened)->ops.size());
              }
              Op& op = **box;
              if (!status.ok()) {
                if (op.on_snapshot) op.on_snapshot(status);
                if (op.on_inspect) op.on_inspect(status);
                return;
              }
              op.received = std::chrono::steady_clock::now();
              (*opened)->ops.push_back(std::move(*box));
              (*opened)->last_used = std::chrono::steady_clock::now();
              Pump(*opened);
            });
}

void Scheduler::Cancel(AttachmentId id, uint64_t seq) {
  auto found = attachments_.find(id);
  if (found == attachments_.end()) return;
  const StreamPtr s = found->second->stream;
  for (const auto& op : found->second->early) {
    if (op->seq == seq) op->cancelled = true;
  }
  if (s == nullptr) return;
  for (const auto& op : s->ops) {
    if (op->attachment != id || op->seq != seq || op->kind != Op::Kind::kGenerate) continue;
    op->cancelled = true;
    if (op->stage == Op::Stage::kGenerating) Finish(*s, *op, FinishReason::kCancelled, s->end);
  }
  Pump(s);
}

void Scheduler::Pump(const StreamPtr& s) {
  if (s->gone()) return;
  if (s->poisoned && s->committed == s->end && !s->appending) {
    s->poisoned = false;
    DropSlot(s);
    s->phase = Phase::kParked;
  }
  if (s->phase == Phase::kParked && s->active() != nullptr && !s->closing) NeedSlot(s);
  if (s->phase == Phase::kReady && !s->poisoned) StartOps(s);
  if (!s->gone()) Deliver(s);
}

void Scheduler::StartOps(const StreamPtr& s) {
  while (s->phase == Phase::kReady && !s->closing && !s->preempt) {
    Op* op = s->active();
    if (op == nullptr) return;
    if (auto a = attachments_.find(op->attachment); a != attachments_.end()) {
      if (!a->second->opened || a->second->replay) return;  // what is logged goes first
    }
    const bool started = op->stage == Op::Stage::kQueued || op->stage == Op::Stage::kFetched;
    if (op->kind == Op::Kind::kAppend) {
      if (!started || !StartAppend(s, *op)) return;
    } else if (op->kind == Op::Kind::kGenerate) {
      if (!started || !StartGenerate(s, *op)) return;
    } else if (!StartSettled(s, *op)) {
      return;
    }
  }
}

bool Scheduler::NeedLog(const StreamPtr& s, Op& op, uint64_t from, uint64_t to) {
  to = std::min(to, s->tail.begin());
  if (from >= to) return false;
  const bool there = op.stage == Op::Stage::kFetched && !op.fetched.empty() &&
                     op.fetched.back().position + op.fetched.back().ids.size() >= to;
  if (there) return false;  // else the stream left its slot meanwhile: its tail begins later now
  op.stage = Op::Stage::kFetching;
  op.fetch = ++next_fetch_;
  FetchLog(s, op.fetch, from, to);
  return true;
}

// By number: an operation that was dropped leaves its address to others.
Op* Scheduler::Fetching(const Stream& s, uint64_t fetch) {
  for (const auto& op : s.ops) {
    if (op->stage == Op::Stage::kFetching && op->fetch == fetch) return op.get();
  }
  return nullptr;
}

void Scheduler::FetchLog(const StreamPtr& s, uint64_t fetch, uint64_t from, uint64_t to) {
  backend_->ReadTokens(
      s->id, from, to,
      Posted<absl::StatusOr<std::vector<TokenRun>>>(
          [this, s, fetch, from, to](absl::StatusOr<std::vector<TokenRun>> runs) {
            Op* op = Fetching(*s, fetch);
            if (op == nullptr) return;
            if (runs.ok()) {
              op->fetched = std::move(*runs);
              op->stage = Op::Stage::kFetched;
            } else if (RetryLater(op->backoff, runs.status(), [this, s, fetch, from, to] {
                         if (Fetching(*s, fetch) != nullptr) FetchLog(s, fetch, from, to);
                       })) {
              return;
            } else {
              FailOp(*op, runs.status());
            }
            Pump(s);
          }));
}

std::pair<int32_t, TokenAuthor> Scheduler::Logged(const Stream& s, const Op& op,
                                                  uint64_t position) const {
  for (const TokenRun& run : op.fetched) {
    if (position >= run.position && position < run.position + run.ids.size()) {
      return {run.ids[size_t(position - run.position)], run.author};
    }
  }
  return {s.tail.Ids(position, position + 1)[0], s.tail.AuthorAt(position)};
}

absl::Status Scheduler::CheckRoom(const Stream& s, uint64_t tokens) const {
  const memory::LolaSettings& settings = s.record.settings;
  if (settings.mode != memory::Mode::kSoftmax || s.end + tokens <= settings.window) {
    return absl::OkStatus();
  }
  absl::Status full = absl::ResourceExhaustedError(absl::StrCat(
      "softmax window: ", s.end, " + ", tokens, " tokens, it holds ", settings.window));
  full.SetPayload(kLastingPayload, absl::Cord());
  return full;
}

// True when the next operation may start.
bool Scheduler::StartAppend(const StreamPtr& s, Op& op) {
  const uint64_t base = op.base.value_or(s->end);
  if (base == 0 && op.ids_at_start) {
    queued_tokens_ -= op.ids.size();
    op.ids = *std::exchange(op.ids_at_start, std::nullopt);
    queued_tokens_ += op.ids.size();
  }
  const uint64_t n = op.ids.size();
  if (base > s->end) {
    FailOp(op, absl::FailedPreconditionError(
                   absl::StrCat("base_position: ", base, ", the stream ends at ", s->end)));
    return true;
  }
  const uint64_t overlap = std::min(s->end - base, n);
  if (overlap == 0 && s->end - s->consumed >= options_.unconsumed_tokens_max) return false;
  if (overlap > 0 && NeedLog(s, op, base, base + overlap)) return false;
  for (uint64_t i = 0; i < overlap; ++i) {
    const int32_t logged = Logged(*s, op, base + i).first;
    if (logged == op.ids[i]) continue;
    FailOp(op, absl::FailedPreconditionError(absl::StrCat("append at base_position ", base,
                                                          ": token ", op.ids[i], " at position ",
                                                          base + i, ", the log has ", logged)));
    return true;
  }
  const uint32_t vocab = model().geometry().vocab;
  for (int32_t id : op.ids) {
    if (id >= 0 && uint32_t(id) < vocab) continue;
    FailOp(op, absl::InvalidArgumentError(
                   absl::StrCat("token id: ", id, ", the vocabulary has ", vocab)));
    return true;
  }
  if (absl::Status room = CheckRoom(*s, n - overlap); !room.ok()) {
    FailOp(op, room);
    return true;
  }
  s->tail.Append(std::span(op.ids).subspan(size_t(overlap)), TokenAuthor::kClient);
  s->end = s->tail.end();
  stats_.appended_tokens += n - overlap;
  queued_tokens_ -= n;
  op.generated = n;
  op.ids.clear();
  op.fetched.clear();
  op.end = base + n;
  op.stage = Op::Stage::kProduced;
  return true;
}

bool Scheduler::StartGenerate(const StreamPtr& s, Op& op) {
  const uint64_t base = op.base.value_or(s->end);
  if (base > s->end) {
    FailOp(op, absl::FailedPreconditionError(
                   absl::StrCat("base_position: ", base, ", the stream ends at ", s->end)));
    return true;
  }
  if (s->end == 0) {
    FailOp(op, absl::FailedPreconditionError("generate: the stream is empty, append first"));
    return true;
  }
  op.sampling = op.generate.sampling.Over(s->record.sampling);
  StopRules rules{op.generate.max_tokens, op.generate.stops, model().config().eos,
                  op.generate.ignore_eos};
  absl::Status valid = rules.Validate();
  if (valid.ok()) valid = op.sampling.Validate();
  if (!valid.ok()) {
    FailOp(op, valid);
    return true;
  }
  if (base < s->end && NeedLog(s, op, base, s->end)) return false;
  const bool known = s->settled_at == s->end && !s->settled.empty();
  // Coming back from an earlier state, see below, needs the whole log at the shard.
  if (s->consumed == s->end && !known && s->committed < s->end) return false;
  op.base = base;
  op.matcher.emplace(std::move(rules), *tokenizer_);
  op.stage = Op::Stage::kGenerating;
  if (ReplayLogged(*s, op)) return true;
  if (op.cancelled) {
    Finish(*s, op, FinishReason::kCancelled, s->end);
    return true;
  }
  if (absl::Status room = CheckRoom(*s, 1); !room.ok()) {
    FailOp(op, room);
    return true;
  }
  if (s->consumed < s->end) return false;  // the next step brings the logits
  if (known) {
    const std::vector<float> logits = std::exchange(s->settled, {});
    SampleNext(s, op, logits);
    return op.stage != Op::Stage::kGenerating;
  }
  RestoreBelowEnd(s);  // the state has consumed the last token and its logits are gone
  return false;
}

// Comes back from an earlier state, to stand before the last token again.
void Scheduler::RestoreBelowEnd(const StreamPtr& s) {
  s->restore_below_end = true;
  DropSlot(s);
  s->phase = Phase::kParked;
  NeedSlot(s);
}

// Tokens of this generation that are logged already. True when they end it.
bool Scheduler::ReplayLogged(Stream& s, Op& op) {
  for (uint64_t position = *op.base; position < s.end; ++position) {
    const auto [id, author] = Logged(s, op, position);
    if (author != TokenAuthor::kModel) {
      // A later append stands here: the generation had been cancelled before it.
      Finish(s, op, FinishReason::kCancelled, position);
      return true;
    }
    TakeToken(s, op, position, SampledToken{id, 0.0f}, /*replayed=*/true);
    if (op.stage != Op::Stage::kGenerating) return true;
  }
  op.fetched.clear();
  return false;
}

void Scheduler::TakeToken(Stream& s, Op& op, uint64_t position, SampledToken token, bool replayed) {
  StopMatcher::Verdict verdict = op.matcher->Push(token.id);
  ++op.generated;
  op.outbox.push_back(
      {position, token, std::move(verdict.text), replayed, std::chrono::steady_clock::now()});
  if (verdict.reason != FinishReason::kNone) Finish(s, op, verdict.reason, position + 1);
}

void Scheduler::Finish(Stream& s, Op& op, FinishReason reason, uint64_t end) {
  if (reason == FinishReason::kCancelled) {
    ++stats_.cancelled;
    if (op.matcher) op.last_text = op.matcher->Flush();
  }
  op.reason = reason;
  op.end = end;
  op.stage = Op::Stage::kProduced;
  op.fetched.clear();
  s.last_used = std::chrono::steady_clock::now();
}

void Scheduler::FailOp(Op& op, absl::Status status) {
  ++stats_.failed_ops;
  op.status = std::move(status);
  op.stage = Op::Stage::kFailed;
}

}  // namespace lola::engine
