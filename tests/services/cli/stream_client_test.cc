// The command line's side of a stream, against a gateway that does what a test says.
#include "services/cli/stream_client.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <future>

#include "services/rpc/channel.h"
#include "services/rpc/server_runner.h"

namespace lola::cli {
namespace {

using ::testing::HasSubstr;
using Calling = grpc::ServerReaderWriter<v1::StreamReply, v1::StreamRequest>;

class ScriptedGateway final : public v1::Inference::Service {
 public:
  // What becomes of a call after its open message was answered, by the number of the call.
  std::function<grpc::Status(int call, Calling* stream)> script;
  std::atomic<int> calls{0};

  grpc::Status Stream(grpc::ServerContext*, Calling* stream) override {
    v1::StreamRequest request;
    stream->Read(&request);
    v1::StreamReply opened;
    opened.mutable_opened();
    stream->Write(opened);
    return script(++calls, stream);
  }
};

class StreamClientTest : public ::testing::Test {
 protected:
  StreamClientTest() {
    server_ = *rpc::Server::Start({.bind = "127.0.0.1:0"}, {&gateway_});
    connection_.endpoint = "here";
    connection_.inference = v1::Inference::NewStub(*rpc::MakeChannel(server_->address()));
    v1::OpenStream open;
    open.set_stream_id("s");
    client_ = std::make_unique<StreamClient>(&connection_, open, std::chrono::seconds(20),
                                             StreamClient::OnNotice());
  }
  // Opens the stream first.
  absl::StatusOr<v1::OpDone> Generate() {
    v1::GenerateOp op;
    op.set_max_tokens(3);
    return client_->Generate(op, {});
  }
  static v1::StreamReply Done(const v1::StreamRequest& request, v1::FinishReason reason) {
    v1::StreamReply reply;
    reply.set_request_id(request.request_id());
    reply.mutable_done()->set_finish_reason(reason);
    return reply;
  }

  ScriptedGateway gateway_;
  std::unique_ptr<rpc::Server> server_;
  Connection connection_;
  std::unique_ptr<StreamClient> client_;
};

// Ctrl-C while the connection is gone must not be forgotten when it is back.
TEST_F(StreamClientTest, ACancelHoldsForTheRepeatedOperation) {
  gateway_.script = [this](int call, Calling* stream) {
    v1::StreamRequest request, next;
    stream->Read(&request);
    if (call == 1) {
      client_->Cancel();
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "scripted break");
    }
    auto read = std::async(std::launch::async, [&] { return stream->Read(&next); });
    const bool came = read.wait_for(std::chrono::seconds(5)) == std::future_status::ready;
    stream->Write(Done(request, came && next.has_cancel() ? v1::FINISH_REASON_CANCELLED
                                                          : v1::FINISH_REASON_LENGTH));
    if (came) stream->Read(&next);
    return grpc::Status::OK;
  };
  auto done = Generate();
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->finish_reason(), v1::FINISH_REASON_CANCELLED);
  client_->Close();
}

TEST_F(StreamClientTest, ALimitIsWaitedForOnlyWhereThatHelps) {
  gateway_.script = [](int call, Calling* stream) {
    v1::StreamRequest request;
    stream->Read(&request);
    absl::Status full = absl::ResourceExhaustedError("scripted limit");
    if (call == 1) rpc::SetDetail(full, rpc::kRetryAfterMsDetail, "1");
    return rpc::ToGrpc(full);
  };
  EXPECT_TRUE(absl::IsResourceExhausted(Generate().status()));
  EXPECT_EQ(gateway_.calls, 2);
}

TEST_F(StreamClientTest, ASkippedPositionIsAnError) {
  gateway_.script = [](int, Calling* stream) {
    v1::StreamRequest request;
    stream->Read(&request);
    v1::StreamReply reply;
    reply.mutable_tokens()->set_position(1);
    reply.mutable_tokens()->add_ids(65);
    stream->Write(reply);
    stream->Write(Done(request, v1::FINISH_REASON_LENGTH));
    while (stream->Read(&request)) continue;
    return grpc::Status::OK;
  };
  const absl::Status status = Generate().status();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("position 1 came too early"));
}

}  // namespace
}  // namespace lola::cli
