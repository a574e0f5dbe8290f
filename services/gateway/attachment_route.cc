// How an attachment finds its worker.
#include <grpcpp/client_context.h>

#include <algorithm>
#include <utility>

#include "services/gateway/attachment.h"
#include "services/gateway/worker_link.h"
#include "services/rpc/logging.h"
#include "services/rpc/status_map.h"

namespace lola::gateway {
namespace {

// One Describe at a shard; freed by its callback.
struct RecordQuestion {
  grpc::ClientContext context;
  v1::DescribeStreamRequest request;
  v1::StreamInfo info;
};

}  // namespace

void Attachment::Route() {
  phase_ = Phase::kRouting;
  attach_since_ = std::chrono::steady_clock::now();
  if (!in_outage_) {  // who failed in an earlier one may be well again
    lost_.clear();
    tried_.clear();
  }
  const std::string target = std::exchange(hint_, "");
  const bool takeover = std::exchange(takeover_, false);
  if (!target.empty() && world_.workers->Known(target)) return AttachTo(target, takeover);
  auto* question = new RecordQuestion();
  question->context.set_deadline(std::chrono::system_clock::now() + world_.shard_deadline);
  question->request.set_stream_id(session_.open().stream_id());
  world_.shards->StubOf(session_.open().stream_id())
      .async()
      ->Describe(&question->context, &question->request, &question->info,
                 [self = shared_from_this(), question](const grpc::Status& status) {
                   {
                     std::lock_guard lock(self->mu_);
                     if (self->phase_ == Phase::kRouting) {
                       self->OnRecord(rpc::FromGrpc(status), question->info);
                     }
                   }
                   delete question;
                 });
}

void Attachment::OnRecord(const absl::Status& status, const v1::StreamInfo& info) {
  const std::string& id = session_.open().stream_id();
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return ChooseFromRecord(info);
    case absl::StatusCode::kNotFound:
      if (session_.open().create_if_missing() && !session_.opened()) {
        return ChooseFromRecord(v1::StreamInfo());
      }
      return End(absl::NotFoundError("stream '" + id + "' does not exist" +
                                     (session_.opened() ? " any more" : "")));
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted: {
      const memory::ShardPlace& place = world_.shards->PlaceOf(id);
      return Retry(rpc::Annotate(status, "shard " + place.shard_id + " at " + place.address));
    }
    default:
      return End(status);
  }
}

void Attachment::ChooseFromRecord(const v1::StreamInfo& info) {
  const std::string& owner = info.owner();
  const bool owned = !owner.empty() && info.lease_remaining_ms() > 0;
  const bool owner_lost = lost_.count(owner) != 0;
  if (owned && !owner_lost && world_.workers->WorthAsking(owner)) return AttachTo(owner, false);
  std::set<std::string> except = lost_;
  // Only an owner seen failing is overruled; one this gateway never heard of may be well.
  const bool takeover = owned && world_.workers->Known(owner);
  if (takeover) except.insert(owner);
  auto target = world_.workers->Pick(
      info.stream_id().empty() ? session_.open().stream_id() : info.stream_id(), except);
  if (!target.has_value()) target = world_.workers->Pick(session_.open().stream_id(), {});
  if (!target.has_value()) {
    std::string known;
    for (const v1::WorkerStatus& worker : world_.workers->Statuses()) {
      known += (known.empty() ? "" : "; ") + worker.address() + ": " +
               (worker.healthy() ? "draining" : worker.problem());
    }
    return Retry(absl::UnavailableError("no worker answers (" + known + ")"));
  }
  AttachTo(*target, takeover);
}

void Attachment::AttachTo(const std::string& worker, bool takeover) {
  phase_ = Phase::kAttaching;
  worker_ = worker;
  if (takeover) ++counts_.takeovers;
  released_ = read_owed_ = false;
  link_busy_ = true;  // the attach message
  link_ = WorkerLink::Open(shared_from_this(), *world_.workers->stub(worker),
                           session_.Attach(takeover));
}

void Attachment::Lost(const absl::Status& status) {
  if (session_.opened() || phase_ == Phase::kServing) ++counts_.failovers;
  rpc::LogWarn("worker lost under a call",
               {{"stream", session_.open().stream_id()}, {"worker", worker_}, {"status", status}});
  // A worker that says so itself answers: only this stream is not to be had there.
  const bool silent = !rpc::GetDetail(status, rpc::kSpeakerDetail).has_value();
  if (silent && (status.code() == absl::StatusCode::kUnavailable ||
                 status.code() == absl::StatusCode::kUnknown)) {
    world_.workers->ReportFailure(worker_, status);
  }
  if (!in_outage_) {
    lost_.clear();
    tried_.clear();
  }
  lost_.insert(worker_);
  Retry(rpc::Annotate(status.ok() ? absl::UnavailableError("the worker ended the call") : status,
                      "worker " + worker_));
}

void Attachment::WorkerRefused(const absl::Status& status) {
  const auto owner = rpc::GetDetail(status, rpc::kOwnerDetail);
  if (!owner.has_value() || owner->empty()) return End(status);
  // The lease runs. A worker refused in favour of its own address was restarted: the lease is that
  // of the process before.
  if (*owner == worker_ || lost_.count(*owner) != 0) {
    hint_ = worker_;
    takeover_ = true;
  } else if (world_.workers->Usable(*owner)) {
    hint_ = *owner;
  } else if (world_.workers->Known(*owner)) {
    hint_ = worker_;
    takeover_ = true;
  }
  Retry(status);
}

void Attachment::Retry(const absl::Status& why) {
  const auto now = std::chrono::steady_clock::now();
  if (!in_outage_) {
    in_outage_ = true;
    outage_since_ = now;
    pause_ = std::chrono::milliseconds(0);
  }
  ++counts_.attach_retries;
  tried_[worker_.empty() ? "routing" : worker_] = std::string(why.message());
  if (session_.idle() && session_.opened()) {
    phase_ = Phase::kResting;  // nobody waits for a worker now
    in_outage_ = false;
    return AfterReply();
  }
  if (now - outage_since_ > world_.outage_max) {
    const std::string text = "stream '" + session_.open().stream_id() +
                             "': no worker could be attached within " +
                             std::to_string(world_.outage_max.count()) + " ms; tried " + Tried();
    if (!absl::IsResourceExhausted(why)) return End(absl::UnavailableError(text));
    absl::Status full = absl::ResourceExhaustedError(text);
    rpc::SetDetail(full, rpc::kRetryAfterMsDetail,
                   rpc::GetDetail(why, rpc::kRetryAfterMsDetail).value_or("200"));
    return End(full);
  }
  // The first try follows at once, the next ones after growing pauses.
  phase_ = Phase::kWaiting;
  const auto pause = pause_;
  pause_ = std::clamp(pause_ * 2, world_.pause_first, world_.pause_max);
  if (lost_.size() >= world_.workers->size()) lost_.clear();  // all failed: all again
  alarm_ = std::make_unique<grpc::Alarm>();
  // Weak: the alarm keeps its callback, and this object keeps the alarm.
  alarm_->Set(std::chrono::system_clock::now() + pause, [weak = weak_from_this()](bool) {
    const std::shared_ptr<Attachment> self = weak.lock();
    if (self == nullptr) return;
    std::lock_guard lock(self->mu_);
    if (self->phase_ == Phase::kWaiting) self->Route();
  });
}

std::string Attachment::Tried() const {
  std::string text;
  for (const auto& [place, problem] : tried_) {
    text += (text.empty() ? "" : "; ") + place + " (" + problem + ")";
  }
  return text;
}

}  // namespace lola::gateway
