// A model as a pipeline of processes, each with some of the layers: the tokens and states of a
// single worker, whichever process is killed and wherever the stream moves.
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <string>
#include <thread>
#include <vector>

#include "lola/v1/cluster.grpc.pb.h"
#include "lola/v1/inference.grpc.pb.h"
#include "tests/support/cluster.h"
#include "tests/support/ports.h"

namespace lola::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint32_t kTokens = 400;
const char kPrompt[] =
    "A text that is longer than the window, so that every layer has something to remember: sand, "
    "stone, water, wind. The pass key of QRS is 48213. And so on, for a while, over the plain.";

std::string Program(const std::string& name) {
  return std::string(LOLA_BINARY_DIR) + "/bin/" + name;
}

lola::v1::GenerateOp Sampled(uint32_t max_tokens) {
  lola::v1::GenerateOp op;
  op.set_max_tokens(max_tokens);
  op.set_ignore_eos(true);
  op.mutable_sampling()->set_temperature(1.0f);
  op.mutable_sampling()->set_seed(7);
  return op;
}

std::vector<int32_t> Ids(const StreamClient& client) {
  std::vector<int32_t> ids;
  for (const ReceivedToken& token : client.tokens()) ids.push_back(token.id);
  return ids;
}

// What the process answers to grpc.health.v1.Health/Check: 1 serving, 2 not, -1 no answer. The two
// bytes of its reply are read by hand; there is no generated client for it here.
int Health(const std::string& address) {
  grpc::GenericStub stub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  grpc::CompletionQueue queue;
  const grpc::ByteBuffer request(nullptr, 0);
  const auto call =
      stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  grpc::ByteBuffer reply;
  grpc::Status status;
  call->StartCall();
  call->Finish(&reply, &status, &reply);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  std::vector<grpc::Slice> slices;
  if (!status.ok() || !reply.Dump(&slices).ok() || slices.empty()) return -1;
  return slices[0].size() == 2 ? slices[0].begin()[1] : -1;
}

template <typename Condition>
bool Within(std::chrono::seconds time, const Condition& holds) {
  const auto deadline = std::chrono::steady_clock::now() + time;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

// Three layers in three processes, and a single worker beside them.
class PipelineTest : public ::testing::Test {
 protected:
  static constexpr int kPipeline = 0, kSingle = 1;

  PipelineTest() : cluster_(MakeOptions()) {
    cluster_.StartAll();
    channel_ = grpc::CreateChannel(cluster_.gateway_address(0), grpc::InsecureChannelCredentials());
    inference_ = lola::v1::Inference::NewStub(channel_);
  }
  static ClusterOptions MakeOptions() {
    ClusterOptions options;
    options.shards = 1;
    options.model = "random:reference";
    options.worker_flags = {"--checkpoint-interval", "128", "--slots", "8"};
    options.pipelines[kPipeline] = {"0", {"1", "2"}};
    return options;
  }

  // `lola` at the gateway.
  CommandResult Lola(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), Program("lola"));
    arguments.insert(arguments.end(), {"--endpoint", cluster_.gateway_address(0)});
    return RunProgram(arguments, std::chrono::seconds(60));
  }
  // A worker that has just come back to its stages may not know it yet, and says UNAVAILABLE.
  void MoveTo(const std::string& stream, int worker) {
    if (cluster_.OwnerOf(stream) == worker) return;
    constexpr int kUnavailable = 3;
    CommandResult moved;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    do {
      moved = Lola({"migrate", stream, "--to", cluster_.worker_address(worker)});
    } while (moved.exit_code == kUnavailable && std::chrono::steady_clock::now() < deadline);
    ASSERT_EQ(moved.exit_code, 0) << moved.output << cluster_.Logs();
    ASSERT_EQ(cluster_.OwnerOf(stream), worker);
  }
  // The prompt and the generation on a stream that stays at the single worker.
  std::vector<int32_t> Undisturbed() {
    StreamClient client(cluster_.Client("undisturbed"));
    EXPECT_EQ(client.Open(), "") << cluster_.Logs();
    MoveTo("undisturbed", kSingle);
    EXPECT_EQ(client.Append(kPrompt), "");
    EXPECT_EQ(client.Generate(Sampled(kTokens)), "");
    return Ids(client);
  }
  std::string Digest(const std::string& stream) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    lola::v1::InspectMemoryRequest request;
    request.set_stream_id(stream);
    lola::v1::InspectMemoryReply reply;
    const grpc::Status status = inference_->InspectMemory(&context, request, &reply);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return reply.state_digest();
  }

  Cluster cluster_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<lola::v1::Inference::Stub> inference_;
};

