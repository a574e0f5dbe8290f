#include "tests/support/stream_client.h"

#include <grpcpp/grpcpp.h>

#include <thread>
#include <utility>

namespace lola::testing {
namespace {

using lola::v1::StreamReply;
using lola::v1::StreamRequest;

std::string Text(const grpc::Status& status) {
  return "code " + std::to_string(status.error_code()) + ": " + status.error_message();
}

bool Retryable(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
    case grpc::StatusCode::ABORTED:
      return true;
    default:
      return false;
  }
}

}  // namespace

struct StreamClient::Call {
  grpc::ClientContext context;
  std::unique_ptr<lola::v1::Inference::Stub> stub;
  std::unique_ptr<grpc::ClientReaderWriter<StreamRequest, StreamReply>> stream;
  grpc::Status status;
};

StreamClient::StreamClient(Options options) : options_(std::move(options)) {}
StreamClient::~StreamClient() { Close(); }

void StreamClient::Close() {
  if (call_ == nullptr) return;
  call_->stream->WritesDone();
  StreamReply ignored;
  while (call_->stream->Read(&ignored)) {
  }
  call_->stream->Finish();
  call_.reset();
}

std::string StreamClient::Attach() {
  const bool again = opened_.has_info();
  call_ = std::make_unique<Call>();
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  const std::string& target = options_.gateways[next_gateway_++ % options_.gateways.size()];
  call_->stub = lola::v1::Inference::NewStub(
      grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments));
  call_->context.set_deadline(std::chrono::system_clock::now() + options_.patience);
  call_->stream = call_->stub->Stream(&call_->context);
  StreamRequest request;
  *request.mutable_open() = options_.open;
  if (again) request.mutable_open()->set_after_position(delivered_);
  request.mutable_open()->set_resume(again);
  StreamReply reply;
  if (call_->stream->Write(request)) {
    while (call_->stream->Read(&reply)) {
      if (!reply.has_opened()) continue;
      opened_ = reply.opened();
      if (!again) position_ = delivered_ = opened_.position();
      return "";
    }
  }
  call_->status = call_->stream->Finish();
  return Text(call_->status);
}

std::string StreamClient::Open() {
  const auto deadline = std::chrono::steady_clock::now() + options_.patience;
  while (true) {
    const std::string problem = Attach();
    if (problem.empty()) return "";
    const bool again = Retryable(call_->status) && std::chrono::steady_clock::now() < deadline;
    call_.reset();
    if (!again) return "open " + options_.open.stream_id() + ": " + problem;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

std::string StreamClient::TakeTokens(const lola::v1::TokenOutput& output,
                                     const std::function<void(const ReceivedToken&)>& on_token) {
  for (int i = 0; i < output.ids_size(); ++i) {
    const uint64_t position = output.position() + static_cast<uint64_t>(i);
    if (position != delivered_) {
      return (position < delivered_ ? "duplicate: position " : "gap: position ") +
             std::to_string(position) + ", expected " + std::to_string(delivered_);
    }
    delivered_ = position + 1;
    if (output.author() == lola::v1::TOKEN_AUTHOR_CLIENT) continue;
    tokens_.push_back({position, output.ids(i)});
    if (on_token) on_token(tokens_.back());
  }
  if (output.author() != lola::v1::TOKEN_AUTHOR_CLIENT) text_ += output.text();
  return "";
}

std::string StreamClient::RunOp(const StreamRequest& request,
                                const std::function<void(const ReceivedToken&)>& on_token) {
  const auto deadline = std::chrono::steady_clock::now() + options_.patience;
  bool sent = false;
  while (true) {
    if (call_ == nullptr) {
      const std::string problem = Open();
      if (!problem.empty()) return problem;
      ++reattachments_;
      sent = false;
    }
    if (!sent) sent = call_->stream->Write(request);
    StreamReply reply;
    while (sent && call_->stream->Read(&reply)) {
      if (reply.has_notice()) notices_.push_back(reply.notice());
      if (reply.has_tokens()) {
        const std::string problem = TakeTokens(reply.tokens(), on_token);
        if (!problem.empty()) return problem;
      }
      if (reply.has_done() && reply.request_id() == request.request_id()) {
        position_ = reply.done().position();
        if (request.has_generate() && delivered_ != position_) {
          return "done at position " + std::to_string(position_) + " but tokens delivered up to " +
                 std::to_string(delivered_);
        }
        delivered_ = position_;
        return "";
      }
    }
    const grpc::Status status = call_->stream->Finish();
    call_.reset();
    // The call's deadline may come in the middle of an operation that is doing well.
    const bool again = Retryable(status) || status.error_code() == grpc::DEADLINE_EXCEEDED;
    if (!again || std::chrono::steady_clock::now() > deadline) return Text(status);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

std::string StreamClient::Append(const std::string& text) {
  StreamRequest request;
  request.set_request_id("append@" + std::to_string(position_));
  request.mutable_append()->set_text(text);
  request.mutable_append()->set_base_position(position_);
  return RunOp(request, {});
}

std::string StreamClient::Generate(const lola::v1::GenerateOp& op,
                                   const std::function<void(const ReceivedToken&)>& on_token) {
  StreamRequest request;
  request.set_request_id("generate@" + std::to_string(position_));
  *request.mutable_generate() = op;
  request.mutable_generate()->set_base_position(position_);
  return RunOp(request, on_token);
}

}  // namespace lola::testing
