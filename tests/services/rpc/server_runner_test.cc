#include "services/rpc/server_runner.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <fstream>

#include "lola/v1/cluster.grpc.pb.h"
#include "services/rpc/channel.h"

namespace lola::rpc {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class MapService final : public v1::Cluster::Service {
 public:
  grpc::Status GetMap(grpc::ServerContext*, const v1::GetMapRequest*,
                      v1::PartitionMap* reply) override {
    reply->set_partitions(64);
    return grpc::Status::OK;
  }
};

ServerOptions AnyPort() {
  ServerOptions options;
  options.bind = "127.0.0.1:0";
  return options;
}

uint32_t Ask(const std::shared_ptr<grpc::Channel>& channel) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  v1::PartitionMap map;
  return v1::Cluster::NewStub(channel)->GetMap(&context, {}, &map).ok() ? map.partitions() : 0;
}

TEST(Server, PortZeroIsBoundToldAndWritten) {
  MapService service;
  ServerOptions options = AnyPort();
  options.port_file = ::testing::TempDir() + "port_file";
  auto server = Server::Start(options, {&service});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_GT((*server)->port(), 0);
  int written = 0;
  std::ifstream(options.port_file) >> written;
  EXPECT_EQ(written, (*server)->port());
  EXPECT_EQ((*server)->address(), "127.0.0.1:" + std::to_string((*server)->port()));
  EXPECT_EQ(Ask(*MakeChannel((*server)->address())), 64u);
}

TEST(Server, InProcessChannelServesTheSame) {
  MapService service;
  auto server = Server::StartInProcess({&service});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ(Ask((*server)->InProcessChannel()), 64u);
}

TEST(Server, PortInUseNamesTheAddress) {
  MapService service, other;
  auto server = Server::Start(AnyPort(), {&service});
  ASSERT_TRUE(server.ok());
  ServerOptions same;
  same.bind = (*server)->address();
  const auto second = Server::Start(same, {&other});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(same.bind));
}

TEST(Bind, OnlyLoopbackWithoutTlsOrInsecure) {
  ServerOptions options;
  for (const char* bind : {"127.0.0.1:0", "localhost:50051", "[::1]:5", "127.9.9.9:1"}) {
    options.bind = bind;
    EXPECT_TRUE(CheckBind(options).ok()) << bind;
  }
  for (const char* bind : {"0.0.0.0:0", "[::]:5", "10.0.0.1:50051", "example.org:1"}) {
    options.bind = bind;
    const absl::Status status = CheckBind(options);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << bind;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(bind), HasSubstr("--insecure"), HasSubstr("--tls-cert")));
  }
  options.insecure = true;
  EXPECT_TRUE(CheckBind(options).ok());
}

TEST(Bind, MalformedAddressesAreInvalid) {
  ServerOptions options;
  for (const char* bind : {"", "50051", ":50051", "host:", "host:port", "host:70000", "a:-1"}) {
    options.bind = bind;
    EXPECT_EQ(CheckBind(options).code(), absl::StatusCode::kInvalidArgument) << bind;
  }
}

TEST(Tls, CertificateAndKeyGoTogetherAndMustExist) {
  ServerOptions options = AnyPort();
  options.tls_cert = "no/such/cert.pem";
  EXPECT_EQ(CheckBind(options).code(), absl::StatusCode::kFailedPrecondition);
  options.tls_key = "no/such/key.pem";
  MapService service;
  const auto server = Server::Start(options, {&service});
  EXPECT_EQ(server.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(server.status().message()), HasSubstr("no/such/cert.pem"));
}

TEST(Tls, HalfOfItIsNoPlainText) {
  ServerOptions server = AnyPort();
  server.tls_client_ca = "ca.pem";
  EXPECT_EQ(CheckBind(server).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(CheckBind(server).message()), HasSubstr("--tls-client-ca: 'ca.pem'"));
  const auto refused = [](const ChannelOptions& options, const char* words) {
    const absl::Status status = MakeChannel("127.0.0.1:1", options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
  };
  refused({"", "cert.pem", "key.pem"}, "'cert.pem' needs --peer-tls-ca");
  refused({"ca.pem", "cert.pem", ""}, "go together");
  refused({"", "", "key.pem"}, "go together");
  const std::string not_pem = ::testing::TempDir() + "not_pem";
  std::ofstream(not_pem) << "words";
  refused({not_pem, "", ""}, not_pem.c_str());
}

TEST(Channel, MalformedAddressIsRefused) {
  for (const char* address : {"", "host", "host:", ":1"}) {
    EXPECT_FALSE(MakeChannel(address).ok()) << address;
  }
}

}  // namespace
}  // namespace lola::rpc
