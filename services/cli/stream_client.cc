#include "services/cli/stream_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <thread>
#include <utility>

namespace lola::cli {
namespace {

bool WorthAnotherTry(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kAborted:
      return true;
    case absl::StatusCode::kResourceExhausted:  // else a limit that waiting does not lift
      return rpc::GetDetail(status, rpc::kRetryAfterMsDetail).has_value();
    default:
      return false;
  }
}

}  // namespace

struct StreamClient::Link {
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::StreamRequest, v1::StreamReply>> call;
};

StreamClient::StreamClient(const Connection* connection, v1::OpenStream open,
                           std::chrono::milliseconds patience, OnNotice on_notice)
    : connection_(*connection),
      open_(std::move(open)),
      patience_(patience),
      on_notice_(std::move(on_notice)) {}

StreamClient::~StreamClient() { Close(); }

void StreamClient::Close() {
  if (link_ == nullptr) return;
  link_->call->WritesDone();
  v1::StreamReply ignored;
  while (link_->call->Read(&ignored)) {
  }
  (void)Finish();
}

absl::Status StreamClient::Finish() {
  const absl::Status status = rpc::FromGrpc(link_->call->Finish());
  std::lock_guard lock(write_mu_);
  link_.reset();
  return absl::IsUnavailable(status) ? rpc::Annotate(status, "endpoint " + connection_.endpoint)
                                     : status;
}

absl::Status StreamClient::Attach() {
  auto link = std::make_unique<Link>();
  link->call = connection_.inference->Stream(&link->context);
  {
    std::lock_guard lock(write_mu_);
    link_ = std::move(link);
  }
  v1::StreamRequest request;
  *request.mutable_open() = open_;
  if (was_open_) {
    request.mutable_open()->set_after_position(delivered_);
    request.mutable_open()->set_create_if_missing(false);
    request.mutable_open()->set_resume(true);  // an operation follows, see RunOp
  }
  v1::StreamReply reply;
  if (link_->call->Write(request)) {
    while (link_->call->Read(&reply)) {
      if (!reply.has_opened()) continue;
      opened_ = std::move(*reply.mutable_opened());
      if (!was_open_) position_ = delivered_ = opened_.position();
      was_open_ = true;
      return absl::OkStatus();
    }
  }
  const absl::Status status = Finish();
  return status.ok() ? absl::UnknownError("the call ended without an answer") : status;
}

absl::Status StreamClient::Open() {
  const auto deadline = std::chrono::steady_clock::now() + patience_;
  while (true) {
    const absl::Status status = Attach();
    if (status.ok() || !WorthAnotherTry(status)) return status;
    if (std::chrono::steady_clock::now() > deadline) return status;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

absl::Status StreamClient::TakeTokens(const v1::TokenOutput& tokens, const OnTokens& on_tokens) {
  if (tokens.ids_size() > 0) {
    if (tokens.position() < delivered_) {
      return absl::InternalError("position " + std::to_string(tokens.position()) +
                                 " came twice: have " + std::to_string(delivered_));
    }
    if (tokens.position() > delivered_) {
      return absl::InternalError("position " + std::to_string(tokens.position()) +
                                 " came too early: expected " + std::to_string(delivered_));
    }
    delivered_ = tokens.position() + static_cast<uint64_t>(tokens.ids_size());
  }
  if (tokens.author() != v1::TOKEN_AUTHOR_CLIENT && on_tokens) on_tokens(tokens);
  return absl::OkStatus();
}

absl::StatusOr<v1::OpDone> StreamClient::ReadUntilDone(const std::string& request_id,
                                                       const OnTokens& on_tokens) {
  v1::StreamReply reply;
  while (link_->call->Read(&reply)) {
    if (reply.has_notice() && on_notice_) on_notice_(reply.notice().text());
    if (reply.has_tokens()) {
      if (absl::Status status = TakeTokens(reply.tokens(), on_tokens); !status.ok()) {
        link_->context.TryCancel();
        (void)Finish();
        return status;
      }
    }
    if (reply.has_done() && reply.request_id() == request_id) return reply.done();
  }
  const absl::Status status = Finish();
  return status.ok() ? absl::UnavailableError("the call ended early") : status;
}

absl::StatusOr<v1::OpDone> StreamClient::RunOp(v1::StreamRequest request,
                                               const OnTokens& on_tokens) {
  request.set_request_id(std::to_string(next_id_++));
  auto deadline = std::chrono::steady_clock::now() + patience_;
  bool broken = false;
  while (true) {
    if (link_ == nullptr) {
      if (absl::Status status = Open(); !status.ok()) return status;
      reattachments_ += broken ? 1 : 0;
    }
    {
      std::lock_guard lock(write_mu_);
      link_->call->Write(request);  // a failure shows in the read
      if (cancelled_) SendCancel();
    }
    const uint64_t before = delivered_;
    auto done = ReadUntilDone(request.request_id(), on_tokens);
    if (done.ok()) {
      position_ = done->position();
      delivered_ = std::max(delivered_, position_);
      std::lock_guard lock(write_mu_);
      cancelled_ = false;
      return done;
    }
    const auto now = std::chrono::steady_clock::now();
    if (delivered_ > before) deadline = now + patience_;  // it went on in between
    if (!WorthAnotherTry(done.status()) || now > deadline) return done.status();
    broken = true;
    if (on_notice_) on_notice_("connection lost, attaching again");
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

absl::StatusOr<v1::OpDone> StreamClient::Append(const std::string& text) {
  v1::StreamRequest request;
  request.mutable_append()->set_text(text);
  request.mutable_append()->set_base_position(position_);
  return RunOp(std::move(request), {});
}

absl::StatusOr<v1::OpDone> StreamClient::AppendIds(const std::vector<int32_t>& ids) {
  v1::StreamRequest request;
  request.mutable_append()->mutable_tokens()->mutable_ids()->Add(ids.begin(), ids.end());
  request.mutable_append()->set_base_position(position_);
  return RunOp(std::move(request), {});
}

absl::StatusOr<v1::OpDone> StreamClient::Generate(const v1::GenerateOp& op,
                                                  const OnTokens& on_tokens) {
  v1::StreamRequest request;
  *request.mutable_generate() = op;
  request.mutable_generate()->set_base_position(position_);
  return RunOp(std::move(request), on_tokens);
}

void StreamClient::Cancel() {
  std::lock_guard lock(write_mu_);
  cancelled_ = true;
  if (link_ != nullptr) SendCancel();
}

void StreamClient::SendCancel() {
  v1::StreamRequest request;
  request.mutable_cancel();
  link_->call->Write(request);
}

}  // namespace lola::cli
