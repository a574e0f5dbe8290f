#include "services/worker/serve_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/rpc/limits.h"
#include "services/rpc/status_map.h"
#include "services/worker/convert.h"

namespace lola::worker {

void ServeSink::OnOpened(engine::OpenedEvent event) {
  v1::ServeReply reply;
  v1::OpenedStream& opened = *reply.mutable_opened();
  *opened.mutable_info() = ToProto(event.record);
  opened.set_position(event.position);
  *opened.mutable_restore() = ToProto(event.restore, worker_->address());
  Send(std::move(reply));
}

void ServeSink::OnTokens(engine::TokensEvent event) {
  v1::ServeReply reply;
  reply.set_seq(event.seq);
  *reply.mutable_tokens() = ToProto(std::move(event));
  {
    std::lock_guard lock(mu_);
    if (JoinWaiting(reply)) return;
  }
  Send(std::move(reply));
}

// Tokens that wait behind the message being written leave together. mu_ held.
bool ServeSink::JoinWaiting(const v1::ServeReply& reply) {
  if (queue_.size() <= (writing_ ? 1u : 0u)) return false;  // the front one is in use
  v1::ServeReply& last = queue_.back();
  const v1::TokenOutput& more = reply.tokens();
  if (!last.has_tokens() || last.seq() != reply.seq()) return false;
  // The last text of a cancelled generation: by coming alone it is known when it comes again.
  if (more.ids_size() == 0) return false;
  v1::TokenOutput& tokens = *last.mutable_tokens();
  const uint64_t end = tokens.position() + static_cast<uint64_t>(tokens.ids_size());
  if (tokens.author() != more.author() || tokens.replayed() != more.replayed() ||
      end != more.position() || tokens.ids_size() + more.ids_size() > kJoinedTokensMax) {
    return false;
  }
  tokens.mutable_ids()->MergeFrom(more.ids());
  tokens.mutable_text()->append(more.text());
  tokens.mutable_logprobs()->MergeFrom(more.logprobs());
  return true;
}

void ServeSink::OnDurable(uint64_t position) {
  v1::ServeReply reply;
  reply.set_durable_position(position);
  Send(std::move(reply));
}

void ServeSink::OnDone(engine::DoneEvent event) {
  v1::ServeReply reply;
  reply.set_seq(event.seq);
  *reply.mutable_done() = ToProto(event);
  Send(std::move(reply));
  std::lock_guard lock(mu_);
  --ops_;
  MaybeFinish();
}

void ServeSink::OnReleased(std::string target) {
  v1::ServeReply reply;
  reply.mutable_released()->set_target(std::move(target));
  Send(std::move(reply));
  Finish(absl::OkStatus(), /*now=*/false);
}

void ServeSink::OnError(absl::Status status) {
  status = WithHint(std::move(status), worker_->engine().options());
  if (absl::IsUnavailable(status)) {
    rpc::SetDetail(status, rpc::kSpeakerDetail, worker_->address());
  }
  Finish(status, /*now=*/false);
}

bool ServeSink::Writable() const {
  std::lock_guard lock(mu_);
  return call_ != nullptr && !end_ && queue_.size() < rpc::kRepliesInFlightMax;
}

void ServeSink::Send(v1::ServeReply reply) {
  std::lock_guard lock(mu_);
  if (call_ == nullptr || end_) return;
  queue_.push_back(std::move(reply));
  WriteNext();
}

void ServeSink::WriteNext() {
  if (writing_ || queue_.empty() || call_ == nullptr || finished_) return;
  writing_ = true;
  call_->StartWrite(&queue_.front());
}

void ServeSink::MaybeFinish() {
  if (no_more_ops_ && ops_ == 0 && !end_) end_ = absl::OkStatus();
  if (!end_ || writing_ || !queue_.empty() || finished_ || call_ == nullptr) return;
  finished_ = true;
  call_->Finish(rpc::ToGrpc(*end_));
}

void ServeSink::Written(bool ok) {
  bool roomy = false;
  {
    std::lock_guard lock(mu_);
    writing_ = false;
    queue_.pop_front();
    if (!ok) queue_.clear();  // nobody reads: OnCancel follows
    WriteNext();
    MaybeFinish();
    roomy = queue_.size() == rpc::kRepliesInFlightMax / 2;
  }
  if (roomy) worker_->engine().Poke();
}

void ServeSink::Finish(const absl::Status& status, bool now) {
  std::lock_guard lock(mu_);
  if (!end_) end_ = status;
  // The reply being written stays in the queue: its bytes are in use.
  if (now) queue_.resize(writing_ ? 1 : 0);
  MaybeFinish();
}

void ServeSink::OpBegun() {
  std::lock_guard lock(mu_);
  ++ops_;
}

void ServeSink::NoMoreOps() {
  std::lock_guard lock(mu_);
  no_more_ops_ = true;
  MaybeFinish();
}

void ServeSink::CallGone() {
  std::lock_guard lock(mu_);
  call_ = nullptr;
  queue_.clear();
}

ServeCall::ServeCall(std::shared_ptr<WorkerState> worker)
    : worker_(std::move(worker)), sink_(std::make_shared<ServeSink>(worker_.get(), this)) {
  StartRead(&request_);
}

void ServeCall::OnReadDone(bool ok) {
  if (!ok) return sink_->NoMoreOps();
  if (absl::Status status = Take(); !status.ok()) {
    std::lock_guard lock(mu_);
    if (attachment_ != 0) worker_->engine().Detach(attachment_);
    return sink_->Finish(status, /*now=*/false);
  }
  request_.Clear();
  StartRead(&request_);
}

absl::Status ServeCall::Take() {
  std::lock_guard lock(mu_);
  engine::Engine& engine = worker_->engine();
  if (attachment_ == 0 || request_.has_attach()) {
    if (attachment_ != 0) return absl::InvalidArgumentError("attach: the call is attached already");
    if (!request_.has_attach()) {
      return absl::InvalidArgumentError("op: the first message must be attach");
    }
    auto attach = FromProto(request_.attach(), engine.model().default_settings());
    if (!attach.ok()) return attach.status();
    attachment_ = engine.Attach(*std::move(attach), sink_);
    return absl::OkStatus();
  }
  if (request_.op_case() == v1::ServeRequest::kCancelSeq) {
    engine.Cancel(attachment_, request_.cancel_seq());
    return absl::OkStatus();
  }
  if (request_.run().has_append()) {
    auto op = AppendFromProto(request_.run(), engine.tokenizer());
    if (!op.ok()) return op.status();
    sink_->OpBegun();
    engine.Append(attachment_, *std::move(op));
    return absl::OkStatus();
  }
  if (request_.run().has_generate()) {
    auto op = GenerateFromProto(request_.run());
    if (!op.ok()) return op.status();
    sink_->OpBegun();
    engine.Generate(attachment_, *std::move(op));
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("run: carries neither append nor generate");
}

void ServeCall::OnWriteDone(bool ok) { sink_->Written(ok); }

void ServeCall::OnCancel() {
  {
    std::lock_guard lock(mu_);
    if (attachment_ != 0) worker_->engine().Detach(attachment_);
  }
  sink_->Finish(absl::CancelledError("the call was cancelled"), /*now=*/true);
}

void ServeCall::OnDone() {
  {
    std::lock_guard lock(mu_);
    if (attachment_ != 0) worker_->engine().Detach(attachment_);
  }
  sink_->CallGone();
  delete this;
}

}  // namespace lola::worker
