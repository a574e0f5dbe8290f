// Everything has a bound (P8), with real processes: far more clients and streams than calls, open
// streams, slots and queues. Whatever is refused says RESOURCE_EXHAUSTED and when to come back,
// nothing accepted is lost, memory does not follow the load, and afterwards all is as before.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "lola/v1/cluster.grpc.pb.h"
#include "lola/v1/inference.grpc.pb.h"
#include "services/rpc/status_map.h"
#include "tests/support/cluster.h"

namespace lola::testing {
namespace {

using std::chrono::milliseconds;

constexpr uint32_t kTokens = 32;                  // generated on every stream
constexpr size_t kQueueTokens = 8192;             // of the worker
constexpr size_t kBulkBytes = size_t{256} << 10;  // an append far larger than that
constexpr char kPrompt[] = "many come at once; ";

ClusterOptions SmallLimits() {
  ClusterOptions options;
  options.shards = 1;
  options.workers = 1;
  options.worker_flags = {"--slots",
                          "4",
                          "--open-streams",
                          "12",
                          "--slot-slice",
                          "20ms",
                          "--idle-demote",
                          "50ms",
                          "--idle-release",
                          "100ms",
                          "--queued-operations",
                          "4",
                          "--queued-tokens",
                          std::to_string(kQueueTokens)};
  options.gateway_flags = {"--calls-max", "20"};
  options.shard_flags = {"--threads", "2", "--queue-max", "16"};
  return options;
}

// Refusals by the word in front of the message ("calls", "open_streams", ...), and whatever was no
// proper refusal. Thread-safe.
class Refusals {
 public:
  // How long the refused caller was told to wait.
  milliseconds Take(const grpc::Status& status) {
    const auto hint = rpc::GetDetail(rpc::FromGrpc(status), rpc::kRetryAfterMsDetail).value_or("");
    std::lock_guard lock(mu_);
    if (status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED || hint.empty()) {
      wrong_.push_back("code " + std::to_string(status.error_code()) + ", hint '" + hint +
                       "': " + status.error_message());
      return milliseconds(200);
    }
    const std::string& text = status.error_message();
    ++by_word_[text.substr(0, text.find(':'))];
    return milliseconds(std::stoi(hint));
  }
  std::map<std::string, int> by_word() const {
    std::lock_guard lock(mu_);
    return by_word_;
  }
  std::string Wrong() const {
    std::lock_guard lock(mu_);
    return wrong_.empty() ? "" : std::to_string(wrong_.size()) + " times, first " + wrong_.front();
  }

 private:
  mutable std::mutex mu_;
  std::map<std::string, int> by_word_;
  std::vector<std::string> wrong_;
};

// One stream of one client: the prompt and kTokens generated tokens, in as many calls as it takes.
class LoadClient {
 public:
  LoadClient(lola::v1::Inference::Stub* stub, std::string id) : stub_(stub), id_(std::move(id)) {}

  // One call; what it got is kept, so the next one goes on behind it.
  grpc::Status Try() {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    auto call = stub_->Stream(&context);
    v1::StreamRequest open;
    open.mutable_open()->set_stream_id(id_);
    open.mutable_open()->set_create_if_missing(true);
    open.mutable_open()->set_after_position(end_);
    v1::StreamRequest append;
    append.mutable_append()->set_text(kPrompt);
    append.mutable_append()->set_base_position(0);
    v1::StreamRequest generate;
    generate.set_request_id("generate");
    generate.mutable_generate()->set_base_position(sizeof(kPrompt) - 1);
    generate.mutable_generate()->set_max_tokens(kTokens);
    generate.mutable_generate()->set_ignore_eos(true);
    generate.mutable_generate()->mutable_sampling()->set_temperature(1.0f);
    generate.mutable_generate()->mutable_sampling()->set_seed(5);
    call->Write(open) && call->Write(append) && call->Write(generate) && call->WritesDone();
    v1::StreamReply reply;
    while (call->Read(&reply)) {
      if (reply.has_tokens()) Take(reply.tokens());
      done_ = done_ || (reply.has_done() && reply.request_id() == "generate");
    }
    return call->Finish();
  }

  // Until the stream is complete.
  void Run(Refusals* refusals) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(90);
    while (!done_ && std::chrono::steady_clock::now() < end) {
      const grpc::Status status = Try();
      if (status.ok()) continue;
      ++refused_;
      std::this_thread::sleep_for(refusals->Take(status));
    }
  }

