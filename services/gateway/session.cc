#include "services/gateway/session.h"

#include <algorithm>
#include <utility>

#include "services/rpc/continuation_text.h"
#include "services/rpc/limits.h"

namespace lola::gateway {

Session::Session(v1::StreamRequest open_request, GatewayCounts* counts)
    : open_(std::move(open_request)), counts_(counts), resuming_(open_.open().resume()) {}

bool Session::CanTakeMore() const {
  return ops_.size() < rpc::kOpsInFlightMax && op_bytes_ < rpc::kOpBytesInFlightMax;
}

void Session::AddRequest(v1::StreamRequest request) {
  if (request.has_cancel()) {
    for (Op& op : ops_) op.cancelled = op.cancelled || op.request.has_generate();
    return;
  }
  Op op;
  op.seq = next_seq_++;
  op.bytes = request.ByteSizeLong();
  op.request = std::move(request);
  op.since = std::chrono::steady_clock::now();
  op_bytes_ += op.bytes;
  ops_.push_back(std::move(op));
}

v1::ServeRequest Session::Attach(bool takeover) {
  worker_opened_ = false;
  for (Op& op : ops_) {
    if (op.sent) careful_until_ = op.seq;
    op.sent = op.cancel_sent = false;
  }
  v1::ServeRequest request;
  *request.mutable_attach()->mutable_open() = open_.open();
  request.mutable_attach()->set_takeover(takeover);
  if (opened_) {
    request.mutable_attach()->mutable_open()->set_after_position(delivered_);
    // It exists: making it anew after a concurrent delete would be another stream.
    request.mutable_attach()->mutable_open()->set_create_if_missing(false);
    // A part of the first operation may be delivered: only its own run knows the text of the rest.
    // Before it, while the client waits for what it asked for by after_position, the log does.
    const bool cut = !ops_.empty() && ops_.front().seq <= careful_until_ && delivered_ >= end_;
    request.mutable_attach()->mutable_open()->set_resume(cut || resuming_);
  }
  return request;
}

std::optional<v1::ServeRequest> Session::NextToWorker() {
  if (!worker_opened_) return std::nullopt;
  for (Op& op : ops_) {
    v1::ServeRequest request;
    if (op.sent && op.cancelled && !op.cancel_sent) {
      op.cancel_sent = true;
      request.set_cancel_seq(op.seq);
      return request;
    }
    if (op.sent) continue;
    const bool first = &op == &ops_.front();
    const bool careful = op.seq <= careful_until_ || ops_.front().seq <= careful_until_;
    if (careful && !first) return std::nullopt;
    v1::WorkerOp& run = *request.mutable_run();
    run.set_seq(op.seq);
    run.set_cancelled(op.cancelled);
    const v1::StreamRequest& asked = op.request;
    if (asked.has_append()) *run.mutable_append() = asked.append();
    if (asked.has_generate()) *run.mutable_generate() = asked.generate();
    const bool own_base = asked.has_append() ? asked.append().has_base_position()
                                             : asked.generate().has_base_position();
    if (own_base) {
      run.set_has_base(true);
      run.set_base_position(asked.has_append() ? asked.append().base_position()
                                               : asked.generate().base_position());
    } else if (op.seq <= careful_until_) {
      run.set_has_base(true);
      run.set_base_position(end_);
    }
    op.sent = true;
    op.cancel_sent = op.cancelled;
    return request;
  }
  return std::nullopt;
}

absl::Status Session::OnReply(v1::ServeReply reply, std::vector<v1::StreamReply>* replies) {
  switch (reply.event_case()) {
    case v1::ServeReply::kOpened:
      return OnOpened(std::move(reply), replies);
    case v1::ServeReply::kTokens:
      return OnTokens(std::move(reply), replies);
    case v1::ServeReply::kDone:
      return OnDone(std::move(reply), replies);
    case v1::ServeReply::kDurablePosition: {
      v1::StreamReply& out = replies->emplace_back();
      if (const Op* op = FindOp(reply.seq()); op != nullptr) {
        out.set_request_id(op->request.request_id());
      }
      out.set_durable_position(reply.durable_position());
      return absl::OkStatus();
    }
    case v1::ServeReply::kReleased:
    case v1::ServeReply::EVENT_NOT_SET:
      break;
  }
  return absl::OkStatus();  // a newer worker's event that this gateway does not know
}

absl::Status Session::OnOpened(v1::ServeReply reply, std::vector<v1::StreamReply>* replies) {
  worker_opened_ = true;
  v1::StreamReply& out = replies->emplace_back();
  out.set_request_id(open_.request_id());
  const uint64_t position = reply.opened().position();
  const std::string worker = reply.opened().restore().worker();
  if (!opened_) {
    opened_ = true;
    end_ = position;
    delivered_ = open().has_after_position() ? open().after_position() : position;
    replay_end_ = open().has_after_position() ? position : 0;
    *out.mutable_opened() = std::move(*reply.mutable_opened());
  } else {
    if (position < delivered_) {
      replies->pop_back();
      return Rewound(position);
    }
    reattached_ = true;
    if (ops_.empty()) end_ = position;
    v1::Notice& notice = *out.mutable_notice();
    notice.set_kind(worker == worker_ ? v1::Notice::KIND_RESTORED : v1::Notice::KIND_MOVED);
    notice.set_text("stream '" + open().stream_id() + "' is served by " + worker);
    if (const std::string how = rpc::ContinuationText(reply.opened().restore()); !how.empty()) {
      notice.mutable_text()->append("; " + how);
    }
    *notice.mutable_restore() = std::move(*reply.mutable_opened()->mutable_restore());
  }
  worker_ = worker;
  return absl::OkStatus();
}

absl::Status Session::OnTokens(v1::ServeReply reply, std::vector<v1::StreamReply>* replies) {
  const v1::TokenOutput& tokens = reply.tokens();
  const uint64_t position = tokens.position();
  const int count = tokens.ids_size();
  Op* op = FindOp(reply.seq());
  if (op == nullptr && reply.seq() != 0) {
    return absl::InternalError("worker sent tokens of operation " + std::to_string(reply.seq()) +
                               " that is not running");
  }
  // Tokens without ids carry text that a character or a stop rule held back.
  if (count > 0) {
    if (position < delivered_) return Duplicate(position);
    const bool must_follow = op == nullptr || op->started;
    if (must_follow && position != delivered_) return Gap(position);
    delivered_ = position + static_cast<uint64_t>(count);
  }
  if (count == 0 && op != nullptr && std::exchange(op->flushed, true)) return absl::OkStatus();
  const bool from_client = tokens.author() == v1::TOKEN_AUTHOR_CLIENT;
  // What this call wrote comes back in a replay after a reattachment: its own appends are no news,
  // its generation goes on. What was there before is news, if it was asked for.
  const bool own = reattached_ && position >= replay_end_;
  if (own && from_client) return absl::OkStatus();
  if (own && op == nullptr) op = FirstGenerate();
  v1::StreamReply& out = replies->emplace_back();
  if (!from_client) counts_->tokens_delivered += static_cast<uint64_t>(count);
  if (op != nullptr) {
    ObserveTokens(*op, count);
    out.set_request_id(op->request.request_id());
  } else {
    out.set_request_id(open_.request_id());
  }
  *out.mutable_tokens() = std::move(*reply.mutable_tokens());
  return absl::OkStatus();
}

absl::Status Session::OnDone(v1::ServeReply reply, std::vector<v1::StreamReply>* replies) {
  if (ops_.empty() || ops_.front().seq != reply.seq()) {
    return absl::InternalError(
        "worker finished operation " + std::to_string(reply.seq()) + " but the next one is " +
        (ops_.empty() ? std::string("none") : std::to_string(ops_.front().seq)));
  }
  const Op& op = ops_.front();
  const uint64_t position = reply.done().position();
  if (op.request.has_generate() && op.started && delivered_ != position) {
    return position < delivered_ ? Duplicate(position) : Gap(delivered_);
  }
  if (position < end_) return Rewound(position);
  end_ = position;
  delivered_ = std::max(delivered_, position);
  if (op.request.has_append()) {
    counts_->tokens_appended += reply.done().usage().appended_tokens();
  }
  v1::StreamReply& out = replies->emplace_back();
  out.set_request_id(op.request.request_id());
  *out.mutable_done() = std::move(*reply.mutable_done());
  op_bytes_ -= op.bytes;
  resuming_ = false;
  ops_.pop_front();
  return absl::OkStatus();
}

Session::Op* Session::FindOp(uint64_t seq) {
  for (Op& op : ops_) {
    if (op.seq == seq) return &op;
  }
  return nullptr;
}

Session::Op* Session::FirstGenerate() {
  for (Op& op : ops_) {
    if (op.request.has_generate()) return &op;
  }
  return nullptr;
}

void Session::ObserveTokens(Op& op, int tokens) {
  if (tokens == 0) return;
  const auto now = std::chrono::steady_clock::now();
  const double seconds = std::chrono::duration<double>(now - op.since).count();
  if (!op.started) {
    counts_->time_to_first_token_seconds.Observe(seconds);
  } else {
    for (int i = 0; i < tokens; ++i) counts_->inter_token_seconds.Observe(seconds / tokens);
  }
  op.started = true;
  op.since = now;
}

absl::Status Session::Rewound(uint64_t position) const {
  return absl::FailedPreconditionError("stream '" + open().stream_id() + "' ends at position " +
                                       std::to_string(position) + ", before position " +
                                       std::to_string(std::max(delivered_, end_)) +
                                       " that the client already knows: it was rewound");
}

absl::Status Session::Duplicate(uint64_t position) {
  ++counts_->position_duplicates;
  return absl::InternalError("stream '" + open().stream_id() + "': position " +
                             std::to_string(position) + " came twice, expected " +
                             std::to_string(delivered_));
}

absl::Status Session::Gap(uint64_t position) {
  ++counts_->position_gaps;
  return absl::InternalError("stream '" + open().stream_id() + "': position " +
                             std::to_string(position) + " came, expected " +
                             std::to_string(delivered_));
}

}  // namespace lola::gateway
