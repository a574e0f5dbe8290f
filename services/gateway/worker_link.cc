#include "services/gateway/worker_link.h"

#include <utility>

#include "services/rpc/status_map.h"

namespace lola::gateway {

WorkerLink::WorkerLink(std::shared_ptr<Attachment> attachment)
    : attachment_(std::move(attachment)) {}

WorkerLink* WorkerLink::Open(std::shared_ptr<Attachment> attachment, v1::Worker::Stub& worker,
                             v1::ServeRequest attach) {
  auto* link = new WorkerLink(std::move(attachment));
  worker.async()->Serve(&link->context_, link);
  link->AddHold();  // reads and writes are started outside of reactions too
  link->Write(std::move(attach));
  link->Read();
  link->StartCall();
  return link;
}

void WorkerLink::Write(v1::ServeRequest request) {
  request_ = std::move(request);
  StartWrite(&request_);
}

void WorkerLink::Read() {
  reply_.Clear();
  StartRead(&reply_);
}

void WorkerLink::Drop() {
  context_.TryCancel();
  LetGo();
}

void WorkerLink::LetGo() {
  if (held_.exchange(false)) RemoveHold();
}

void WorkerLink::OnReadDone(bool ok) {
  if (ok) {
    attachment_->OnLinkReply(this, std::move(reply_));
  } else {
    attachment_->OnLinkClosing(this);  // before letting go: nothing may be started afterwards
    LetGo();
  }
}

void WorkerLink::OnWriteDone(bool ok) {
  if (ok) attachment_->OnLinkWritten(this);
}

void WorkerLink::OnDone(const grpc::Status& status) {
  attachment_->OnLinkEnded(this, rpc::FromGrpc(status));
  delete this;
}

}  // namespace lola::gateway
