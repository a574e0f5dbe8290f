// Unary calls: what they know, refuse, and how they end with their callers and the gateway.
#include "services/gateway/operations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

#include "tests/services/gateway/world.h"

namespace lola::gateway {
namespace {

using ::testing::HasSubstr;

TEST_F(GatewayWorld, AnotherModelIsSeenOnceTheWorkersServeIt) {
  for (auto& worker : workers_) worker->model = 2;
  v1::ModelInfo model;
  for (int i = 0; i < 1000 && model.fingerprint() != "model-2"; ++i) {
    grpc::ClientContext context;
    ASSERT_TRUE(inference_->DescribeModel(&context, {}, &model).ok());
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(model.fingerprint(), "model-2");
  EXPECT_EQ(model.vocab(), 273u);
}

TEST_F(GatewayWorld, DrainDeadlinesOutsideTheirRangeAreRefused) {
  for (const int64_t deadline : {int64_t{-1}, INT64_MAX}) {
    grpc::ClientContext context;
    v1::DrainWorkerRequest request;
    request.set_address(Name(0));
    request.set_deadline_ms(deadline);
    v1::DrainReply reply;
    const grpc::Status status = cluster_->DrainWorker(&context, request, &reply);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("deadline_ms: " + std::to_string(deadline)));
  }
}

// A caller that has gone while its call waited for a thread is not served at others' cost.
TEST_F(GatewayWorld, CallsWhoseCallerHasGoneAreNotCarriedOut) {
  const auto describe = [this](std::chrono::milliseconds patience) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + patience);
    v1::DescribeRequest request;
    request.set_stream_id("s");
    v1::StreamInfo info;
    return inference_->Describe(&context, request, &info).error_code();
  };
  const auto described = [this] { return shard_a_.describes + shard_b_.describes; };
  const int before = described();
  shard_a_.hold_describes = shard_b_.hold_describes = true;
  std::vector<std::thread> callers;
  for (size_t i = 0; i < GatewayOptions().operator_threads; ++i) {
    callers.emplace_back([&] { describe(std::chrono::seconds(60)); });
  }
  const int busy = before + static_cast<int>(callers.size());
  while (described() < busy) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(describe(std::chrono::milliseconds(100)), grpc::StatusCode::DEADLINE_EXCEEDED);
  shard_a_.hold_describes = shard_b_.hold_describes = false;
  for (std::thread& caller : callers) caller.join();
  describe(std::chrono::seconds(60));  // stands behind it in the queue
  EXPECT_EQ(described(), busy + 1);
}

// A gateway that is to end does not wait for what it does on behalf of callers.
TEST_F(GatewayWorld, ShutdownEndsCallsThatWaitForOthers) {
  shard_a_.hold_describes = shard_b_.hold_describes = true;
  std::thread caller([this] {
    grpc::ClientContext context;
    v1::DescribeRequest request;
    request.set_stream_id("s");
    v1::StreamInfo info;
    EXPECT_FALSE(inference_->Describe(&context, request, &info).ok());
  });
  while (shard_a_.describes + shard_b_.describes == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const auto start = std::chrono::steady_clock::now();
  gateway_server_->Shutdown(std::chrono::milliseconds(50));
  EXPECT_LT(std::chrono::steady_clock::now() - start, OperationDeadlines().shard / 2);
  caller.join();
  shard_a_.hold_describes = shard_b_.hold_describes = false;
}

}  // namespace
}  // namespace lola::gateway
