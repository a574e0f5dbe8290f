#include "services/worker/stage_session.h"

#include <utility>

#include "services/worker/convert.h"

namespace lola::worker {
namespace {

bool IsMore(const v1::StageRequest& request) {
  return request.op_case() == v1::StageRequest::OP_NOT_SET;
}

}  // namespace

StageSession::StageSession(Stream* stream, std::unique_ptr<engine::LayerStage> stage,
                           StageCounters* counters)
    : stream_(stream),
      stage_(std::move(stage)),
      counters_(*counters),
      copier_([this] { SendCopies(); }) {}

StageSession::~StageSession() {
  {
    std::lock_guard lock(mu_);
    ending_ = true;
  }
  changed_.notify_all();
  copier_.join();
}

absl::Status StageSession::Run() {
  v1::StageReply opened;
  opened.mutable_opened();
  if (!Answer(opened)) return absl::OkStatus();
  v1::StageRequest request;
  while (Read(&request)) {
    absl::Status done = Carry(request);
    if (absl::IsCancelled(done)) return absl::OkStatus();  // the front is gone
    if (!done.ok()) return done;
  }
  return absl::OkStatus();
}

bool StageSession::Answer(v1::StageReply& reply, std::span<const std::byte> payload) {
  ++answering_;  // the copier pauses after the piece it is writing
  std::unique_lock lock(mu_);
  const bool written = WriteWithPayload(
      reply, payload, [this](const v1::StageReply& message) { return stream_->Write(message); });
  --answering_;
  lock.unlock();
  changed_.notify_all();
  return written;
}

absl::Status StageSession::Carry(v1::StageRequest& request) {
  switch (request.op_case()) {
    case v1::StageRequest::kReset:
      return Reset(request.reset());
    case v1::StageRequest::kLoad:
      return Load(request);
    case v1::StageRequest::kStep:
      return Step(request);
    case v1::StageRequest::kCopy:
      return Copy(request.copy());
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("op: ", int(request.op_case()), " is none of reset, load, step, copy"));
  }
}

absl::Status StageSession::Reset(const v1::StageReset& op) {
  absl::StatusOr<memory::LolaSettings> settings = RecordSettings(op.settings());
  v1::StageReply reply;
  *reply.mutable_done() =
      ToDone(settings.ok() ? stage_->Reset(op.slot(), *settings) : settings.status());
  return Answer(reply) ? absl::OkStatus() : absl::CancelledError();
}

absl::Status StageSession::Load(v1::StageRequest& request) {
  const v1::StageLoad op = request.load();
  absl::StatusOr<memory::LolaSettings> settings = RecordSettings(op.settings());
  if (!settings.ok()) return settings.status();
  const auto to = stage_->BeginLoad(op.slot(), *settings, op.position(), request.payload_bytes());
  // Refused before its bytes were taken: what follows in the call would be misread.
  if (!to.ok()) return to.status();
  if (absl::Status taken = TakePayload(request, *to); !taken.ok()) return taken;
  ++counters_.loads;
  v1::StageReply reply;
  *reply.mutable_done() = ToDone(stage_->Loaded(op.slot()));
  return Answer(reply) ? absl::OkStatus() : absl::CancelledError();
}

absl::Status StageSession::Step(v1::StageRequest& request) {
  const v1::StageStep& op = request.step();
  if (uint64_t(op.segments_size()) > stage_->slots()) {
    return absl::InvalidArgumentError(
        absl::StrCat("segments: ", op.segments_size(), " for ", stage_->slots(), " slots"));
  }
  segments_.clear();
  uint64_t rows = 0;
  for (const v1::StageSegment& segment : op.segments()) {
    segments_.push_back(
        {segment.slot(), segment.position(), segment.rows(), segment.logits_rows(), {}});
    rows += segment.rows();
    if (segment.logits_rows() > segment.rows() || rows > stage_->rows_max()) {
      return absl::InvalidArgumentError(absl::StrCat("rows: ", rows, " of at most ",
                                                     stage_->rows_max(), ", logits for ",
                                                     segment.logits_rows()));
    }
  }
  hidden_.resize(rows * stage_->model().geometry().hidden);
  if (absl::Status taken = TakePayload(request, std::as_writable_bytes(std::span(hidden_)));
      !taken.ok()) {
    return taken;
  }
  out_.resize(stage_->OutputFloats(segments_));
  engine::StageOutcome outcome;
  if (absl::Status stepped = stage_->Step(segments_, hidden_, out_, &outcome); !stepped.ok()) {
    return stepped;
  }
  ++counters_.steps;
  counters_.rows += rows;
  v1::StageReply reply;
  *reply.mutable_stepped() = ToProto(outcome);
  return Answer(reply, BytesOf(out_)) ? absl::OkStatus() : absl::CancelledError();
}

absl::Status StageSession::TakePayload(v1::StageRequest& request, std::span<std::byte> to) {
  return ReadPayload(
      request, to, [this](v1::StageRequest* next) { return Read(next); }, IsMore);
}

// The sections as they are now: what follows may step on.
absl::Status StageSession::Copy(const v1::StageCopy& op) {
  const auto sections = stage_->Sections(op.slot());
  if (!sections.ok()) return sections.status();
  Outgoing copy{op.id(), std::vector<std::byte>(sections->begin(), sections->end())};
  {
    std::lock_guard lock(mu_);
    if (copies_.size() >= kStageCopiesMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat("copies: ", copies_.size(), " of at most ", kStageCopiesMax));
    }
    copies_.push_back(std::move(copy));
    ++counters_.copies;
  }
  changed_.notify_all();
  return absl::OkStatus();
}

void StageSession::SendCopies() {
  v1::StageReply reply;
  std::unique_lock lock(mu_);
  while (true) {
    changed_.wait(lock, [this] { return ending_ || (!copies_.empty() && answering_ == 0); });
    if (ending_) return;
    Outgoing& copy = copies_.front();
    const std::span<const std::byte> rest = std::span(copy.sections).subspan(copy.sent);
    const auto piece = rest.first(std::min(rest.size(), kStagePieceBytes));
    reply.mutable_copied()->set_id(copy.id);
    reply.set_payload(piece.data(), piece.size());
    copy.sent += piece.size();
    const bool done = copy.sent == copy.sections.size();
    if (!stream_->Write(reply)) return;  // Run hears of it too
    if (done) copies_.pop_front();
  }
}

}  // namespace lola::worker
