// The worker over gRPC with real shards in the same process: the path of a token and of a state,
// and what happens when a worker goes without a word.
#include "services/worker/worker_service.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "kernels/cuda/plugin.h"
#include "lola/v1/memory.grpc.pb.h"
#include "lola/v1/worker.grpc.pb.h"
#include "services/memory/shard_service.h"
#include "services/metrics/exporter.h"
#include "services/rpc/server_runner.h"
#include "services/worker/runner.h"
#include "services/worker/worker_series.h"

namespace lola::worker {
namespace {

struct Shard {
  explicit Shard(const std::string& directory) {
    shard::ShardOptions options;
    options.store.directory = directory;
    auto made = shard::ShardService::Create(options);
    EXPECT_TRUE(made.ok()) << made.status();
    service = *std::move(made);
    server = *rpc::Server::StartInProcess({service->service()});
    channel = server->InProcessChannel();
  }
  ~Shard() {
    server->Shutdown(std::chrono::milliseconds(0));
    service->Stop();
  }
  std::unique_ptr<shard::ShardService> service;
  std::unique_ptr<rpc::Server> server;
  std::shared_ptr<grpc::Channel> channel;
};

const ServedModel& Tiny() {
  static const ServedModel served = [] {
    auto loaded = LoadServedModel(
        std::string(LOLA_SOURCE_DIR) + "/tests/testdata/parity/tiny_model", "float32");
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return *loaded;
  }();
  return served;
}

struct Worker {
  Worker(const Shard& shard, const std::string& address) {
    WorkerOptions options;
    options.compute.threads = 1;
    options.engine.slots = 4;
    options.engine.checkpoint_tokens = 64;
    options.shards["shard-0"] = shard.channel;
    auto made = WorkerService::Create(options, Tiny());
    EXPECT_TRUE(made.ok()) << made.status();
    service = *std::move(made);
    service->SetAddress(address);
    server = *rpc::Server::StartInProcess({service->service()});
    stub = v1::Worker::NewStub(server->InProcessChannel());
  }
  ~Worker() { server->Shutdown(std::chrono::milliseconds(0)); }
  std::unique_ptr<WorkerService> service;
  std::unique_ptr<rpc::Server> server;
  std::unique_ptr<v1::Worker::Stub> stub;
};

// One Serve call, used like a gateway does.
struct Session {
  Session(Worker& worker, const std::string& stream, bool takeover = false,
          std::optional<uint64_t> after = std::nullopt,
          v1::Durability durability = v1::DURABILITY_LOCAL) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    call = worker.stub->Serve(&context);
    v1::ServeRequest request;
    request.mutable_attach()->mutable_open()->set_stream_id(stream);
    request.mutable_attach()->mutable_open()->set_create_if_missing(true);
    request.mutable_attach()->mutable_open()->set_durability(durability);
    if (after) request.mutable_attach()->mutable_open()->set_after_position(*after);
    request.mutable_attach()->set_takeover(takeover);
    call->Write(request);
  }
  ~Session() { context.TryCancel(); }

