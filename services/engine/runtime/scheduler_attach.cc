// Attachments: taking ownership of streams, opening, replaying the log to a client, ending.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/engine/runtime/scheduler.h"

namespace lola::engine {

void Scheduler::StartAttach(const AttachmentPtr& attachment) {
  attachments_[attachment->id] = attachment;
  const AttachRequest& request = attachment->request;
  OwnStream(request.stream_id, request.takeover, &request, std::make_shared<Backoff>(),
            [this, attachment](absl::StatusOr<StreamPtr> s) {
              if (!attachments_.contains(attachment->id)) return;  // detached meanwhile
              if (!s.ok()) return FailAttachment(attachment, s.status());
              JoinStream(attachment, *s);
            });
}

void Scheduler::JoinStream(const AttachmentPtr& attachment, const StreamPtr& s) {
  const AttachRequest& request = attachment->request;
  if (s->closing) {
    const std::string target = s->closing->target;
    ForgetAttachment(attachment);
    return attachment->sink->OnReleased(target);
  }
  if (s->phase == Phase::kAcquiring) {
    s->takeover = s->takeover || request.takeover;
    if (request.create_if_missing && !s->create) s->create = request;
  }
  attachment->stream = s;
  s->attachments.push_back(attachment);
  s->last_used = std::chrono::steady_clock::now();
  if (s->phase == Phase::kReady) {
    s->report = ResidentReport(*s);
    OpenAttachment(s, attachment);
  } else if (s->phase == Phase::kParked) {
    NeedSlot(s);
  }
  for (auto& op : std::exchange(attachment->early, {})) {
    queued_tokens_ -= op->ids.size();
    AddOp(attachment->id, std::move(op));
  }
}

void Scheduler::OwnStream(const std::string& id, bool takeover, const AttachRequest* create,
                          const std::shared_ptr<Backoff>& backoff, WithStream then) {
  absl::StatusOr<StreamPtr> opened = OpenStream(id, takeover, create);
  if (!opened.ok() || (*opened)->phase == Phase::kAcquiring || (*opened)->closing) {
    return then(std::move(opened));
  }
  // `create` may point into a request that is gone by then: a stream that exists needs none, unless
  // it is lost and opened anew.
  auto request = create == nullptr ? nullptr : std::make_shared<AttachRequest>(*create);
  backend_->Describe(
      id,
      Posted<absl::StatusOr<StreamRecord>>([=, this, s = *opened](absl::StatusOr<StreamRecord> r) {
        const auto again = [=, this] { OwnStream(id, takeover, request.get(), backoff, then); };
        if (s->gone()) return again();
        if (!r.ok() && RetryLater(*backoff, r.status(), again)) return;
        if (!r.ok() && !absl::IsNotFound(r.status())) return then(r.status());
        if (r.ok() && r->owner_epoch == s->epoch) return then(s);
        ++stats_.fenced_writes;
        DropStream(s, absl::AbortedError(absl::StrCat("owner epoch: ours is ", s->epoch)));
        again();
      }));
}

absl::StatusOr<StreamPtr> Scheduler::OpenStream(const std::string& id, bool takeover,
                                                const AttachRequest* create) {
  if (draining_) return absl::UnavailableError("worker is draining");
  if (!lost_.ok()) return lost_;
  if (create != nullptr && !create->model_fingerprint.empty() &&
      create->model_fingerprint != model().fingerprint()) {
    return absl::FailedPreconditionError(absl::StrCat("model_fingerprint: asked for ",
                                                      create->model_fingerprint, ", served is ",
                                                      model().fingerprint()));
  }
  if (auto found = streams_.find(id); found != streams_.end()) return found->second;
  if (streams_.size() >= options_.open_streams_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("open_streams: ", streams_.size(), " of at most ", options_.open_streams_max,
                     "; retry in ", options_.retry_hint.count(), " ms"));
  }
  auto s = std::make_shared<Stream>();
  s->id = id;
  s->takeover = takeover;
  s->shard = backend_->ShardOf(id);
  s->last_used = std::chrono::steady_clock::now();
  if (create != nullptr && create->create_if_missing) s->create = *create;
  streams_[id] = s;
  AcquireStream(s);
  return s;
}

