#include "services/gateway/stream_call.h"

#include <deque>
#include <utility>
#include <vector>

#include "services/rpc/request_checks.h"
#include "services/rpc/status_map.h"
#include "services/rpc/wire_text.h"

namespace lola::gateway {
namespace {

// Parses `buffer`; on failure says which field is to blame when that can be told.
template <typename Message>
absl::Status Parse(const grpc::ByteBuffer& buffer, Message* message) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (buffer.Dump(&slices).ok()) {
    for (const grpc::Slice& slice : slices) {
      bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
  }
  const std::string text = rpc::FindInvalidText(*Message::descriptor(), bytes);
  if (!text.empty()) return absl::InvalidArgumentError(text);
  if (message->ParseFromString(bytes)) return absl::OkStatus();
  return absl::InvalidArgumentError("request: " + std::to_string(bytes.size()) + " bytes are no " +
                                    Message::descriptor()->full_name());
}

grpc::ByteBuffer Serialize(const v1::StreamReply& reply) {
  grpc::ByteBuffer buffer;
  bool own = false;
  (void)grpc::GenericSerialize<grpc::ProtoBufferWriter, v1::StreamReply>(reply, &buffer, &own);
  return buffer;
}

bool ClientsFault(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDeadlineExceeded:
      return false;
    default:
      return true;
  }
}

// What both kinds of calls share: the queue of replies and the end. `Reactor` has StartWrite and
// Finish.
template <typename Reactor>
class CallBase : public Reactor, public ClientSink {
 public:
  CallBase(const AttachmentWorld& world, CallRegistry* registry)
      : world_(world), registry_(registry) {
    ++world_.counts->calls;
    const uint64_t open = ++world_.counts->open_streams;
    if (open <= world_.calls_max) return;
    absl::Status full = absl::ResourceExhaustedError("calls: " + std::to_string(open - 1) +
                                                     " are open at this gateway, at most " +
                                                     std::to_string(world_.calls_max));
    rpc::SetDetail(full, rpc::kRetryAfterMsDetail, "200");
    End(full);
  }

  // ClientSink, under the attachment's lock.
  void Send(v1::StreamReply reply) override {
    std::lock_guard lock(mu_);
    queue_.push_back(Serialize(reply));
    if (!writing_) WriteNext();
  }
  size_t Waiting() const override {
    std::lock_guard lock(mu_);
    return queue_.size();
  }
  void End(const absl::Status& status) override {
    if (!status.ok()) {
      ++(ClientsFault(status) ? world_.counts->calls_refused : world_.counts->calls_failed);
    }
    std::lock_guard lock(mu_);
    if (ending_) return;
    ending_ = true;
    status_ = status;
    if (!writing_) Finish();
  }

 protected:
  void OnWriteDone(bool ok) override {
    {
      std::lock_guard lock(mu_);
      writing_ = false;
      if (!ok) queue_.clear();  // the client is gone; OnCancel tells the attachment
      if (!queue_.empty()) {
        WriteNext();
      } else if (ending_) {
        Finish();
      }
    }
    if (auto attachment = Attached()) attachment->OnReplyWritten();
  }

  // Not attached yet: the read under way fails and ends the call.
  void OnCancel() override {
    if (auto attachment = Attached()) {
      attachment->Abandon(absl::CancelledError("the client went away"));
    }
  }

  void OnDone() override {
    // Whoever ended the call may still be inside End.
    if (auto attachment = Attached()) registry_->Remove(attachment);
    --world_.counts->open_streams;
    delete this;
  }

  // Starts serving `open`; false when the call was refused instead.
  bool Attach(v1::StreamRequest open) {
    auto attachment = std::make_shared<Attachment>(world_, this, std::move(open));
    if (!registry_->Add(attachment)) {
      End(absl::UnavailableError("this gateway is shutting down: use another one"));
      return false;
    }
    {
      std::lock_guard lock(mu_);
      attachment_ = attachment;
    }
    attachment->Start();
    return true;
  }

  std::shared_ptr<Attachment> Attached() const {
    std::lock_guard lock(mu_);
    return attachment_;
  }
  bool ending() const {
    std::lock_guard lock(mu_);
    return ending_;
  }

  const AttachmentWorld world_;
  CallRegistry* const registry_;

 private:
  // mu_ held.
  void WriteNext() {
    writing_ = true;
    current_ = std::move(queue_.front());
    queue_.pop_front();
    Reactor::StartWrite(&current_);
  }
  void Finish() {
    if (finished_) return;
    finished_ = true;
    Reactor::Finish(rpc::ToGrpc(status_));
  }

