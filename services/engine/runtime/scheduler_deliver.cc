// Delivery: what is committed leaves for the clients, operations end in the order they came.
#include <algorithm>

#include "services/engine/runtime/scheduler.h"

namespace lola::engine {
namespace {

constexpr size_t kEventTokensMax = 4096;  // a continued generation may find many in the log

double Seconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

void Scheduler::Deliver(const StreamPtr& s) {
  while (!s->gone() && !s->ops.empty()) {
    Op& op = *s->ops.front();
    auto found = attachments_.find(op.attachment);
    const AttachmentPtr attachment = found == attachments_.end() ? nullptr : found->second;
    if (!DeliverOutbox(*s, op, attachment.get())) return;
    if (op.stage == Op::Stage::kFailed) {
      const absl::Status status = op.status;
      queued_tokens_ -= op.ids.size();
      if (op.on_snapshot) op.on_snapshot(status);
      if (op.on_inspect) op.on_inspect(status);
      s->ops.pop_front();
      if (attachment != nullptr) FailAttachment(attachment, status);
      continue;
    }
    if (op.stage != Op::Stage::kProduced) return;
    // An append is done when it is durable and the state has caught up with it (all but the last
    // token of the stream): the client's pace follows the engine's.
    const bool none = attachment != nullptr && attachment->request.durability == Durability::kNone;
    if (s->committed < op.end && !none) return;
    if (op.kind == Op::Kind::kAppend && s->slot && s->consumed + 1 < op.end) return;
    if (attachment != nullptr) EmitDone(*s, op, *attachment);
    s->ops.pop_front();
    s->last_used = std::chrono::steady_clock::now();
  }
}

// True when nothing of this operation is held back any more.
bool Scheduler::DeliverOutbox(Stream& s, Op& op, Attachment* attachment) {
  if (attachment == nullptr) {
    op.outbox.clear();
    return true;
  }
  const uint64_t limit = attachment->request.durability == Durability::kNone ? s.end : s.committed;
  const Time now = std::chrono::steady_clock::now();
  while (!op.outbox.empty() && op.outbox.front().position < limit) {
    const Op::Output first = op.outbox.front();
    TokensEvent event;
    event.seq = op.seq;
    event.position = first.position;
    event.replayed = first.replayed;
    while (!op.outbox.empty() && op.outbox.front().position < limit &&
           op.outbox.front().replayed == first.replayed && event.ids.size() < kEventTokensMax) {
      Op::Output& output = op.outbox.front();
      if (output.position < attachment->cursor) {
        event.position = output.position + 1;
      } else {
        event.ids.push_back(output.token.id);
        event.text += output.text;
        if (!output.replayed) stats_.commit_wait_s.Observe(Seconds(now - output.sampled));
        if (op.generate.logprobs && !output.replayed) {
          event.logprobs.push_back(output.token.logprob);
        }
      }
      op.outbox.pop_front();
    }
    if (event.ids.empty()) continue;
    CountDelivery(op, *attachment, first.replayed, event.ids.size(), now);
    attachment->cursor = std::max(attachment->cursor, event.position + event.ids.size());
    attachment->sink->OnTokens(std::move(event));
  }
  return op.outbox.empty();
}

void Scheduler::CountDelivery(Op& op, Attachment& attachment, bool replayed, size_t tokens,
                              Time now) {
  stats_.delivered_tokens += tokens;
  if (replayed) return;
  if (!op.first_delivered) {
    stats_.time_to_first_token_s.Observe(Seconds(now - op.received));
  } else if (attachment.last_delivery) {
    const double gap = Seconds(now - *attachment.last_delivery) / double(tokens);
    for (size_t i = 0; i < tokens; ++i) stats_.inter_token_s.Observe(gap);
  }
  op.first_delivered = true;
  attachment.last_delivery = now;
}

void Scheduler::EmitDone(Stream& s, Op& op, Attachment& attachment) {
  if (!op.last_text.empty()) {
    TokensEvent event;
    event.seq = op.seq;
    event.position = op.end;
    event.text = std::move(op.last_text);
    attachment.sink->OnTokens(std::move(event));
  }
  if (s.committed > attachment.durable_told) {
    attachment.durable_told = s.committed;
    attachment.sink->OnDurable(s.committed);
  }
  DoneEvent done;
  done.seq = op.seq;
  done.append = op.kind == Op::Kind::kAppend;
  done.reason = op.reason;
  done.position = op.end;
  (done.append ? done.appended_tokens : done.generated_tokens) = op.generated;
  done.state_bytes = s.layout->stride_bytes();
  attachment.cursor = std::max(attachment.cursor, op.end);
  attachment.sink->OnDone(std::move(done));
}

}  // namespace lola::engine