void Scheduler::AcquireStream(const StreamPtr& s) {
  backend_->Acquire(
      {s->id, model().fingerprint(), s->takeover, class_},
      Posted<absl::StatusOr<AcquiredStream>>(
          [this, s](absl::StatusOr<AcquiredStream> result) { OnAcquired(s, std::move(result)); }));
}

void Scheduler::OnAcquired(const StreamPtr& s, absl::StatusOr<AcquiredStream> result) {
  if (s->gone()) return;
  if (absl::IsNotFound(result.status()) && s->create) return CreateStream(s);
  if (!result.ok()) {
    if (RetryLater(s->backoff, result.status(), [this, s] { AcquireStream(s); })) return;
    return DropStream(s, result.status());
  }
  s->backoff.Reset();
  absl::Status status = AdoptRecord(*s, std::move(*result));
  if (status.ok()) status = lost_;  // meanwhile
  if (!status.ok()) {
    // Owned but not usable here: give it back so that another worker may have it at once.
    backend_->Release(s->id, s->epoch, [](absl::Status) {});
    return DropStream(s, status);
  }
  s->phase = Phase::kParked;
  if (s->closing) return;  // asked to leave meanwhile; the loop goes on with that
  NeedSlot(s);
}

void Scheduler::CreateStream(const StreamPtr& s) {
  const AttachRequest& from = *s->create;
  CreateRequest request;
  request.stream_id = s->id;
  request.tenant = from.tenant;
  request.labels = from.labels;
  request.model_fingerprint = model().fingerprint();
  request.settings = from.settings.value_or(model().default_settings());
  request.sampling = from.sampling.Over({});
  request.ttl_ms = from.ttl_ms;
  if (absl::Status status = runner_->CheckSettings(request.settings); !status.ok()) {
    return DropStream(s, status);
  }
  if (absl::Status status = request.sampling.Validate(); !status.ok()) {
    return DropStream(s, status);
  }
  request.state_bytes = memory::StateLayout(model().geometry(), request.settings).stride_bytes();
  if (request.state_bytes > options_.slot_bytes) {
    return DropStream(s, absl::FailedPreconditionError(absl::StrCat(
                             "settings: state of ", request.state_bytes,
                             " bytes, slots of this worker have ", options_.slot_bytes)));
  }
  backend_->Create(
      std::move(request),
      Posted<absl::StatusOr<StreamRecord>>([this, s](absl::StatusOr<StreamRecord> result) {
        if (s->gone()) return;
        const absl::Status status = result.status();
        // Somebody else was faster: theirs is as good.
        if (status.ok() || absl::IsAlreadyExists(status)) return AcquireStream(s);
        if (!RetryLater(s->backoff, status, [this, s] { CreateStream(s); })) DropStream(s, status);
      }));
}

absl::Status Scheduler::AdoptRecord(Stream& s, AcquiredStream acquired) {
  s.record_fresh = true;
  s.epoch = acquired.epoch;
  s.record = std::move(acquired.record);
  s.previous_class = std::move(acquired.previous_class);
  s.end = s.committed = s.record.committed_position;
  s.tail.Reset(s.end);
  if (s.record.model_fingerprint != model().fingerprint()) {
    return absl::FailedPreconditionError(absl::StrCat("model_fingerprint: the stream's is ",
                                                      s.record.model_fingerprint, ", served is ",
                                                      model().fingerprint()));
  }
  if (absl::Status status = runner_->CheckSettings(s.record.settings); !status.ok()) return status;
  s.layout.emplace(model().geometry(), s.record.settings);
  if (s.layout->stride_bytes() > options_.slot_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("settings: state of ", s.layout->stride_bytes(),
                     " bytes, slots of this worker have ", options_.slot_bytes));
  }
  s.identity = {model().fingerprint(), model().geometry(), s.record.settings};
  return absl::OkStatus();
}

