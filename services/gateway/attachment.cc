#include "services/gateway/attachment.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "services/gateway/worker_link.h"
#include "services/rpc/limits.h"
#include "services/rpc/logging.h"
#include "services/rpc/status_map.h"

namespace lola::gateway {

Attachment::Attachment(const AttachmentWorld& world, ClientSink* sink, v1::StreamRequest open)
    : world_(world), counts_(*world.counts), sink_(sink), session_(std::move(open), world.counts) {}

Attachment::~Attachment() = default;

void Attachment::Start() {
  std::lock_guard lock(mu_);
  if (phase_ == Phase::kEnded) return;  // a drain was faster
  Route();
  sink_->ReadNext();
}

void Attachment::OnRequest(v1::StreamRequest request) {
  std::lock_guard lock(mu_);
  if (phase_ == Phase::kEnded) return;
  session_.AddRequest(std::move(request));
  if (phase_ == Phase::kResting && !session_.idle()) Route();
  Pump();
  if (session_.CanTakeMore()) {
    sink_->ReadNext();
  } else {
    request_owed_ = true;
  }
}

void Attachment::OnClientDone() {
  std::lock_guard lock(mu_);
  client_done_ = true;
  AfterReply();
}

void Attachment::OnReplyWritten() {
  std::lock_guard lock(mu_);
  if (phase_ == Phase::kEnded || !read_owed_ || link_ == nullptr) return;
  if (sink_->Waiting() >= rpc::kRepliesInFlightMax / 2) return;
  read_owed_ = false;
  link_->Read();
}

void Attachment::Refuse(const absl::Status& status) {
  std::lock_guard lock(mu_);
  End(status);
}

void Attachment::Drain() {
  std::lock_guard lock(mu_);
  draining_ = true;
  AfterReply();
}

void Attachment::Abandon(const absl::Status& status) {
  std::lock_guard lock(mu_);
  End(status);
}

void Attachment::OnWorkerUnwell(const std::string& worker, const absl::Status& why) {
  std::lock_guard lock(mu_);
  if (link_ == nullptr || worker_ != worker) return;
  DropLink();
  Lost(why);
}

void Attachment::OnLinkReply(WorkerLink* link, v1::ServeReply reply) {
  std::lock_guard lock(mu_);
  if (link != link_) return;
  if (reply.has_released()) {
    released_ = true;
    hint_ = reply.released().target();
    ++counts_.moves;
    link_->Read();  // the end of the call follows
    return;
  }
  if (reply.has_opened()) {
    phase_ = Phase::kServing;
    counts_.attach_seconds.Observe(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - attach_since_).count());
    if (session_.idle()) in_outage_ = false;
    if (reply.opened().restore().worker().empty()) {
      reply.mutable_opened()->mutable_restore()->set_worker(worker_);
    }
  } else {
    in_outage_ = false;  // the new worker does something
  }
  std::vector<v1::StreamReply> replies;
  if (absl::Status status = session_.OnReply(std::move(reply), &replies); !status.ok()) {
    const auto level = absl::IsInternal(status) ? rpc::LogLevel::kError : rpc::LogLevel::kInfo;
    rpc::Log(level, "call ended by the gateway's own checks",
             {{"stream", session_.open().stream_id()}, {"status", status}});
    return End(status);
  }
  for (v1::StreamReply& out : replies) sink_->Send(std::move(out));
  if (sink_->Waiting() < rpc::kRepliesInFlightMax) {
    link_->Read();
  } else {
    read_owed_ = true;
  }
  Pump();
  AfterReply();
}

void Attachment::OnLinkWritten(WorkerLink* link) {
  std::lock_guard lock(mu_);
  if (link != link_) return;
  link_busy_ = false;
  Pump();
}

void Attachment::OnLinkClosing(WorkerLink* link) {
  std::lock_guard lock(mu_);
  if (link == link_) link_busy_ = true;
}

void Attachment::OnLinkEnded(WorkerLink* link, const absl::Status& status) {
  std::lock_guard lock(mu_);
  if (link != link_) return;
  link_ = nullptr;
  read_owed_ = false;
  if (phase_ == Phase::kEnded) return;
  if (released_) {
    released_ = false;
    if (session_.idle() && session_.opened()) {
      phase_ = Phase::kResting;  // the next request looks for the stream again
      return AfterReply();
    }
    return Route();
  }
  switch (status.code()) {
    case absl::StatusCode::kOk:  // without `released`: a worker on its way out
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kCancelled:
      return Lost(status);
    case absl::StatusCode::kAborted:  // fenced: somebody else owns the stream now
      return Retry(status);
    case absl::StatusCode::kFailedPrecondition:
      return WorkerRefused(status);
    default:
      return End(status);
  }
}

// Writes what may be written to the worker now.
void Attachment::Pump() {
  if (phase_ != Phase::kServing || link_ == nullptr || link_busy_ || released_) return;
  if (auto request = session_.NextToWorker()) {
    link_busy_ = true;
    link_->Write(*std::move(request));
  }
}

void Attachment::AfterReply() {
  if (phase_ == Phase::kEnded) return;
  if (request_owed_ && session_.CanTakeMore()) {
    request_owed_ = false;
    sink_->ReadNext();
  }
  if (!session_.idle() || (!session_.opened() && !draining_)) return;
  if (client_done_) return End(absl::OkStatus());
  if (draining_) {
    End(
        absl::UnavailableError("this gateway is shutting down: attach to another one with "
                               "after_position " +
                               std::to_string(session_.delivered())));
  }
}

void Attachment::DropLink() {
  if (link_ != nullptr) link_->Drop();
  link_ = nullptr;
}

void Attachment::End(const absl::Status& status) {
  if (phase_ == Phase::kEnded) return;
  phase_ = Phase::kEnded;
  DropLink();
  if (alarm_ != nullptr) alarm_->Cancel();
  sink_->End(status);
  sink_ = nullptr;
}

}  // namespace lola::gateway
