// The whole system in this process, on the tiny test model.
#include "services/standalone/standalone.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "lola/v1/cluster.grpc.pb.h"
#include "services/rpc/server_runner.h"
#include "tests/support/process.h"
#include "tests/support/stream_client.h"

namespace lola::standalone {
namespace {

using ::testing::HasSubstr;

class StandaloneTest : public ::testing::Test {
 protected:
  void Start(uint32_t workers = 2, uint32_t shards = 2) {
    if (!served_.ok()) {
      served_ = worker::LoadServedModel(
          std::string(LOLA_SOURCE_DIR) + "/tests/testdata/parity/tiny_model", "float32");
    }
    ASSERT_TRUE(served_.ok()) << served_.status();
    auto system = Standalone::Create(Options(workers, shards), *served_);
    ASSERT_TRUE(system.ok()) << system.status();
    system_ = *std::move(system);
    rpc::ServerOptions server;
    server.bind = "127.0.0.1:0";
    server_ = *rpc::Server::Start(server, system_->services());
  }
  StandaloneOptions Options(uint32_t workers, uint32_t shards) const {
    StandaloneOptions options;
    options.data = folder_.path();
    options.workers = workers;
    options.shards = shards;
    options.worker.compute.threads = 1;
    options.worker.engine.slots = 4;
    return options;
  }
  void Crash() {
    server_.reset();
    system_.reset();
  }
  lola::testing::StreamClient::Options Client(const std::string& id) const {
    lola::testing::StreamClient::Options options;
    options.gateways = {server_->address()};
    options.open.set_stream_id(id);
    options.open.set_create_if_missing(true);
    options.patience = std::chrono::seconds(20);
    return options;
  }
  static v1::GenerateOp Sampled(uint32_t tokens) {
    v1::GenerateOp op;
    op.set_max_tokens(tokens);
    op.set_ignore_eos(true);
    op.mutable_sampling()->set_temperature(1);
    op.mutable_sampling()->set_seed(3);
    return op;
  }
  static std::vector<int32_t> Ids(const lola::testing::StreamClient& client) {
    std::vector<int32_t> ids;
    for (const auto& token : client.tokens()) ids.push_back(token.id);
    return ids;
  }

  lola::testing::TempFolder folder_;
  absl::StatusOr<worker::ServedModel> served_ = absl::UnknownError("not loaded");
  std::unique_ptr<Standalone> system_;
  std::unique_ptr<rpc::Server> server_;
};

TEST_F(StandaloneTest, RestartOnTheSameFolderContinuesTheSameText) {
  Start();
  std::vector<int32_t> expected;
  {
    lola::testing::StreamClient client(Client("undisturbed"));
    ASSERT_EQ(client.Open(), "");
    ASSERT_EQ(client.Append("once upon a time"), "");
    ASSERT_EQ(client.Generate(Sampled(200)), "");
    expected = Ids(client);
  }
  std::vector<int32_t> ids;
  {
    lola::testing::StreamClient client(Client("crashed"));
    ASSERT_EQ(client.Open(), "");
    ASSERT_EQ(client.Append("once upon a time"), "");
    ASSERT_EQ(client.Generate(Sampled(120)), "");
    ids = Ids(client);
  }
  Crash();
  Start();
  lola::testing::StreamClient client(Client("crashed"));
  ASSERT_EQ(client.Open(), "");
  EXPECT_EQ(client.position(), 136u);
  ASSERT_EQ(client.Generate(Sampled(80)), "");
  for (const int32_t id : Ids(client)) ids.push_back(id);
  EXPECT_EQ(ids, expected);
}

TEST_F(StandaloneTest, ManyMoreStreamsThanSlotsAndWorkersJustWork) {
  Start();
  std::vector<std::unique_ptr<lola::testing::StreamClient>> clients;
  for (int i = 0; i < 24; ++i) {
    clients.push_back(
        std::make_unique<lola::testing::StreamClient>(Client("many-" + std::to_string(i))));
    ASSERT_EQ(clients.back()->Open(), "");
    ASSERT_EQ(clients.back()->Append("text"), "");
  }
  for (auto& client : clients) ASSERT_EQ(client->Generate(Sampled(3)), "");
  for (auto& client : clients) EXPECT_EQ(Ids(*client), Ids(*clients.front()));
}

TEST_F(StandaloneTest, LayoutOfTheFolderIsKept) {
  Start(1, 2);
  Crash();
  const auto other = Standalone::Create(Options(1, 3), *served_);
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.status().message()), HasSubstr("--shards"));
  Start(3, 2);  // workers are not part of it
}

TEST_F(StandaloneTest, SeriesOfAllPartsAreThere) {
  Start();
  auto exporter = *metrics::Exporter::Start(
      "", "test", {[&](metrics::Page& page) { system_->WriteSeries(page); }});
  const std::string text = exporter->Text();
  for (const char* name :
       {"lola_gateway_calls_total", "worker=\"in-process-worker-1\"", "shard=\"shard-1\""}) {
    EXPECT_THAT(text, HasSubstr(name));
  }
}

TEST(StandaloneOptionsTest, BadNumbersAreNamed) {
  StandaloneOptions options;
  EXPECT_THAT(std::string(Standalone::Create(options, {}).status().message()), HasSubstr("--data"));
  options.data = ::testing::TempDir();
  options.workers = 0;
  EXPECT_THAT(std::string(Standalone::Create(options, {}).status().message()),
              HasSubstr("--workers"));
}

}  // namespace
}  // namespace lola::standalone