absl::Status Scheduler::CheckAttach(const AttachRequest& request, const Stream& s) const {
  if (request.settings && !(*request.settings == s.record.settings)) {
    return absl::FailedPreconditionError(
        absl::StrCat("settings: asked for ", request.settings->ToString(), ", the stream has ",
                     s.record.settings.ToString()));
  }
  if (request.after_position && *request.after_position > s.end) {
    return absl::FailedPreconditionError(
        absl::StrCat("after_position: ", *request.after_position, ", the stream ends at ", s.end));
  }
  return absl::OkStatus();
}

void Scheduler::OnReady(const StreamPtr& s) {
  for (const AttachmentPtr& attachment : std::vector<AttachmentPtr>(s->attachments)) {
    if (!attachment->opened) OpenAttachment(s, attachment);
  }
  for (auto& done : std::exchange(s->on_ready, {})) done(PrepareResult{s->end, s->report});
  Pump(s);
}

void Scheduler::OpenAttachment(const StreamPtr& s, const AttachmentPtr& attachment) {
  const AttachRequest& request = attachment->request;
  if (absl::Status status = CheckAttach(request, *s); !status.ok()) {
    return FailAttachment(attachment, status);
  }
  attachment->opened = true;
  attachment->durable_told = s->committed;
  OpenedEvent event{s->record, s->end, s->report};
  event.record.committed_position = s->committed;
  attachment->sink->OnOpened(std::move(event));
  if (request.after_position && request.resume) {
    attachment->cursor = *request.after_position;
  } else if (request.after_position && *request.after_position < s->end) {
    attachment->replay.emplace();
    attachment->replay->deliver_from = *request.after_position;
    // A character may have begun a few tokens earlier; they only prime the decoder.
    attachment->replay->next =
        *request.after_position - std::min<uint64_t>(3, *request.after_position);
    if (attachment->replay->next == 0 && tokenizer_->drops_leading_space()) {
      attachment->replay->decoder.DropLeadingSpace();
    }
    attachment->replay->until = s->end;
    attachment->cursor = s->end;
    ReplayMore(attachment);
  } else if (request.after_position) {
    attachment->cursor = s->end;
  }
}

void Scheduler::ReplayMore(const AttachmentPtr& attachment) {
  if (!attachment->replay || attachment->replay->reading) return;
  LogReplay& replay = *attachment->replay;
  const StreamPtr s = attachment->stream;
  if (s == nullptr || s->gone() || !attachment->sink->Writable()) return;
  const uint64_t to =
      std::min({replay.until, s->committed, replay.next + options_.replay_page_tokens});
  if (replay.next >= replay.until) {
    attachment->replay.reset();
    return Pump(s);
  }
  if (to <= replay.next) return;  // not acknowledged yet; an append's answer comes by here
  replay.reading = true;
  backend_->ReadTokens(s->id, replay.next, to,
                       Posted<absl::StatusOr<std::vector<TokenRun>>>(
                           [this, attachment](absl::StatusOr<std::vector<TokenRun>> runs) {
                             OnReplayPage(attachment, std::move(runs));
                           }));
}

void Scheduler::OnReplayPage(const AttachmentPtr& attachment,
                             absl::StatusOr<std::vector<TokenRun>> runs) {
  if (!attachment->replay || attachment->stream == nullptr) return;
  attachment->replay->reading = false;
  if (!runs.ok()) {
    if (!RetryLater(attachment->replay->backoff, runs.status(),
                    [this, attachment] { ReplayMore(attachment); })) {
      FailAttachment(attachment, runs.status());
    }
    return;
  }
  attachment->replay->backoff.Reset();
  for (const TokenRun& run : *runs) DeliverReplay(*attachment, run);
  ReplayMore(attachment);
}

void Scheduler::DeliverReplay(Attachment& attachment, const TokenRun& run) {
  LogReplay& replay = *attachment.replay;
  TokensEvent event;
  event.position = std::max(run.position, replay.deliver_from);
  event.author = run.author;
  event.replayed = true;
  for (size_t i = 0; i < run.ids.size(); ++i) {
    const std::string text = replay.decoder.Push(tokenizer_->TokenBytes(run.ids[i]));
    if (run.position + i < replay.deliver_from) continue;
    event.ids.push_back(run.ids[i]);
    event.text += text;
  }
  replay.next = run.position + run.ids.size();
  if (event.ids.empty()) return;
  stats_.delivered_tokens += event.ids.size();
  attachment.sink->OnTokens(std::move(event));
}

