#include "services/worker/stage_client_session.h"

#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/rpc/status_map.h"
#include "services/worker/stage_messages.h"

namespace lola::worker {
namespace {

// A stage answers what it is asked; more than this unasked is no stage.
constexpr size_t kRepliesWaitingMax = 4096;
// Below the stage's own bound: beyond it a snapshot waits instead of ending the session.
constexpr size_t kCopiesMax = kStageCopiesMax / 2;
// A call that takes nothing any more is told its end soon.
constexpr std::chrono::seconds kEndWithin{2};

}  // namespace

bool IncomingCopy::Add(std::string_view piece) {
  std::lock_guard lock(mu_);
  if (piece.size() > sections_.size() - have_) {
    status_ = absl::InternalError(
        absl::StrCat("copy: more than the ", sections_.size(), " bytes it should have"));
  } else {
    std::memcpy(sections_.data() + have_, piece.data(), piece.size());
    have_ += piece.size();
  }
  const bool over = !status_.ok() || have_ == sections_.size();
  if (over) changed_.notify_all();
  return over;
}

void IncomingCopy::Fail(const absl::Status& status) {
  std::lock_guard lock(mu_);
  status_.Update(status);
  changed_.notify_all();
}

absl::Status IncomingCopy::Wait(std::span<std::byte> to) {
  std::unique_lock lock(mu_);
  changed_.wait(lock, [this] { return !status_.ok() || have_ == sections_.size(); });
  if (status_.ok()) std::memcpy(to.data(), sections_.data(), sections_.size());
  return status_;
}

StageClientSession::StageClientSession(v1::Stage::Stub& stub) : stream_(stub.Session(&context_)) {}

bool StageClientSession::Write(const v1::StageRequest& request) {
  std::lock_guard lock(write_mu_);
  return stream_->Write(request);
}

StageClientSession::Hurry::~Hurry() {
  {
    std::lock_guard lock(session_.write_mu_);
    --session_.hurried_;
  }
  session_.may_write_.notify_one();
}

bool StageClientSession::WriteBehind(const v1::StageRequest& request) {
  std::unique_lock lock(write_mu_);
  may_write_.wait(lock, [this] { return hurried_ == 0; });
  return stream_->Write(request);
}

bool StageClientSession::AwaitOpened() {
  v1::StageReply reply;
  if (!stream_->Read(&reply)) return false;
  if (!reply.has_opened()) context_.TryCancel();  // no stage: Finish must not wait for it
  return reply.has_opened();
}

// Copies and loads answer whoever waits for them; false: the reply is none of them.
bool StageClientSession::Sort(v1::StageReply& reply) {
  if (reply.has_copied()) {
    std::lock_guard lock(mu_);
    const auto copy = copies_.find(reply.copied().id());
    if (copy != copies_.end() && copy->second->Add(reply.payload())) copies_.erase(copy);
    return true;
  }
  if (!reply.has_loaded()) return false;
  LoadDone done;
  {
    std::lock_guard lock(mu_);
    const auto load = loads_.find(reply.loaded().id());
    if (load == loads_.end()) return true;
    done = std::move(load->second);
    loads_.erase(load);
  }
  done(StatusOf(reply.loaded().code(), reply.loaded().message()));
  return true;
}

void StageClientSession::Pump() {
  v1::StageReply reply;
  while (stream_->Read(&reply)) {
    if (Sort(reply)) continue;
    std::lock_guard lock(mu_);
    if (replies_.size() >= kRepliesWaitingMax) return context_.TryCancel();
    replies_.push_back(std::move(reply));
    arrived_.notify_all();
  }
}

absl::Status StageClientSession::Finish() {
  grpc::Status ended;
  {
    std::lock_guard lock(write_mu_);
    ended = stream_->Finish();
  }
  absl::Status status = rpc::FromGrpc(ended);
  if (status.ok()) status = absl::UnavailableError("the stage ended the session");
  std::map<uint64_t, LoadDone> loads;
  {
    std::lock_guard lock(mu_);
    if (!given_up_.ok()) status = given_up_;
    over_ = true;
    ended_ = status;
    for (const auto& [id, copy] : copies_) copy->Fail(absl::UnavailableError(status.message()));
    copies_.clear();
    loads.swap(loads_);
    arrived_.notify_all();
  }
  for (const auto& [id, done] : loads) done(absl::UnavailableError(status.message()));
  return status;
}

void StageClientSession::GiveUp(const absl::Status& why) {
  {
    std::lock_guard lock(mu_);
    given_up_.Update(why);
  }
  context_.TryCancel();
}

absl::Status StageClientSession::NextReply(v1::StageReply* reply) {
  std::unique_lock lock(mu_);
  arrived_.wait(lock, [this] { return over_ || !replies_.empty(); });
  if (replies_.empty()) return absl::CancelledError("the session is over");
  *reply = std::move(replies_.front());
  replies_.pop_front();
  return absl::OkStatus();
}

absl::Status StageClientSession::Reason(const absl::Status& failed) {
  if (!absl::IsCancelled(failed)) return failed;
  std::unique_lock lock(mu_);
  arrived_.wait_for(lock, kEndWithin, [this] { return over_; });
  return over_ ? ended_ : failed;
}

absl::StatusOr<std::shared_ptr<IncomingCopy>> StageClientSession::StartCopy(uint64_t id,
                                                                            size_t bytes) {
  std::lock_guard lock(mu_);
  if (over_) return absl::UnavailableError("the session is over");
  if (copies_.size() >= kCopiesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("copies: ", copies_.size(), " of at most ", kCopiesMax));
  }
  return copies_[id] = std::make_shared<IncomingCopy>(bytes);
}

void StageClientSession::StartLoad(uint64_t id, LoadDone done) {
  {
    std::lock_guard lock(mu_);
    if (!over_) {
      loads_[id] = std::move(done);
      return;
    }
  }
  done(absl::UnavailableError("the session is over"));
}

}  // namespace lola::worker
