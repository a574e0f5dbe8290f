#include "services/worker/stage_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <thread>
#include <utility>

#include "services/rpc/logging.h"
#include "services/rpc/status_map.h"
#include "services/worker/convert.h"
#include "services/worker/load_sender.h"
#include "services/worker/stage_client_session.h"
#include "services/worker/stage_messages.h"
#include "services/worker/stage_news.h"

namespace lola::worker {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kPauseFirst{50}, kPauseMax{1'000};
constexpr milliseconds kAskDeadline{2'000};
constexpr milliseconds kConnectPiece{200};

// A channel of blocking calls moves on only while somebody waits for it: without this a stage that
// came back would be found seconds later. Afterwards a call says what is the matter, if anything.
void AwaitChannel(grpc::Channel& channel) {
  channel.WaitForConnected(std::chrono::system_clock::now() + kConnectPiece);
}

bool IsMore(const v1::StageReply& reply) {
  return reply.event_case() == v1::StageReply::EVENT_NOT_SET;
}

class GrpcStageLink final : public engine::StageLink {
 public:
  GrpcStageLink(const StageEndpoint& endpoint, std::shared_ptr<StageLinkCounters> counters,
                bool samples)
      : counters_(std::move(counters)),
        name_(endpoint.address),
        layers_(counters_->Now().layers),
        class_(counters_->Now().instruction_class),
        samples_(samples),
        answer_within_(endpoint.answer_within),
        channel_(endpoint.channel),
        stub_(v1::Stage::NewStub(channel_)),
        watch_([this] { Watch(); }),
        thread_([this] { Loop(); }) {}

  ~GrpcStageLink() override {
    {
      std::lock_guard lock(mu_);
      closing_ = true;
      if (session_ != nullptr) session_->Cancel();
    }
    changed_.notify_all();
    thread_.join();
    watch_.join();
  }

  std::string name() const override { return name_; }
  const engine::LayerRange& layers() const override { return layers_; }
  std::string instruction_class() const override { return class_; }
  bool samples() const override { return samples_; }

  void Open(const engine::StageTerms& terms) override {
    std::lock_guard lock(mu_);
    if (state_.ok()) return;
    terms_ = terms;
    wanted_ = true;
    changed_.notify_all();
  }
  absl::Status state() const override {
    std::lock_guard lock(mu_);
    return state_;
  }

  absl::Status Reset(size_t slot, const memory::LolaSettings& settings) override {
    v1::StageRequest request;
    request.mutable_reset()->set_slot(slot);
    *request.mutable_reset()->mutable_settings() = ToProto(settings);
    return Ask(request, {});
  }

  void Load(size_t slot, const memory::LolaSettings& settings, uint64_t position,
            std::shared_ptr<void> owner, std::span<const std::byte> sections,
            std::function<void(absl::Status)> done) override;

  absl::Status StartStep(std::span<const engine::StageSegment> segments,
                         std::span<const float> hidden) override;
  absl::Status FinishStep(std::span<float> out, engine::StageOutcome* outcome) override;
  absl::StatusOr<engine::PieceCopy> Copy(size_t slot, size_t bytes) override;
  absl::Status CountCached(std::span<const size_t> slots, std::span<uint64_t> cached) override;

 private:
  // The scheduler waits for the stage while one of these lives.
  class Waiting {
   public:
    explicit Waiting(GrpcStageLink& link) : link_(link) {
      link_.waiting_since_ = Clock::now().time_since_epoch().count();
    }
    ~Waiting() { link_.waiting_since_ = 0; }
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;

   private:
    GrpcStageLink& link_;
  };

  void Loop();
  void Watch();
  absl::Status Serve(StageClientSession& session, const engine::StageTerms& terms, bool* opened);
  // The open session, or what is the matter.
  absl::StatusOr<std::shared_ptr<StageClientSession>> Session() const;
  absl::Status Send(StageClientSession& session, v1::StageRequest& request,
                    std::span<const std::byte> payload);
  // An operation that is answered by `done`.
  absl::Status Ask(v1::StageRequest& request, std::span<const std::byte> payload);
  // Ends the session; what went wrong first stays the reason.
  absl::Status Break(const absl::Status& why);

  const std::shared_ptr<StageLinkCounters> counters_;
  const std::string name_;
  const engine::LayerRange layers_;
  const std::string class_;
  const bool samples_;
  const milliseconds answer_within_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Stage::Stub> stub_;
  uint64_t next_id_ = 1;                       // of a copy or a load; scheduler's thread
  Clock::time_point step_started_;             // the same
  std::atomic<Clock::rep> waiting_since_ = 0;  // 0: nobody waits

  mutable std::mutex mu_;
  std::condition_variable changed_;
  absl::Status state_ = absl::UnavailableError("not connected yet");  // guarded by mu_
  engine::StageTerms terms_;                                          // guarded by mu_
  bool wanted_ = false;                          // guarded by mu_: a session is to be opened
  bool closing_ = false;                         // guarded by mu_
  std::shared_ptr<StageClientSession> session_;  // guarded by mu_; the last one begun
  LoadSender loads_;
  std::thread watch_;
  std::thread thread_;  // last: starts when all else exists
};

// A stage that is there but stuck would otherwise hold up the scheduler, and with it all streams of
// this worker, for ever.
void GrpcStageLink::Watch() {
  const milliseconds tick = std::clamp(answer_within_ / 4, milliseconds(1), milliseconds(1'000));
  std::unique_lock lock(mu_);
  while (!changed_.wait_for(lock, tick, [this] { return closing_; })) {
    const Clock::rep since = waiting_since_;
    if (since == 0 || session_ == nullptr) continue;
    if (Clock::now() - Clock::time_point(Clock::duration(since)) < answer_within_) continue;
    session_->GiveUp(absl::UnavailableError(
        absl::StrCat("no answer within ", answer_within_.count(), " ms (--stage-deadline)")));
  }
}

void GrpcStageLink::Loop() {
  StageNews news(name_);
  milliseconds pause = kPauseFirst;
  std::unique_lock lock(mu_);
  while (true) {
    changed_.wait(lock, [this] { return closing_ || wanted_; });
    if (closing_) return;
    lock.unlock();
    AwaitChannel(*channel_);
    lock.lock();
    if (closing_) return;
    const engine::StageTerms terms = terms_;
    const auto session = session_ = std::make_shared<StageClientSession>(*stub_);
    lock.unlock();
    bool opened = false;
    absl::Status ended = Serve(*session, terms, &opened);
    // Somebody else's stage may be ours soon; terms that are refused stay so until it changes.
    if (rpc::GetDetail(ended, rpc::kOwnerDetail)) ended = absl::UnavailableError(ended.message());
    lock.lock();
    if (closing_) return;
    if (opened) {
      if (state_.ok()) state_ = absl::UnavailableError(ended.message());
      rpc::LogWarn("stage lost", {{"stage", name_}, {"status", state_}});
      counters_->Update([](StageLinkStats& stats) { stats.open = false; });
      pause = kPauseFirst;
      news.Joined();  // the next trouble is a new one
    } else {
      state_ = ended;
      news.Away(ended);
    }
    changed_.wait_for(lock, pause, [this] { return closing_; });
    pause = std::min(pause * 2, kPauseMax);
  }
}

// One session from beginning to end: how it ended, and whether the stage accepted the terms.
absl::Status GrpcStageLink::Serve(StageClientSession& session, const engine::StageTerms& terms,
                                  bool* opened) {
  v1::StageRequest open;
  *open.mutable_open() = ToProto(terms);
  session.Write(open);  // whether it arrived is said by the answer
  *opened = session.AwaitOpened();
  if (*opened) {
    {
      std::lock_guard lock(mu_);
      state_ = absl::OkStatus();
      wanted_ = false;
    }
    counters_->Update([](StageLinkStats& stats) {
      ++stats.sessions;
      stats.open = true;
    });
    rpc::LogInfo("stage joined", {{"stage", name_}, {"layers", layers_.ToString()}});
    session.Pump();
  }
  return session.Finish();
}

absl::StatusOr<std::shared_ptr<StageClientSession>> GrpcStageLink::Session() const {
  std::lock_guard lock(mu_);
  if (!state_.ok()) return absl::UnavailableError(state_.message());
  return session_;
}

absl::Status GrpcStageLink::Break(const absl::Status& why) {
  std::lock_guard lock(mu_);
  if (state_.ok()) state_ = absl::UnavailableError(why.message());
  session_->Cancel();
  return absl::UnavailableError(state_.message());
}

absl::Status GrpcStageLink::Send(StageClientSession& session, v1::StageRequest& request,
                                 std::span<const std::byte> payload) {
  const size_t bytes = payload.size();
  const StageClientSession::Hurry hurry(session);
  const bool sent = WriteWithPayload(
      request, payload, [&](const v1::StageRequest& message) { return session.Write(message); });
  if (!sent) return absl::CancelledError("the session is over");
  counters_->Update([bytes](StageLinkStats& stats) { stats.bytes_sent += bytes; });
  return absl::OkStatus();
}

absl::Status GrpcStageLink::Ask(v1::StageRequest& request, std::span<const std::byte> payload) {
  const auto session = Session();
  if (!session.ok()) return session.status();
  const Waiting waiting(*this);
  v1::StageReply reply;
  absl::Status status = Send(**session, request, payload);
  if (status.ok()) status = (*session)->NextReply(&reply);
  if (!status.ok()) return Break((*session)->Reason(status));
  if (!reply.has_done()) return Break(absl::InternalError("answer: is none to a reset or a load"));
  return FromDone(reply.done());
}

absl::Status GrpcStageLink::StartStep(std::span<const engine::StageSegment> segments,
                                      std::span<const float> hidden) {
  const auto session = Session();
  if (!session.ok()) return session.status();
  const Waiting waiting(*this);
  step_started_ = Clock::now();
  v1::StageRequest request;
  for (const engine::StageSegment& segment : segments) {
    *request.mutable_step()->add_segments() = ToProto(segment);
  }
  const absl::Status sent = Send(**session, request, BytesOf(hidden));
  return sent.ok() ? sent : Break((*session)->Reason(sent));
}

absl::Status GrpcStageLink::FinishStep(std::span<float> out, engine::StageOutcome* outcome) {
  const auto session = Session();
  if (!session.ok()) return session.status();
  const Waiting waiting(*this);
  v1::StageReply reply;
  absl::Status status = (*session)->NextReply(&reply);
  if (status.ok() && !reply.has_stepped())
    status = absl::InternalError("answer: is none to a step");
  if (status.ok()) {
    *outcome = FromProto(reply.stepped());
    const auto next = [&](v1::StageReply* more) { return (*session)->NextReply(more).ok(); };
    status = ReadPayload(reply, std::as_writable_bytes(out), next, IsMore);
  }
  if (!status.ok()) return Break((*session)->Reason(status));
  const double seconds = std::chrono::duration<double>(Clock::now() - step_started_).count();
  counters_->Update([&](StageLinkStats& stats) {
    stats.bytes_received += out.size_bytes();
    stats.round_trip_s.Observe(seconds);
  });
  return absl::OkStatus();
}

void GrpcStageLink::Load(size_t slot, const memory::LolaSettings& settings, uint64_t position,
                         std::shared_ptr<void> owner, std::span<const std::byte> sections,
                         std::function<void(absl::Status)> done) {
  const auto session = Session();
  if (!session.ok()) return done(session.status());
  LoadSender::Load load{*session, {}, std::move(owner), sections};
  load.head.set_id(next_id_++);
  load.head.set_slot(slot);
  load.head.set_position(position);
  *load.head.mutable_settings() = ToProto(settings);
  (*session)->StartLoad(load.head.id(), [counters = counters_, bytes = sections.size(),
                                         done = std::move(done)](const absl::Status& status) {
    counters->Update([bytes](StageLinkStats& stats) { stats.bytes_sent += bytes; });
    done(status);
  });
  loads_.Send(std::move(load));
}

absl::Status GrpcStageLink::CountCached(std::span<const size_t> slots, std::span<uint64_t> cached) {
  const auto session = Session();
  if (!session.ok()) return session.status();
  const Waiting waiting(*this);
  v1::StageRequest request;
  request.mutable_count()->mutable_slots()->Add(slots.begin(), slots.end());
  v1::StageReply reply;
  absl::Status status = Send(**session, request, {});
  if (status.ok()) status = (*session)->NextReply(&reply);
  if (status.ok() && reply.counted().cached_pairs_size() != int(slots.size())) {
    status = absl::InternalError(absl::StrCat(
        "answer: counts of ", reply.counted().cached_pairs_size(), " of ", slots.size(), " slots"));
  }
  if (!status.ok()) return Break((*session)->Reason(status));
  std::copy(reply.counted().cached_pairs().begin(), reply.counted().cached_pairs().end(),
            cached.begin());
  return absl::OkStatus();
}

absl::StatusOr<engine::PieceCopy> GrpcStageLink::Copy(size_t slot, size_t bytes) {
  const auto session = Session();
  if (!session.ok()) return session.status();
  const Waiting waiting(*this);
  const uint64_t id = next_id_++;
  auto copy = (*session)->StartCopy(id, bytes);
  if (!copy.ok()) return copy.status();
  v1::StageRequest request;
  request.mutable_copy()->set_id(id);
  request.mutable_copy()->set_slot(slot);
  if (absl::Status sent = Send(**session, request, {}); !sent.ok()) {
    return Break((*session)->Reason(sent));
  }
  return engine::PieceCopy([copy = *copy, counters = counters_, bytes](std::span<std::byte> to) {
    const absl::Status status = copy->Wait(to);
    if (status.ok()) {
      counters->Update([bytes](StageLinkStats& stats) { stats.bytes_received += bytes; });
    }
    return status;
  });
}

}  // namespace

absl::StatusOr<StageLinkPair> ConnectStage(const StageEndpoint& endpoint, milliseconds patience) {
  const auto stub = v1::Stage::NewStub(endpoint.channel);
  const Clock::time_point deadline = Clock::now() + patience;
  StageNews news(endpoint.address);
  while (true) {
    AwaitChannel(*endpoint.channel);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kAskDeadline);
    v1::StageInfo info;
    const absl::Status asked = rpc::FromGrpc(stub->DescribeStage(&context, {}, &info));
    if (asked.ok()) {
      if (info.last_layer() < info.first_layer()) {
        return absl::InvalidArgumentError(absl::StrCat("stage ", endpoint.address, ": layers ",
                                                       info.first_layer(), " to ",
                                                       info.last_layer()));
      }
      const engine::LayerRange layers{info.first_layer(), info.last_layer() + 1};
      if (info.revision() < kStageRevision) {
        return absl::FailedPreconditionError(absl::StrCat(
            "stage ", endpoint.address, ": revision of the protocol: it knows ", info.revision(),
            ", this worker needs ", kStageRevision, "; update the stage first"));
      }
      auto counters =
          std::make_shared<StageLinkCounters>(endpoint.address, layers, info.instruction_class());
      return StageLinkPair{std::make_unique<GrpcStageLink>(endpoint, counters, info.samples()),
                           counters};
    }
    const bool passes = absl::IsUnavailable(asked) || absl::IsDeadlineExceeded(asked);
    if (!passes || Clock::now() >= deadline) {
      const bool doubt = passes && !endpoint.hint.empty();
      return absl::Status(asked.code(),
                          absl::StrCat("stage ", endpoint.address, ": ", asked.message(),
                                       doubt ? " (" + endpoint.hint + ")" : ""));
    }
    news.Away(asked);
    std::this_thread::sleep_for(kPauseFirst);
  }
}

}  // namespace lola::worker
