// Gateway, two fake workers and two fake shards, wired over in-process channels.
#ifndef LOLA_TESTS_SERVICES_GATEWAY_WORLD_H_
#define LOLA_TESTS_SERVICES_GATEWAY_WORLD_H_

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "lola/v1/cluster.grpc.pb.h"
#include "lola/v1/inference.grpc.pb.h"
#include "services/gateway/gateway_service.h"
#include "services/rpc/server_runner.h"
#include "tests/services/gateway/fakes.h"

namespace lola::gateway {

class GatewayWorld : public ::testing::Test {
 protected:
  GatewayWorld() {
    GatewayOptions options;
    options.map = *memory::PartitionMap::FromJson(
        R"({"partitions": 64, "shards": [
             {"id": "a", "address": "shard-a:1", "partitions": "0-31"},
             {"id": "b", "address": "shard-b:1", "partitions": "32-63"}]})");
    for (FakeShard* shard : {&shard_a_, &shard_b_}) {
      servers_.push_back(*rpc::Server::StartInProcess({shard}));
      options.shards[shard == &shard_a_ ? "a" : "b"] = servers_.back()->InProcessChannel();
    }
    for (int i = 0; i < 2; ++i) {
      servers_.push_back(*rpc::Server::StartInProcess({workers_[i].get()}));
      options.workers.emplace_back(Name(i), servers_.back()->InProcessChannel());
    }
    options.outage_max = std::chrono::milliseconds(1500);
    options.health_every = std::chrono::milliseconds(50);
    gateway_ = *GatewayService::Create(options);
    // Moves and failovers need to know both.
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (gateway_->Stats().workers_healthy < 2 && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(gateway_->Stats().workers_healthy, 2u);
    gateway_server_ = *rpc::Server::StartInProcess(gateway_->services());
    inference_ = v1::Inference::NewStub(gateway_server_->InProcessChannel());
    cluster_ = v1::Cluster::NewStub(gateway_server_->InProcessChannel());
  }
  ~GatewayWorld() override {
    gateway_->Drain(std::chrono::milliseconds(0));
    gateway_server_->Shutdown(std::chrono::milliseconds(0));
    gateway_->Stop();
    for (auto& worker : workers_) worker->dead = true;
  }

  static std::string Name(int worker) { return "worker-" + std::to_string(worker) + ":1"; }
  std::string OwnerOf(const std::string& stream) {
    std::lock_guard lock(store_.mu);
    return store_.streams[stream].info.owner();
  }
  FakeWorker& Owner(const std::string& stream) {
    return *workers_[OwnerOf(stream) == Name(0) ? 0 : 1];
  }
  FakeWorker& Other(const std::string& stream) {
    return *workers_[OwnerOf(stream) == Name(0) ? 1 : 0];
  }

  // One client call: open, then what the test writes.
  struct Client {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReaderWriter<v1::StreamRequest, v1::StreamReply>> call;
    std::vector<v1::StreamReply> replies;
    std::vector<int32_t> tokens;
    int moved = 0;
    bool half_closed = false;

    // Reads until the operation `id` is done; false when the call ended before.
    bool ReadUntilDone(const std::string& id) {
      v1::StreamReply reply;
      while (call->Read(&reply)) {
        replies.push_back(reply);
        for (const int32_t token : reply.tokens().ids()) tokens.push_back(token);
        moved += reply.notice().kind() == v1::Notice::KIND_MOVED ? 1 : 0;
        if (reply.has_done() && reply.request_id() == id) return true;
      }
      return false;
    }
    void Append(const std::string& id, const std::string& text) {
      v1::StreamRequest request;
      request.set_request_id(id);
      request.mutable_append()->set_text(text);
      call->Write(request);
    }
    void Generate(const std::string& id, uint32_t tokens) {
      v1::StreamRequest request;
      request.set_request_id(id);
      request.mutable_generate()->set_max_tokens(tokens);
      call->Write(request);
    }
    grpc::Status End() {
      if (!half_closed) call->WritesDone();
      v1::StreamReply reply;
      while (call->Read(&reply)) replies.push_back(reply);
      return call->Finish();
    }
  };

  std::unique_ptr<Client> Open(const std::string& stream, bool create = true) {
    auto client = std::make_unique<Client>();
    client->context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    client->call = inference_->Stream(&client->context);
    v1::StreamRequest request;
    request.mutable_open()->set_stream_id(stream);
    request.mutable_open()->set_create_if_missing(create);
    client->call->Write(request);
    return client;
  }

  static std::vector<int32_t> Expected(uint64_t from, int count) {
    std::vector<int32_t> ids;
    for (int i = 0; i < count; ++i) ids.push_back(TokenAt(from + static_cast<uint64_t>(i)));
    return ids;
  }

  FakeStore store_;
  FakeShard shard_a_{&store_, "a"}, shard_b_{&store_, "b"};
  std::unique_ptr<FakeWorker> workers_[2] = {std::make_unique<FakeWorker>(&store_, Name(0)),
                                             std::make_unique<FakeWorker>(&store_, Name(1))};
  std::vector<std::unique_ptr<rpc::Server>> servers_;
  std::unique_ptr<GatewayService> gateway_;
  std::unique_ptr<rpc::Server> gateway_server_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<v1::Cluster::Stub> cluster_;
};

}  // namespace lola::gateway

#endif  // LOLA_TESTS_SERVICES_GATEWAY_WORLD_H_
