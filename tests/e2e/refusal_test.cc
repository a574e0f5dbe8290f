// Refusal with a reason (P7): the right code, a message that names the field and the value, nothing
// changed, and programs that exit with a non-zero status.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "lola/v1/inference.grpc.pb.h"
#include "tests/support/cluster.h"
#include "tests/support/ports.h"

namespace lola::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string Program(const std::string& name) {
  return std::string(LOLA_BINARY_DIR) + "/bin/" + name;
}

class RefusalTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    cluster_ = new Cluster({});
    cluster_->StartAll();
  }
  static void TearDownTestSuite() {
    delete cluster_;
    cluster_ = nullptr;
  }
  // What opening with `open` answers: empty when it worked.
  static std::string TryOpen(const lola::v1::OpenStream& open) {
    StreamClient::Options options = cluster_->Client(open.stream_id());
    options.open = open;
    options.patience = std::chrono::seconds(5);
    StreamClient client(options);
    return client.Open();
  }
  static Cluster* cluster_;
};
Cluster* RefusalTest::cluster_ = nullptr;

TEST_F(RefusalTest, UnknownStreamIsNotFoundByName) {
  lola::v1::OpenStream open;
  open.set_stream_id("nobody-made-this");
  EXPECT_THAT(TryOpen(open), AllOf(HasSubstr("code 5"), HasSubstr("nobody-made-this")));
}

TEST_F(RefusalTest, BadStreamIdIsInvalidByName) {
  lola::v1::OpenStream open;
  open.set_stream_id("no spaces allowed");
  open.set_create_if_missing(true);
  EXPECT_THAT(TryOpen(open), AllOf(HasSubstr("code 3"), HasSubstr("stream_id")));
}

TEST_F(RefusalTest, AnotherModelIsRefusedWithBothFingerprints) {
  lola::v1::OpenStream open;
  open.set_stream_id("wrong-model");
  open.set_create_if_missing(true);
  open.set_model_fingerprint("0123456789abcdef");
  EXPECT_THAT(TryOpen(open),
              AllOf(HasSubstr("code 9"), HasSubstr("0123456789abcdef"), HasSubstr("fingerprint")));
  EXPECT_EQ(cluster_->Describe("wrong-model").stream_id(), "") << "a refused open must not create";
}

TEST_F(RefusalTest, OtherSettingsForALivingStreamAreRefused) {
  lola::v1::OpenStream open;
  open.set_stream_id("settled");
  open.set_create_if_missing(true);
  ASSERT_EQ(TryOpen(open), "") << cluster_->Logs();
  open.mutable_settings()->set_cache_pairs(3);
  EXPECT_THAT(TryOpen(open), AllOf(HasSubstr("code 9"), HasSubstr("cache_pairs")));
}

TEST_F(RefusalTest, TokenIdOutOfRangeIsRefusedAndNothingIsAppended) {
  StreamClient client(cluster_->Client("range"));
  ASSERT_EQ(client.Open(), "");
  client.Close();
  auto stub = lola::v1::Inference::NewStub(
      grpc::CreateChannel(cluster_->gateway_address(0), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  lola::v1::GenerateRequest request;
  request.mutable_open()->set_stream_id("range");
  request.mutable_append()->mutable_tokens()->add_ids(5);
  request.mutable_append()->mutable_tokens()->add_ids(999999);
  auto reader = stub->Generate(&context, request);
  lola::v1::StreamReply reply;
  while (reader->Read(&reply)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("999999"));
  EXPECT_EQ(cluster_->Describe("range").committed_position(), 0u);
}

TEST_F(RefusalTest, OversizedAppendIsRefusedWithTheLimit) {
  StreamClient client(cluster_->Client("large"));
  ASSERT_EQ(client.Open(), "");
  EXPECT_THAT(client.Append(std::string(3u << 20, 'x')), HasSubstr("text"));
  EXPECT_EQ(cluster_->Describe("large").committed_position(), 0u);
}

TEST_F(RefusalTest, PortInUseNamesTheAddress) {
  const CommandResult result =
      RunProgram({Program("lola-gateway"), "--bind", cluster_->gateway_address(0), "--map",
                  cluster_->folder() + "/map.json", "--workers", cluster_->worker_address(0)},
                 std::chrono::seconds(20));
  EXPECT_GT(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr(cluster_->gateway_address(0)));
}

TEST_F(RefusalTest, PublicBindWithoutTlsIsRefused) {
  const CommandResult result =
      RunProgram({Program("lola-gateway"), "--bind", "0.0.0.0:0", "--map",
                  cluster_->folder() + "/map.json", "--workers", cluster_->worker_address(0)},
                 std::chrono::seconds(20));
  EXPECT_GT(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr("--insecure"));
}

TEST_F(RefusalTest, TruncatedWeightsStopTheWorkerWithTheFileName) {
  TempFolder folder;
  const std::string model = folder.path() + "/model";
  std::filesystem::copy(cluster_->options().model, model);
  std::filesystem::resize_file(model + "/model.safetensors", 50000);
  const CommandResult result =
      RunProgram({Program("lola-worker"), "--bind", "127.0.0.1:0", "--model", model, "--map",
                  cluster_->folder() + "/map.json"},
                 std::chrono::seconds(20));
  EXPECT_GT(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr("model.safetensors"));
}

TEST_F(RefusalTest, UnknownFlagAndUnknownConfigKeyAreErrors) {
  const CommandResult flag =
      RunProgram({Program("lola-memory"), "--no-such-flag", "1"}, std::chrono::seconds(20));
  EXPECT_GT(flag.exit_code, 0);
  EXPECT_THAT(flag.output, HasSubstr("no-such-flag"));
  TempFolder folder;
  std::ofstream(folder.path() + "/c.toml") << "no-such-key = 1\n";
  const CommandResult key = RunProgram(
      {Program("lola-memory"), "--config", folder.path() + "/c.toml"}, std::chrono::seconds(20));
  EXPECT_GT(key.exit_code, 0);
  EXPECT_THAT(key.output, HasSubstr("no-such-key"));
}

TEST_F(RefusalTest, CommandLineTellsAnUnreachableEndpoint) {
  const int port = ReservePort();
  const std::string endpoint = "127.0.0.1:" + std::to_string(port);
  const CommandResult result =
      RunProgram({Program("lola"), "ls", "--endpoint", endpoint}, std::chrono::seconds(30));
  EXPECT_EQ(result.exit_code, 3) << result.output;
  EXPECT_THAT(result.output, HasSubstr(endpoint));
}

}  // namespace
}  // namespace lola::testing
