#include "services/worker/stage_session.h"

#include <cstring>
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
  for (const Outgoing& copy : copies_) {
    if (copy.arrived) (void)copy.arrived();  // its memory must not go while it is written
  }
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
    case v1::StageRequest::kLoadPart:
      return LoadPart(request);
    case v1::StageRequest::kCount:
      return Count(request.count());
    default:
      return absl::InvalidArgumentError(absl::StrCat(
          "op: ", int(request.op_case()), " is none of reset, load, load_part, step, copy, count"));
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
  if (op.id() != 0) return BeginParts(op, *settings, request.payload_bytes());
  absl::Status begun =
      stage_->BeginLoad(op.slot(), *settings, op.position(), request.payload_bytes());
  // Refused before its bytes were taken: what follows in the call would be misread.
  if (!begun.ok()) return begun;
  if (absl::Status taken = TakePayload(request, *stage_->LoadSpace(op.slot())); !taken.ok()) {
    return taken;
  }
  ++counters_.loads;
  v1::StageReply reply;
  *reply.mutable_done() = ToDone(stage_->Loaded(op.slot()));
  return Answer(reply) ? absl::OkStatus() : absl::CancelledError();
}

absl::Status StageSession::BeginParts(const v1::StageLoad& op, const memory::LolaSettings& settings,
                                      uint64_t bytes) {
  if (loads_.size() >= stage_->slots()) {
    return absl::InvalidArgumentError(
        absl::StrCat("load: ", loads_.size(), " under way for ", stage_->slots(), " slots"));
  }
  for (const auto& [id, load] : loads_) {
    if (id != op.id() && load.slot != op.slot()) continue;
    return absl::InvalidArgumentError(absl::StrCat("load: ", op.id(), " of slot ", op.slot(),
                                                   " begins within ", id, " of slot ", load.slot));
  }
  const absl::Status begun = stage_->BeginLoad(op.slot(), settings, op.position(), bytes);
  if (!begun.ok()) return AnswerLoad(op.id(), begun);  // its parts will be dropped
  loads_[op.id()] = {op.slot(), 0};
  return absl::OkStatus();
}

absl::Status StageSession::LoadPart(const v1::StageRequest& request) {
  const uint64_t id = request.load_part().id();
  const auto load = loads_.find(id);
  if (load == loads_.end()) return absl::OkStatus();  // it was refused
  const std::string& piece = request.payload();
  const auto space = stage_->LoadSpace(load->second.slot);
  if (!space.ok()) return space.status();
  if (piece.empty() || piece.size() > space->size() - load->second.have) {
    return absl::InvalidArgumentError(absl::StrCat("load_part: ", piece.size(), " bytes after ",
                                                   load->second.have, " of ", space->size()));
  }
  std::memcpy(space->data() + load->second.have, piece.data(), piece.size());
  load->second.have += piece.size();
  if (load->second.have < space->size()) return absl::OkStatus();
  const size_t slot = load->second.slot;
  loads_.erase(load);
  ++counters_.loads;
  return AnswerLoad(id, stage_->Loaded(slot));
}

absl::Status StageSession::AnswerLoad(uint64_t id, const absl::Status& status) {
  if (absl::IsUnavailable(status)) return status;  // what computes has failed
  v1::StageReply reply;
  reply.mutable_loaded()->set_id(id);
  reply.mutable_loaded()->set_code(static_cast<int>(status.code()));
  reply.mutable_loaded()->set_message(std::string(status.message()));
  return Answer(reply) ? absl::OkStatus() : absl::CancelledError();
}

absl::Status StageSession::Count(const v1::StageCount& op) {
  if (uint64_t(op.slots_size()) > stage_->slots()) {
    return absl::InvalidArgumentError(
        absl::StrCat("slots: ", op.slots_size(), " for ", stage_->slots(), " slots"));
  }
  const std::vector<size_t> slots(op.slots().begin(), op.slots().end());
  std::vector<uint64_t> cached(slots.size());
  if (absl::Status counted = stage_->CountCached(slots, cached); !counted.ok()) return counted;
  v1::StageReply reply;
  reply.mutable_counted()->mutable_cached_pairs()->Add(cached.begin(), cached.end());
  return Answer(reply) ? absl::OkStatus() : absl::CancelledError();
}

// The segments of a step; the number of their rows.
absl::StatusOr<uint64_t> StageSession::TakeSegments(const v1::StageStep& op) {
  if (uint64_t(op.segments_size()) > stage_->slots()) {
    return absl::InvalidArgumentError(
        absl::StrCat("segments: ", op.segments_size(), " for ", stage_->slots(), " slots"));
  }
  segments_.clear();
  samplings_.clear();
  uint64_t rows = 0;
  for (const v1::StageSegment& segment : op.segments()) {
    engine::StageSegment& one = segments_.emplace_back();
    one.slot = segment.slot();
    one.position = segment.position();
    one.rows = segment.rows();
    one.logits_rows = segment.logits_rows();
    if (segment.has_sampling()) {
      one.sampling = &samplings_.emplace_back(FromProto(segment.sampling()).Over({}));
      one.recent = std::span(segment.recent().data(), size_t(segment.recent_size()));
    }
    rows += segment.rows();
    if (segment.logits_rows() > segment.rows() || rows > stage_->rows_max()) {
      return absl::InvalidArgumentError(absl::StrCat("rows: ", rows, " of at most ",
                                                     stage_->rows_max(), ", logits for ",
                                                     segment.logits_rows()));
    }
  }
  return rows;
}

absl::Status StageSession::Step(v1::StageRequest& request) {
  v1::StageStep op;  // `request` takes the rest of the payload
  op.Swap(request.mutable_step());
  const absl::StatusOr<uint64_t> rows = TakeSegments(op);
  if (!rows.ok()) return rows.status();
  hidden_.resize(*rows * stage_->model().geometry().hidden);
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
  counters_.rows += *rows;
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
  const absl::StatusOr<size_t> bytes = stage_->RecordBytes(op.slot());
  if (!bytes.ok()) return bytes.status();
  {
    std::lock_guard lock(mu_);
    if (copies_.size() >= kStageCopiesMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat("copies: ", copies_.size(), " of at most ", kStageCopiesMax));
    }
  }
  Outgoing copy{.id = op.id(), .record = stage_->AllocateHost(*bytes)};
  const std::span<std::byte> record(copy.record.get(), *bytes);
  copy.sections = record.subspan(memory::kPageBytes);
  absl::StatusOr<engine::StateCopy> started = stage_->Copy(op.slot(), record);
  if (!started.ok()) return started.status();
  copy.arrived = *std::move(started);
  {
    std::lock_guard lock(mu_);
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
    if (copy.arrived) {
      const engine::StateCopy arrived = std::exchange(copy.arrived, nullptr);
      lock.unlock();  // steps go on meanwhile; only this thread takes the front copy away
      const absl::Status status = arrived();
      lock.lock();
      if (!status.ok()) return;  // the device is lost: the next operation says so
      continue;
    }
    const std::span<const std::byte> rest = copy.sections.subspan(copy.sent);
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