  bool Next() { return call->Read(&reply); }
  bool Opened() {
    while (Next()) {
      if (reply.has_opened()) return true;
    }
    return false;
  }
  void Append(uint64_t seq, const std::string& text, uint64_t base) {
    v1::ServeRequest request;
    request.mutable_run()->set_seq(seq);
    request.mutable_run()->set_has_base(true);
    request.mutable_run()->set_base_position(base);
    request.mutable_run()->mutable_append()->set_text(text);
    call->Write(request);
  }
  void Generate(uint64_t seq, uint32_t tokens, uint64_t base) {
    v1::ServeRequest request;
    request.mutable_run()->set_seq(seq);
    request.mutable_run()->set_has_base(true);
    request.mutable_run()->set_base_position(base);
    request.mutable_run()->mutable_generate()->set_max_tokens(tokens);
    request.mutable_run()->mutable_generate()->set_ignore_eos(true);
    request.mutable_run()->mutable_generate()->mutable_sampling()->set_temperature(1.0f);
    request.mutable_run()->mutable_generate()->mutable_sampling()->set_seed(3);
    call->Write(request);
  }
  // Reads until operation `seq` is done; false when the call ends before.
  bool Done(uint64_t seq, size_t enough_tokens = SIZE_MAX) {
    while (ids.size() < enough_tokens && Next()) {
      token_replies += reply.tokens().ids_size() > 0 ? 1 : 0;
      for (int i = 0; i < reply.tokens().ids_size(); ++i) {
        EXPECT_EQ(reply.tokens().position() + uint64_t(i),
                  positions.empty() ? reply.tokens().position() : positions.back() + 1);
        positions.push_back(reply.tokens().position() + uint64_t(i));
        ids.push_back(reply.tokens().ids(i));
      }
      if (reply.has_released()) released = reply.released().target();
      if (reply.has_done() && reply.seq() == seq) return true;
    }
    return false;
  }

  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::ServeRequest, v1::ServeReply>> call;
  v1::ServeReply reply;
  std::vector<int32_t> ids;
  std::vector<uint64_t> positions;
  size_t token_replies = 0;
  std::optional<std::string> released;
};

const std::string kText =
    "Sand and stone and water. The pass key of QRS is 48213. Wind over the plain, and so on; "
    "nothing else of note happened on that day, says the chronicle.";

class WorkerServiceTest : public ::testing::Test {
 protected:
  WorkerServiceTest()
      : directory_(std::filesystem::temp_directory_path() /
                   ("lola-worker-test-" + std::to_string(getpid()) + "-" +
                    ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::remove_all(directory_);
    shard_ = std::make_unique<Shard>(directory_);
  }
  ~WorkerServiceTest() override {
    shard_.reset();
    std::filesystem::remove_all(directory_);
  }

  std::vector<int32_t> Undisturbed(uint32_t tokens) {
    Worker worker(*shard_, "reference:1");
    Session session(worker, "reference");
    EXPECT_TRUE(session.Opened());
    session.Append(1, kText, 0);
    session.Generate(2, tokens, kText.size());
    EXPECT_TRUE(session.Done(2));
    return session.ids;
  }

  const std::string directory_;
  std::unique_ptr<Shard> shard_;
};

TEST_F(WorkerServiceTest, ServesAStream) {
  Worker worker(*shard_, "a:1");
  Session session(worker, "s");
  ASSERT_TRUE(session.Opened());
  EXPECT_EQ(session.reply.opened().restore().kind(), "new");
  EXPECT_EQ(session.reply.opened().restore().worker(), "a:1");
  EXPECT_EQ(session.reply.opened().info().owner(), "a:1");
  session.Append(1, kText, 0);
  session.Generate(2, 50, kText.size());
  ASSERT_TRUE(session.Done(2));
  EXPECT_EQ(session.ids.size(), 50u);
  EXPECT_EQ(session.positions.front(), kText.size());
  EXPECT_EQ(session.reply.done().finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(session.reply.done().usage().generated_tokens(), 50u);
  EXPECT_GT(session.reply.done().usage().state_bytes(), 0u);
  // Half-closing when all is done ends the call well.
  session.call->WritesDone();
  EXPECT_FALSE(session.Next());
  EXPECT_TRUE(session.call->Finish().ok());
}

// Without durability each token is ready by itself; those that find a message still under way leave
// together behind it, and nothing is lost or doubled.
TEST_F(WorkerServiceTest, TokensThatWaitForAMessageLeaveTogether) {
  const std::vector<int32_t> expected = Undisturbed(300);
  Worker worker(*shard_, "a:1");
  Session session(worker, "s", false, std::nullopt, v1::DURABILITY_NONE);
  ASSERT_TRUE(session.Opened());
  session.Append(1, kText, 0);
  ASSERT_TRUE(session.Done(1));
  session.Generate(2, 300, kText.size());
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // a client that reads late
  ASSERT_TRUE(session.Done(2));
  EXPECT_EQ(session.ids, expected);
  EXPECT_LT(session.token_replies, 300u);
}

TEST_F(WorkerServiceTest, AnotherWorkerGoesOnWhereOneVanished) {
  const std::vector<int32_t> expected = Undisturbed(200);
  std::vector<int32_t> received;
  {
    Worker a(*shard_, "a:1");
    Session session(a, "s");
    ASSERT_TRUE(session.Opened());
    session.Append(1, kText, 0);
    session.Generate(2, 200, kText.size());
    EXPECT_FALSE(session.Done(2, 60));
    received = session.ids;
  }  // no drain, no release
  Worker b(*shard_, "b:1");
  Session refused(b, "s");
  EXPECT_FALSE(refused.Opened());
  EXPECT_EQ(refused.call->Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  Session session(b, "s", /*takeover=*/true, kText.size() + received.size());
  ASSERT_TRUE(session.Opened());
  EXPECT_EQ(session.reply.opened().restore().kind(), "restored");
  session.Append(1, kText, 0);
  session.Generate(2, 200, kText.size());
  ASSERT_TRUE(session.Done(2));
  received.insert(received.end(), session.ids.begin(), session.ids.end());
  EXPECT_EQ(received, expected);
}

TEST_F(WorkerServiceTest, ReleasePrepareSnapshotInspectAndDrain) {
  Worker a(*shard_, "a:1");
  Worker b(*shard_, "b:1");
  Session session(a, "s");
  ASSERT_TRUE(session.Opened());
  session.Append(1, kText, 0);
  ASSERT_TRUE(session.Done(1));

  grpc::ClientContext c1, c2, c3, c4, c5, c6, c7;
  v1::WorkerSnapshotRequest snapshot;
  snapshot.set_stream_id("s");
  snapshot.set_name("mark");
  v1::SnapshotInfo info;
  ASSERT_TRUE(a.stub->Snapshot(&c1, snapshot, &info).ok());
  EXPECT_EQ(info.name(), "mark");
  EXPECT_EQ(info.position(), kText.size());

  v1::InspectMemoryRequest inspect;
  inspect.set_stream_id("s");
  inspect.set_layer(0);
  v1::InspectMemoryReply memory;
  ASSERT_TRUE(a.stub->InspectMemory(&c2, inspect, &memory).ok());
  EXPECT_EQ(memory.position(), kText.size());
  EXPECT_EQ(memory.state_digest().size(), 32u);
  ASSERT_GT(memory.heads_size(), 0);
  ASSERT_GT(memory.heads(0).pairs_size(), 0);
  const auto& pair = memory.heads(0).pairs(0);
  EXPECT_FALSE(pair.context().empty());
  EXPECT_NE(kText.find(pair.context()), std::string::npos) << pair.context();

  v1::ReleaseStreamRequest release;
  release.set_stream_id("s");
  release.set_target("b:1");
  v1::ReleaseStreamReply released;
  ASSERT_TRUE(a.stub->Release(&c3, release, &released).ok());
  EXPECT_EQ(released.position(), kText.size());
  EXPECT_FALSE(session.Done(99));
  EXPECT_EQ(session.released, "b:1");
  EXPECT_EQ(a.stub->Release(&c4, release, &released).error_code(), grpc::StatusCode::NOT_FOUND);

  v1::PrepareStreamRequest prepare;
  prepare.set_stream_id("s");
  v1::PrepareStreamReply prepared;
  ASSERT_TRUE(b.stub->Prepare(&c5, prepare, &prepared).ok());
  EXPECT_EQ(prepared.position(), kText.size());
  EXPECT_GT(prepared.restore().reused_tokens(), 0u);

  v1::DrainReply drained;
  ASSERT_TRUE(b.stub->Drain(&c6, v1::DrainRequest(), &drained).ok());
  EXPECT_EQ(drained.released_streams(), 1u);
  v1::WorkerInfo about;
  ASSERT_TRUE(b.stub->DescribeWorker(&c7, v1::DescribeWorkerRequest(), &about).ok());
  EXPECT_TRUE(about.draining());
  EXPECT_EQ(about.address(), "b:1");
  Session late(b, "late");
  EXPECT_FALSE(late.Opened());
  EXPECT_EQ(late.call->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(WorkerServiceTest, DescribesItsModel) {
  Worker worker(*shard_, "a:1");
  grpc::ClientContext context;
  v1::ModelInfo info;
  ASSERT_TRUE(worker.stub->DescribeModel(&context, v1::DescribeModelRequest(), &info).ok());
  EXPECT_EQ(info.name(), "tiny_model");
  EXPECT_EQ(info.fingerprint().size(), 32u);
  EXPECT_GT(info.state_bytes(), 0u);
  EXPECT_EQ(info.backend(), "cpu");
}

TEST_F(WorkerServiceTest, BadCallsEndWithAReason) {
  Worker worker(*shard_, "a:1");
  {
    grpc::ClientContext context;
    auto call = worker.stub->Serve(&context);
    v1::ServeRequest request;
    request.set_cancel_seq(1);
    call->Write(request);
    v1::ServeReply reply;
    EXPECT_FALSE(call->Read(&reply));
    EXPECT_EQ(call->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  Session session(worker, "s");
  ASSERT_TRUE(session.Opened());
  session.Generate(1, 10, 0);
  EXPECT_FALSE(session.Done(1));
  const grpc::Status status = session.call->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_NE(status.error_message().find("empty"), std::string::npos) << status.error_message();
  EXPECT_TRUE(absl::IsInvalidArgument(LoadServedModel("random:tiny", "float9").status()));
  EXPECT_FALSE(LoadServedModel("/nowhere/at/all", "float32").ok());
  WorkerOptions options;
  EXPECT_TRUE(absl::IsInvalidArgument(WorkerService::Create(options, Tiny()).status()));
}

TEST(MakeRunnerTest, WhatCannotComputeIsRefusedByName) {
  const auto refusal = [](const ComputeOptions& compute) {
    const auto made = MakeStages(compute, *Tiny().model);
    WorkerOptions options;
    options.compute = compute;
    EXPECT_EQ(MakeRunner(options, Tiny()).status(), made.status());
    return made.status();
  };
  EXPECT_TRUE(absl::IsInvalidArgument(refusal({.backend = "abacus"})));
  EXPECT_TRUE(absl::IsInvalidArgument(refusal({.device = -1})));
  EXPECT_TRUE(absl::IsInvalidArgument(refusal({.threads = 2000})));
  EXPECT_TRUE(refusal({.backend = "cpu"}).ok());
  EXPECT_TRUE(refusal({.backend = "auto"}).ok());
  if (cuda::OpenCudaDevice({}).device != nullptr) return;
  const absl::Status no_gpu = refusal({.backend = "cuda"});
  EXPECT_TRUE(absl::IsUnavailable(no_gpu)) << no_gpu;
  EXPECT_TRUE(std::string(no_gpu.message()).starts_with("backend: cuda: ")) << no_gpu;
}

TEST_F(WorkerServiceTest, AllSeriesExistFromTheStart) {
  Worker worker(*shard_, "a:1");
  metrics::Page page;
  WriteWorker(worker.service->Stats(), {}, page);
  EXPECT_GT(page.series().size(), 40u);
  for (const auto& series : page.series()) {
    EXPECT_TRUE(series.name.starts_with("lola_")) << series.name;
    EXPECT_FALSE(series.help.empty()) << series.name;
    const bool counter = series.kind == metrics::Page::Series::Kind::kCounter;
    EXPECT_EQ(series.name.ends_with("_total"), counter) << series.name;
    if (series.kind == metrics::Page::Series::Kind::kHistogram) {
      EXPECT_EQ(series.histogram.counts.size(), series.histogram.bounds.size() + 1);
    }
  }
}

}  // namespace
}  // namespace lola::worker