TEST_F(PipelineTest, GivesTheTokensAndTheStateOfASingleWorkerAndMovesLikeOne) {
  const std::vector<int32_t> expected = Undisturbed();
  StreamClient client(cluster_.Client("mover"));
  ASSERT_EQ(client.Open(), "");
  MoveTo("mover", kPipeline);
  ASSERT_EQ(client.Append(kPrompt), "") << cluster_.Logs();
  ASSERT_EQ(client.Generate(Sampled(kTokens / 2)), "") << cluster_.Logs();
  EXPECT_EQ(cluster_.OwnerOf("mover"), kPipeline);
  MoveTo("mover", kSingle);
  ASSERT_EQ(client.Generate(Sampled(kTokens / 4)), "");
  MoveTo("mover", kPipeline);
  ASSERT_EQ(client.Generate(Sampled(kTokens - kTokens / 2 - kTokens / 4)), "");
  EXPECT_EQ(Ids(client), expected);
  EXPECT_EQ(client.reattachments(), 0);
  const std::string digest = Digest("mover");
  EXPECT_EQ(digest, Digest("undisturbed"));
  MoveTo("mover", kSingle);
  EXPECT_EQ(Digest("mover"), digest);
  EXPECT_THAT(Lola({"workers"}).output,
              HasSubstr("0 here, 1 at " + cluster_.stage_address(kPipeline, 0) + ", 2 at " +
                        cluster_.stage_address(kPipeline, 1)));
}

TEST_F(PipelineTest, AStageKilledInMidGenerationSendsTheStreamToAnotherWorker) {
  const std::vector<int32_t> expected = Undisturbed();
  StreamClient client(cluster_.Client("victim"));
  ASSERT_EQ(client.Open(), "");
  MoveTo("victim", kPipeline);
  ASSERT_EQ(client.Append(kPrompt), "");
  bool killed = false;
  ASSERT_EQ(client.Generate(Sampled(kTokens),
                            [&](const ReceivedToken&) {
                              if (client.tokens().size() == 150 && !killed) {
                                cluster_.stage(kPipeline, 1).Kill();
                                killed = true;
                              }
                            }),
            "")
      << cluster_.Logs();
  EXPECT_EQ(Ids(client), expected);
  EXPECT_EQ(client.reattachments(), 0) << "the gateway must keep the client's call open";
  EXPECT_EQ(cluster_.OwnerOf("victim"), kSingle);
  EXPECT_TRUE(Within(std::chrono::seconds(5), [&] {
    return Health(cluster_.worker_address(kPipeline)) == 2;
  })) << Health(cluster_.worker_address(kPipeline));
  // Until the stage is back operators read why, and afterwards the pipeline serves again.
  EXPECT_TRUE(Within(std::chrono::seconds(10), [&] {
    const std::string table = Lola({"workers"}).output;
    return table.find("away") != std::string::npos &&
           table.find(cluster_.stage_address(kPipeline, 1)) != std::string::npos;
  })) << Lola({"workers"}).output;
  cluster_.StartAll();
  EXPECT_TRUE(Within(std::chrono::seconds(5), [&] {
    return Health(cluster_.worker_address(kPipeline)) == 1;
  })) << Health(cluster_.worker_address(kPipeline));
  MoveTo("victim", kPipeline);
  ASSERT_EQ(client.Append("and on"), "") << cluster_.Logs();
  EXPECT_EQ(Digest("victim").size(), 32u);
  EXPECT_EQ(cluster_.OwnerOf("victim"), kPipeline);
}

// The worker itself, killed: the stages let go of its sessions and serve the next process.
TEST_F(PipelineTest, AFrontThatIsKilledComesBackToItsStages) {
  const std::vector<int32_t> expected = Undisturbed();
  StreamClient client(cluster_.Client("victim"));
  ASSERT_EQ(client.Open(), "");
  MoveTo("victim", kPipeline);
  ASSERT_EQ(client.Append(kPrompt), "");
  bool killed = false;
  ASSERT_EQ(client.Generate(Sampled(kTokens / 2),
                            [&](const ReceivedToken&) {
                              if (client.tokens().size() == 100 && !killed) {
                                cluster_.worker(kPipeline).Kill();
                                killed = true;
                              }
                            }),
            "")
      << cluster_.Logs();
  cluster_.StartAll();
  MoveTo("victim", kPipeline);
  ASSERT_EQ(client.Generate(Sampled(kTokens / 2)), "") << cluster_.Logs();
  EXPECT_EQ(cluster_.OwnerOf("victim"), kPipeline);
  EXPECT_EQ(Ids(client), expected);
}

// A paused stage answers no keepalive: it is as good as dead, and what it says later is not heard.
TEST_F(PipelineTest, AStageThatIsPausedIsGivenUpAndTakenBack) {
  const std::vector<int32_t> expected = Undisturbed();
  StreamClient client(cluster_.Client("victim"));
  ASSERT_EQ(client.Open(), "");
  MoveTo("victim", kPipeline);
  ASSERT_EQ(client.Append(kPrompt), "");
  bool paused = false;
  ASSERT_EQ(client.Generate(Sampled(kTokens),
                            [&](const ReceivedToken&) {
                              if (client.tokens().size() == 100 && !paused) {
                                cluster_.stage(kPipeline, 0).Signal(SIGSTOP);
                                paused = true;
                              }
                            }),
            "")
      << cluster_.Logs();
  cluster_.stage(kPipeline, 0).Signal(SIGCONT);
  EXPECT_EQ(Ids(client), expected);
  cluster_.StartAll();  // waits until the gateway knows both workers as healthy
  MoveTo("victim", kPipeline);
  EXPECT_EQ(Digest("victim"), Digest("undisturbed"));
}