  bool done() const { return done_; }
  int refused() const { return refused_; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  const std::string& problem() const { return problem_; }

 private:
  void Take(const v1::TokenOutput& output) {
    for (int i = 0; i < output.ids_size(); ++i) {
      const uint64_t position = output.position() + static_cast<uint64_t>(i);
      if (end_ > 0 && position != end_) {
        problem_ = "position " + std::to_string(position) + " after " + std::to_string(end_);
      }
      end_ = position + 1;
      if (output.author() == v1::TOKEN_AUTHOR_MODEL) tokens_.push_back(output.ids(i));
    }
  }

  lola::v1::Inference::Stub* const stub_;
  const std::string id_;
  uint64_t end_ = 0;  // everything below was received; 0 = nothing yet
  bool done_ = false;
  int refused_ = 0;
  std::vector<int32_t> tokens_;
  std::string problem_;
};

class OverloadTest : public ::testing::Test {
 protected:
  OverloadTest() : cluster_(SmallLimits()) {
    cluster_.StartAll();
    channel_ = grpc::CreateChannel(cluster_.gateway_address(0), grpc::InsecureChannelCredentials());
    stub_ = v1::Inference::NewStub(channel_);
  }

  using Memory = std::array<size_t, 3>;  // gateway, worker, shard
  Memory Resident() {
    return {ResidentBytes(cluster_.gateway(0).pid()), ResidentBytes(cluster_.worker(0).pid()),
            ResidentBytes(cluster_.shard(0).pid())};
  }

  // Opens a call of a stream; whether it was opened.
  bool Open(const std::string& id,
            grpc::ClientReaderWriter<v1::StreamRequest, v1::StreamReply>* call) {
    v1::StreamRequest open;
    open.mutable_open()->set_stream_id(id);
    open.mutable_open()->set_create_if_missing(true);
    v1::StreamReply reply;
    call->Write(open);
    while (call->Read(&reply)) {
      if (reply.has_opened()) return true;
    }
    return false;
  }

  // Appends that fill the whole queue of the worker, side by side: taken, or refused with a hint.
  void Crowd(const std::string& id, int times, Refusals* refusals) {
    for (int i = 0; i < times; ++i) {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
      auto call = stub_->Stream(&context);
      v1::StreamRequest append;
      append.mutable_append()->set_text(std::string(kQueueTokens, 'x'));
      if (Open(id, call.get())) call->Write(append);
      call->WritesDone();
      v1::StreamReply reply;
      while (call->Read(&reply)) continue;
      const grpc::Status status = call->Finish();
      if (!status.ok()) std::this_thread::sleep_for(refusals->Take(status));
    }
  }

  // Appends that no queue here can ever take, one after the other: waiting would not help, and the
  // error says so.
  void Push(const std::string& id, int times, Refusals* refusals, std::atomic<int>* pushed) {
    const std::string bulk(kBulkBytes, 'x');
    while (times > 0) {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
      auto call = stub_->Stream(&context);
      const bool opened = Open(id, call.get());
      v1::StreamReply reply;
      v1::StreamRequest append;
      append.mutable_append()->set_text(bulk);
      if (opened && call->Write(append)) {
        --times;
        ++*pushed;
      }
      call->WritesDone();
      while (call->Read(&reply)) {
        EXPECT_FALSE(reply.has_done()) << "an append larger than the worker's queue was taken";
      }
      const grpc::Status status = call->Finish();
      const bool too_large =
          status.error_code() == grpc::StatusCode::INVALID_ARGUMENT &&
          status.error_message().find(std::to_string(kBulkBytes) + " tokens, at most " +
                                      std::to_string(kQueueTokens)) != std::string::npos;
      if (opened && too_large) continue;
      std::this_thread::sleep_for(refusals->Take(status));
    }
  }

  // More questions at once than the gateway's and the shard's queues hold.
  void Ask(int count, Refusals* refusals) {
    struct Question {
      grpc::ClientContext context;
      v1::DescribeRequest request;
      v1::StreamInfo info;
    };
    std::vector<Question> questions(static_cast<size_t>(count));
    std::atomic<int> open{count};
    for (Question& question : questions) {
      question.context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
      question.request.set_stream_id("undisturbed");
      stub_->async()->Describe(&question.context, &question.request, &question.info,
                               [&](const grpc::Status& status) {
                                 if (!status.ok()) refusals->Take(status);
                                 --open;
                               });
    }
    while (open > 0) std::this_thread::sleep_for(milliseconds(5));
  }