  mutable std::mutex mu_;  // guards everything below
  std::shared_ptr<Attachment> attachment_;
  std::deque<grpc::ByteBuffer> queue_;
  grpc::ByteBuffer current_;
  bool writing_ = false, ending_ = false, finished_ = false;
  absl::Status status_;
};

class StreamCall final
    : public CallBase<grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>> {
 public:
  StreamCall(const AttachmentWorld& world, CallRegistry* registry) : CallBase(world, registry) {
    if (!ending()) StartRead(&buffer_);
  }

  void ReadNext() override { StartRead(&buffer_); }

 private:
  void OnReadDone(bool ok) override {
    const std::shared_ptr<Attachment> attachment = Attached();
    if (!ok) {
      if (attachment != nullptr) {
        attachment->OnClientDone();
      } else {
        End(absl::InvalidArgumentError("the call ended without an open message"));
      }
      return;
    }
    v1::StreamRequest request;
    absl::Status status = Parse(buffer_, &request);
    if (status.ok()) {
      status = rpc::CheckRequest(request, attachment == nullptr, world_.workers->Vocabulary());
    }
    if (!status.ok()) {
      if (attachment != nullptr) {
        attachment->Refuse(status);
      } else {
        End(status);
      }
    } else if (attachment == nullptr) {
      Attach(std::move(request));
    } else {
      attachment->OnRequest(std::move(request));
    }
  }

  grpc::ByteBuffer buffer_;
};

// open, append and generate of one message, one after the other.
class GenerateCall final : public CallBase<grpc::ServerWriteReactor<grpc::ByteBuffer>> {
 public:
  GenerateCall(const AttachmentWorld& world, CallRegistry* registry, const grpc::ByteBuffer& buffer)
      : CallBase(world, registry) {
    if (ending()) return;
    v1::GenerateRequest request;
    absl::Status status = Parse(buffer, &request);
    if (status.ok()) status = rpc::CheckGenerateRequest(request, world.workers->Vocabulary());
    if (!status.ok()) {
      End(status);
      return;
    }
    v1::StreamRequest open;
    *open.mutable_open() = std::move(*request.mutable_open());
    if (!Attach(std::move(open))) return;
    const std::shared_ptr<Attachment> attachment = Attached();
    if (request.has_append()) {
      v1::StreamRequest append;
      *append.mutable_append() = std::move(*request.mutable_append());
      attachment->OnRequest(std::move(append));
    }
    if (request.has_generate()) {
      v1::StreamRequest generate;
      *generate.mutable_generate() = std::move(*request.mutable_generate());
      attachment->OnRequest(std::move(generate));
    }
    attachment->OnClientDone();
  }

  void ReadNext() override {}
};

}  // namespace

bool CallRegistry::Add(const std::shared_ptr<Attachment>& attachment) {
  std::lock_guard lock(mu_);
  if (draining_) return false;
  calls_.insert(attachment);
  return true;
}

void CallRegistry::Remove(const std::shared_ptr<Attachment>& attachment) {
  std::lock_guard lock(mu_);
  calls_.erase(attachment);
}

void CallRegistry::Drain() {
  std::set<std::shared_ptr<Attachment>> calls;
  {
    std::lock_guard lock(mu_);
    draining_ = true;
    calls = calls_;
  }
  for (const auto& call : calls) call->Drain();
}

void CallRegistry::Abandon(const absl::Status& status) {
  std::set<std::shared_ptr<Attachment>> calls;
  {
    std::lock_guard lock(mu_);
    calls = calls_;
  }
  for (const auto& call : calls) call->Abandon(status);
}

void CallRegistry::WorkerUnwell(const std::string& worker, const absl::Status& why) {
  std::set<std::shared_ptr<Attachment>> calls;
  {
    std::lock_guard lock(mu_);
    calls = calls_;
  }
  for (const auto& call : calls) call->OnWorkerUnwell(worker, why);
}

size_t CallRegistry::size() const {
  std::lock_guard lock(mu_);
  return calls_.size();
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* NewStreamCall(
    const AttachmentWorld& world, CallRegistry* registry) {
  return new StreamCall(world, registry);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* NewGenerateCall(const AttachmentWorld& world,
                                                            CallRegistry* registry,
                                                            const grpc::ByteBuffer& request) {
  return new GenerateCall(world, registry, request);
}

}  // namespace lola::gateway
