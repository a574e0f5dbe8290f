// Workers that compute with different instructions: a stream moves between them from the same
// bytes, and everybody who asks is told that it goes on to a tolerance; between equal ones nothing
// is said and no bit changes.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/core/cpu.h"
#include "lola/v1/cluster.grpc.pb.h"
#include "lola/v1/inference.grpc.pb.h"
#include "tests/support/cluster.h"

namespace lola::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using v1::RestoreReport;

const std::string kPlain = "scalar";  // every machine has it

lola::v1::GenerateOp Greedy(uint32_t max_tokens) {
  lola::v1::GenerateOp op;
  op.set_max_tokens(max_tokens);
  op.set_ignore_eos(true);
  return op;
}

std::string Lola(const Cluster& cluster, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), std::string(LOLA_BINARY_DIR) + "/bin/lola");
  arguments.insert(arguments.end(), {"--endpoint", cluster.gateway_address(0)});
  const CommandResult result = RunProgram(arguments, std::chrono::seconds(60));
  EXPECT_EQ(result.exit_code, 0) << result.output << cluster.Logs();
  return result.output;
}

// A stream that one worker began and the other one goes on with, its client attached all the time.
struct Moved {
  explicit Moved(Cluster& cluster) : client(cluster.Client("s")) {
    EXPECT_EQ(client.Open(), "") << cluster.Logs();
    first = client.opened().restore();
    EXPECT_EQ(client.Append("sand, stone, water, wind; and so on, for a while, over the plain"),
              "");
    EXPECT_EQ(client.Generate(Greedy(60)), "");
    target = 1 - cluster.OwnerOf("s");
    auto stub = lola::v1::Cluster::NewStub(
        grpc::CreateChannel(cluster.gateway_address(0), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    lola::v1::MigrateRequest request;
    request.set_stream_id("s");
    const grpc::Status status = stub->Migrate(&context, request, &migrated);
    EXPECT_TRUE(status.ok()) << status.error_message() << cluster.Logs();
    EXPECT_EQ(client.Generate(Greedy(60)), "");
    EXPECT_EQ(client.notices().size(), 1u);
  }
  StreamClient client;
  RestoreReport first;
  int target = -1;
  lola::v1::MigrateReply migrated;
};

TEST(Arithmetic, AMoveToAnotherInstructionClassIsSaidInEveryReply) {
  const std::string best(kernels::InstructionClasses().front());
  if (best == kPlain) GTEST_SKIP() << "this machine has one instruction class";
  ClusterOptions options;
  options.flags_of_worker[1] = {"--instructions", kPlain};
  Cluster cluster(options);
  cluster.StartAll();
  Moved moved(cluster);
  const std::string after = moved.target == 1 ? kPlain : best;
  const std::string before = moved.target == 1 ? best : kPlain;
  EXPECT_EQ(moved.first.continuation(), RestoreReport::CONTINUATION_EXACT);
  EXPECT_EQ(moved.first.instruction_class(), before);

  const lola::v1::Notice& notice = moved.client.notices().front();
  const RestoreReport& report = notice.restore();
  EXPECT_EQ(report.continuation(), RestoreReport::CONTINUATION_TOLERANCE);
  EXPECT_EQ(report.instruction_class(), after);
  EXPECT_THAT(report.computed_by(), ElementsAre(before));
  const std::string said = "computed by " + before + ", goes on with " + after;
  EXPECT_THAT(notice.text(), HasSubstr(said));
  EXPECT_EQ(moved.migrated.restore().continuation(), RestoreReport::CONTINUATION_TOLERANCE);
  EXPECT_THAT(moved.migrated.restore().computed_by(), ElementsAre(before));

  // A client that comes later hears it too, and people see it.
  StreamClient late(cluster.Client("s"));
  ASSERT_EQ(late.Open(), "");
  EXPECT_EQ(late.opened().restore().continuation(), RestoreReport::CONTINUATION_TOLERANCE);
  EXPECT_EQ(late.opened().info().instruction_class(), after);
  late.Close();
  EXPECT_THAT(Lola(cluster, {"inspect", "s"}), HasSubstr("computed by " + before + ", " + after));
  EXPECT_THAT(Lola(cluster, {"describe", "s"}), HasSubstr(after));
  EXPECT_THAT(Lola(cluster, {"workers"}), HasSubstr(kPlain));
  EXPECT_THAT(Lola(cluster, {"migrate", "s"}), HasSubstr("equal to a tolerance"));
}

TEST(Arithmetic, AMoveWithinAClassIsExact) {
  ClusterOptions options;
  options.worker_flags = {"--instructions", kPlain};
  Cluster cluster(options);
  cluster.StartAll();
  Moved moved(cluster);
  const lola::v1::Notice& notice = moved.client.notices().front();
  EXPECT_EQ(notice.restore().continuation(), RestoreReport::CONTINUATION_EXACT);
  EXPECT_THAT(notice.restore().computed_by(), ElementsAre(kPlain));
  EXPECT_THAT(notice.text(), Not(HasSubstr("tolerance")));
  EXPECT_EQ(moved.migrated.restore().continuation(), RestoreReport::CONTINUATION_EXACT);
}

TEST(Arithmetic, InstructionsThatTheMachineLacksAreRefusedByName) {
  const CommandResult result =
      RunProgram({std::string(LOLA_BINARY_DIR) + "/bin/lola-worker", "--instructions", "abacus"},
                 std::chrono::seconds(30));
  EXPECT_NE(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr("instructions: \"abacus\" (this machine has: auto, "));
}

}  // namespace
}  // namespace lola::testing