  // `clients` streams at once, beside them `pushes` bulk appends, `questions` unary calls and a
  // crowd that fills the worker's queue. Returns the highest resident memory seen meanwhile.
  Memory Wave(const std::string& name, int clients, int pushes, int questions, Refusals* refusals,
              std::vector<LoadClient>* finished) {
    std::vector<LoadClient> streams;
    for (int i = 0; i < clients; ++i) streams.emplace_back(stub_.get(), name + std::to_string(i));
    constexpr int kCrowd = 4;
    std::atomic<int> running{clients + 2 + kCrowd};
    std::atomic<int> pushed{0};
    std::vector<std::thread> threads;
    for (LoadClient& stream : streams) {
      threads.emplace_back([&] { stream.Run(refusals), --running; });
    }
    threads.emplace_back([&] { Push(name + "-bulk", pushes, refusals, &pushed), --running; });
    threads.emplace_back([&] { Ask(questions, refusals), --running; });
    for (int i = 0; i < kCrowd; ++i) {
      threads.emplace_back(
          [&, i] { Crowd(name + "-crowd-" + std::to_string(i), 10, refusals), --running; });
    }
    Memory peak = Resident();
    while (running > 0) {
      const Memory now = Resident();
      for (size_t i = 0; i < peak.size(); ++i) peak[i] = std::max(peak[i], now[i]);
      std::this_thread::sleep_for(milliseconds(20));
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(pushed, pushes);
    for (LoadClient& stream : streams) finished->push_back(std::move(stream));
    return peak;
  }

  // Until the worker owns nothing any more; false after 30 s.
  bool WaitIdle() {
    auto stub = v1::Cluster::NewStub(channel_);
    for (int i = 0; i < 300; ++i) {
      grpc::ClientContext context;
      v1::ListWorkersReply reply;
      if (stub->ListWorkers(&context, {}, &reply).ok() && reply.workers_size() == 1 &&
          reply.workers(0).info().open_streams() == 0) {
        return true;
      }
      std::this_thread::sleep_for(milliseconds(100));
    }
    return false;
  }

  Cluster cluster_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

TEST_F(OverloadTest, RefusesWithAHintLosesNothingAndStaysFlat) {
  Refusals none;
  LoadClient undisturbed(stub_.get(), "undisturbed");
  undisturbed.Run(&none);
  ASSERT_EQ(undisturbed.tokens().size(), kTokens) << cluster_.Logs();
  ASSERT_EQ(undisturbed.refused(), 0) << none.Wrong();

  Refusals refusals;
  std::vector<LoadClient> streams;
  const Memory first = Wave("first-", 60, 20, 600, &refusals, &streams);
  // What wave two pushes beyond wave one is refused: a system that kept it would hold it all. Half
  // of that is far above the noise of an allocator and far below keeping anything.
  constexpr int kMorePushes = 200;
  const Memory second = Wave("second-", 120, 20 + kMorePushes, 600, &refusals, &streams);
  const size_t margin = kMorePushes * kBulkBytes / 2;
  const char* names[] = {"gateway", "worker", "shard"};
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_GT(first[i], 0u) << names[i];
    EXPECT_LE(second[i], first[i] + margin) << names[i] << ", resident bytes of the two waves";
    std::printf("%s: resident %.1f MiB, then %.1f MiB\n", names[i], double(first[i]) / (1 << 20),
                double(second[i]) / (1 << 20));
  }

  EXPECT_EQ(refusals.Wrong(), "") << cluster_.Logs();
  for (const LoadClient& stream : streams) {
    ASSERT_TRUE(stream.done());
    EXPECT_EQ(stream.tokens(), undisturbed.tokens());
    EXPECT_EQ(stream.problem(), "");
  }
  // Each bound was met, not only one of them.
  const auto words = refusals.by_word();
  for (const char* bound : {"calls", "open_streams", "queued tokens of the worker",
                            "too many calls wait at this gateway; try again"}) {
    EXPECT_GT(words.count(bound), 0u) << bound << " was never reached";
  }
  for (const auto& [word, count] : words) std::printf("refused %4d: %s\n", count, word.c_str());

  ASSERT_TRUE(WaitIdle()) << cluster_.Logs();
  LoadClient after(stub_.get(), "after");
  after.Run(&none);
  EXPECT_EQ(after.refused(), 0) << none.Wrong();
  EXPECT_EQ(after.tokens(), undisturbed.tokens());
}

}  // namespace
}  // namespace lola::testing