// No other worker: the client's call waits for the stage.
TEST(PipelineAlone, AStageKilledAndRestartedInMidGenerationChangesNoToken) {
  ClusterOptions options;
  options.shards = 1;
  options.workers = 1;
  options.worker_flags = {"--checkpoint-interval", "128", "--slots", "8"};
  options.pipelines[0] = {"0", {"1"}};
  Cluster cluster(options);  // the tiny test model, from files: two layers
  cluster.StartAll();
  StreamClient calm(cluster.Client("calm"));
  ASSERT_EQ(calm.Open(), "") << cluster.Logs();
  ASSERT_EQ(calm.Append(kPrompt), "");
  ASSERT_EQ(calm.Generate(Sampled(kTokens)), "");
  StreamClient client(cluster.Client("victim"));
  ASSERT_EQ(client.Open(), "");
  ASSERT_EQ(client.Append(kPrompt), "");
  size_t next_kill = 60;
  int kills = 0;
  ASSERT_EQ(client.Generate(Sampled(kTokens),
                            [&](const ReceivedToken&) {
                              if (client.tokens().size() < next_kill) return;
                              next_kill += 110;
                              ++kills;
                              cluster.stage(0, 0).Kill();
                              cluster.StartStage(0, 0);
                            }),
            "")
      << cluster.Logs();
  EXPECT_GE(kills, 3);
  EXPECT_EQ(Ids(client), Ids(calm));
  EXPECT_EQ(client.reattachments(), 0);
}

class PipelineRefusals : public ::testing::Test {
 protected:
  static ClusterOptions MakeOptions() {
    ClusterOptions options;
    options.shards = 1;
    options.workers = 1;
    options.pipelines[0] = {"0", {"1"}};
    return options;
  }
  PipelineRefusals() : cluster_(MakeOptions()) {}
  // A worker that is expected to give up.
  CommandResult Front(const std::vector<std::string>& more) {
    std::vector<std::string> argv = {Program("lola-worker"),
                                     "--bind",
                                     "127.0.0.1:0",
                                     "--metrics-bind",
                                     "127.0.0.1:0",
                                     "--map",
                                     cluster_.folder() + "/map.json",
                                     "--model",
                                     cluster_.options().model,
                                     "--threads",
                                     "1"};
    argv.insert(argv.end(), more.begin(), more.end());
    return RunProgram(argv, std::chrono::seconds(30));
  }
  Cluster cluster_;
};

TEST_F(PipelineRefusals, AnotherModelAtTheStageIsRefusedNamingBothFingerprints) {
  cluster_.StartStage(0, 0, {"--dtype", "bfloat16"});
  const CommandResult result = Front({"--layers", "0", "--stages", cluster_.stage_address(0, 0)});
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr("stage " + cluster_.stage_address(0, 0)),
                                   HasSubstr("model_fingerprint: the front has "),
                                   HasSubstr(", this stage has ")));
}

TEST_F(PipelineRefusals, AStageThatIsNotThereIsNamed) {
  const std::string nowhere = "127.0.0.1:" + std::to_string(ReservePort());
  const CommandResult result =
      Front({"--layers", "0", "--stages", nowhere, "--stage-patience", "300ms"});
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_THAT(result.output, HasSubstr("lola-worker: stage " + nowhere + ": "));
}

TEST_F(PipelineRefusals, LayersThatAreNowhereAreNamed) {
  ClusterOptions twice = MakeOptions();
  twice.pipelines[0] = {"0", {"0"}};
  Cluster wrong(twice);
  wrong.StartStage(0, 0);
  const CommandResult result = Front({"--layers", "0", "--stages", wrong.stage_address(0, 0)});
  EXPECT_EQ(result.exit_code, 2) << result.output;
  EXPECT_THAT(result.output, HasSubstr("layer 0 of 2 is out of order or there twice"));
  EXPECT_THAT(Front({"--layers", "0"}).output, HasSubstr("--layers: '0' needs --stages"));
  EXPECT_THAT(Front({"--stages", "127.0.0.1:1"}).output, HasSubstr("--stages needs --layers"));
  EXPECT_THAT(Front({"--layers", "0-9", "--stages", "127.0.0.1:1"}).output,
              HasSubstr("layers: 0-9, the model has 2"));
}

TEST_F(PipelineRefusals, AStageHasOneFrontAtATime) {
  cluster_.StartAll();
  const CommandResult result = Front(
      {"--layers", "0", "--stages", cluster_.stage_address(0, 0), "--stage-patience", "500ms"});
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_THAT(result.output, HasSubstr("in use by " + cluster_.worker_address(0)));
}

}  // namespace
}  // namespace lola::testing