void Scheduler::PokeReplays() {
  std::vector<AttachmentPtr> waiting;
  for (const auto& [id, attachment] : attachments_) {
    if (attachment->replay) waiting.push_back(attachment);
  }
  for (const AttachmentPtr& attachment : waiting) ReplayMore(attachment);
}

void Scheduler::Detach(AttachmentId id) {
  auto found = attachments_.find(id);
  if (found == attachments_.end()) return;
  const AttachmentPtr attachment = found->second;
  const StreamPtr s = attachment->stream;
  ForgetAttachment(attachment);
  if (s != nullptr && !s->gone()) Pump(s);
}

void Scheduler::FailAttachment(const AttachmentPtr& attachment, const absl::Status& status) {
  ForgetAttachment(attachment);
  attachment->sink->OnError(status);
}

void Scheduler::ForgetAttachment(const AttachmentPtr& attachment) {
  attachments_.erase(attachment->id);
  attachment->replay.reset();
  for (const auto& op : std::exchange(attachment->early, {})) queued_tokens_ -= op->ids.size();
  const StreamPtr s = std::exchange(attachment->stream, nullptr);
  if (s == nullptr) return;
  std::erase(s->attachments, attachment);
  for (auto op = s->ops.begin(); op != s->ops.end();) {
    if ((*op)->attachment != attachment->id) {
      ++op;
      continue;
    }
    // What is in the log stays there; the rest of the operation is not carried out.
    (*op)->attachment = 0;
    (*op)->outbox.clear();
    if ((*op)->stage == Op::Stage::kGenerating) Finish(*s, **op, FinishReason::kCancelled, s->end);
    if ((*op)->stage == Op::Stage::kQueued || (*op)->stage == Op::Stage::kFetching ||
        (*op)->stage == Op::Stage::kFetched) {
      queued_tokens_ -= (*op)->ids.size();
      op = s->ops.erase(op);
    } else {
      ++op;
    }
  }
  s->last_used = std::chrono::steady_clock::now();
}

void Scheduler::DropStream(const StreamPtr& s, const absl::Status& status) {
  if (s->gone()) return;
  for (const AttachmentPtr& attachment : std::vector<AttachmentPtr>(s->attachments)) {
    ForgetAttachment(attachment);
    if (absl::IsAborted(status)) {
      attachment->sink->OnReleased(s->closing ? s->closing->target : "");
    } else {
      attachment->sink->OnError(status);
    }
  }
  for (auto& op : std::exchange(s->ops, {})) {
    queued_tokens_ -= op->ids.size();
    if (op->on_snapshot) op->on_snapshot(status);
    if (op->on_inspect) op->on_inspect(status);
  }
  for (auto& done : std::exchange(s->on_ready, {})) done(status);
  if (auto on_upload = std::exchange(s->on_upload, nullptr)) on_upload(status);
  if (s->closing) {
    for (auto& done : std::exchange(s->closing->done, {})) done(status);
  }
  if (s->slot) DropSlot(s);
  s->phase = Phase::kGone;
  s->restore.reset();
  s->upload.reset();
  std::erase(slot_queue_, s);
  std::erase(closing_, s);
  if (auto found = streams_.find(s->id); found != streams_.end() && found->second == s) {
    streams_.erase(found);
  }
  CheckDrained();
}

void Scheduler::Prepare(std::string stream_id, bool takeover,
                        Engine::Callback<PrepareResult> done) {
  OwnStream(stream_id, takeover, nullptr, std::make_shared<Backoff>(),
            [this, stream_id, done](absl::StatusOr<StreamPtr> opened) {
              if (!opened.ok()) return done(opened.status());
              const StreamPtr& s = *opened;
              if (s->closing) return done(absl::UnavailableError(stream_id + " is leaving"));
              s->last_used = std::chrono::steady_clock::now();
              if (s->phase == Phase::kReady) {
                return done(PrepareResult{s->end, ResidentReport(*s)});
              }
              s->on_ready.push_back(done);
              if (s->phase == Phase::kParked) NeedSlot(s);
            });
}

}  // namespace lola::engine
