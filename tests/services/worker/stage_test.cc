// A stage over gRPC: payloads of many messages, copies and loads beside steps, sessions that are
// refused, end and begin again.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <future>
#include <random>
#include <thread>

#include "kernels/core/cpu.h"
#include "lola/v1/stage.grpc.pb.h"
#include "memory/stream/stream_state.h"
#include "services/engine/model.h"
#include "services/engine/pipeline/layer_stage.h"
#include "services/engine/pipeline/pipeline_runner.h"
#include "services/rpc/channel.h"
#include "services/rpc/server_runner.h"
#include "services/rpc/status_map.h"
#include "services/worker/stage_client.h"
#include "services/worker/stage_messages.h"
#include "services/worker/stage_service.h"
#include "services/worker/stage_session.h"
#include "tests/services/engine/pipeline/local_stage_link.h"
#include "tests/services/worker/stage_testing.h"

namespace lola::worker {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

bool Opens(engine::StageLink& link, const engine::StageTerms& terms) {
  for (int i = 0; i < 500; ++i) {
    link.Open(terms);
    if (link.state().ok()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

// Waits for a state that says `part`.
std::string StateWith(const engine::StageLink& link, const std::string& part) {
  std::string text;
  for (int i = 0; i < 500; ++i) {
    text = link.state().ToString();
    if (text.find(part) != std::string::npos) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return text;
}

std::vector<int32_t> Tokens(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = int32_t(random() % 4096);
  return tokens;
}

class StageTest : public ::testing::Test {
 protected:
  StageTest() {
    auto connected = ConnectStage(stage_->endpoint(), std::chrono::seconds(5));
    EXPECT_TRUE(connected.ok()) << connected.status();
    pair_ = *std::move(connected);
  }
  // The same pass at a place of its own.
  static std::vector<float> Run(engine::ModelRunner& runner, engine::ResidentStates& states,
                                size_t slot, std::span<const int32_t> tokens, uint32_t wanted) {
    const memory::StateLayout layout(Whole()->geometry(), Whole()->default_settings());
    std::vector<float> logits(size_t{wanted} * 4096);
    engine::Segment segment;
    segment.record = states.record(slot, layout.stride_bytes());
    segment.slot = slot;
    segment.layout = &layout;
    segment.settings = &layout.settings();
    segment.tokens = tokens;
    segment.logits_rows = wanted;
    segment.logits = logits.data();
    const absl::Status stepped = runner.Step({&segment, 1});
    EXPECT_TRUE(stepped.ok()) << stepped;
    EXPECT_TRUE(segment.status.ok()) << segment.status;
    return logits;
  }

  std::unique_ptr<StageProcess> stage_ = std::make_unique<StageProcess>();
  StageLinkPair pair_;
};

TEST_F(StageTest, PayloadsOfManyMessagesArriveBitForBit) {
  const memory::StateLayout layout(Whole()->geometry(), Whole()->default_settings());
  ASSERT_GT(engine::PieceOf(layout, {1, 3}).bytes, 2 * kStagePieceBytes);
  auto single = engine::MakeModelRunner(Whole(), kRows, 1);
  auto expected_states = *single->MakeStates(layout.stride_bytes(), 1, 1);
  const size_t at = *expected_states->Acquire();
  ASSERT_TRUE(expected_states->Reset(at, layout, Whole()->fingerprint_bytes()).ok());

  std::vector<std::unique_ptr<engine::StageLink>> links;
  links.push_back(std::move(pair_.link));
  auto made = engine::MakePipelineRunner(Part(engine::LayerRange{0, 1}), std::move(links),
                                         {.front = "front", .rows_max = kRows, .piece_rows = 256});
  ASSERT_TRUE(made.ok()) << made.status();
  auto states = (*made)->MakeStates(layout.stride_bytes(), kSlots, 2);
  ASSERT_TRUE(states.ok()) << states.status();
  const size_t slot = *(*states)->Acquire();
  ASSERT_TRUE((*states)->Reset(slot, layout, Whole()->fingerprint_bytes()).ok());

  const std::vector<int32_t> tokens = Tokens(1400, 1);
  const auto first = std::span(tokens).first(1000), rest = std::span(tokens).subspan(1000);
  EXPECT_EQ(Run(**made, **states, slot, first, 200),
            Run(*single, *expected_states, at, first, 200));
  // A copy begun before a step shows the state before it, however late it is taken.
  std::vector<std::byte> record(layout.stride_bytes()), later(layout.stride_bytes());
  auto copy = (*states)->Copy(slot, record);
  ASSERT_TRUE(copy.ok()) << copy.status();
  const std::span<const std::byte> before = expected_states->record(at, layout.stride_bytes());
  const std::vector<std::byte> expected(before.begin(), before.end());
  EXPECT_EQ(Run(**made, **states, slot, rest, 1), Run(*single, *expected_states, at, rest, 1));
  ASSERT_TRUE((*copy)().ok());
  EXPECT_TRUE(record == expected);
  // And a record goes in as it came out: the other slot goes on from there.
  const size_t other = *(*states)->Acquire();
  const auto staging = (*states)->Stage(other, record.size());
  std::copy(record.begin(), record.end(), staging.bytes.begin());
  ASSERT_TRUE(engine::BringAndAdopt(**states, other, layout, staging).ok());
  Run(**made, **states, other, rest, 1);
  copy = (*states)->Copy(other, later);
  ASSERT_TRUE(copy.ok() && (*copy)().ok());
  EXPECT_TRUE(std::ranges::equal(later, expected_states->record(at, layout.stride_bytes())));

  const StageLinkStats stats = pair_.counters->Now();
  EXPECT_EQ(stats.round_trip_s.count(), 3u + 1 + 1);  // 1000 rows in three pieces
  EXPECT_GT(stats.bytes_sent, 1800u * 512 * 4);
  EXPECT_EQ(stage_->service->Stats().rows, 1800u);
  EXPECT_EQ(stage_->service->Stats().loads, 1u);
  EXPECT_EQ(stage_->service->Stats().copies, 2u);
}

// A load of many messages is under way while steps of another slot come and go.
TEST_F(StageTest, StepsGoOnWhileAStateLoads) {
  ASSERT_TRUE(Opens(*pair_.link, Terms()));
  const memory::LolaSettings settings = Last()->default_settings();
  const memory::StateLayout layout(Last()->layers_geometry(), settings);
  const size_t bytes = layout.stride_bytes() - memory::kPageBytes;
  auto record = std::make_shared<std::vector<std::byte>>(layout.stride_bytes());
  memory::StreamState(&layout, *record).Reset(Last()->fingerprint_bytes());
  ASSERT_TRUE(pair_.link->Reset(0, settings).ok());
  std::vector<float> hidden(512, 0.5f), out;
  std::atomic<int> loaded{0};
  absl::Status failed;
  uint64_t position = 0;
  for (int round = 0; round < 4; ++round) {
    pair_.link->Load(1, settings, 0, record, std::span(*record).subspan(memory::kPageBytes, bytes),
                     [&](absl::Status status) {
                       failed.Update(status);
                       ++loaded;
                     });
    do {
      const engine::StageSegment segment{.slot = 0, .position = position++, .rows = 1};
      engine::StageOutcome outcome;
      ASSERT_TRUE(pair_.link->StartStep({&segment, 1}, hidden).ok());
      ASSERT_TRUE(pair_.link->FinishStep(out, &outcome).ok());
    } while (loaded == round);
  }
  EXPECT_TRUE(failed.ok()) << failed;
  EXPECT_EQ(stage_->service->Stats().loads, 4u);
  EXPECT_GE(pair_.counters->Now().bytes_sent, 4 * bytes);
  std::vector<uint64_t> cached(2);
  EXPECT_TRUE(pair_.link->CountCached(std::vector<size_t>{0, 1}, cached).ok());
}

TEST_F(StageTest, ALoadThatIsRefusedOrCutOffIsAnswered) {
  ASSERT_TRUE(Opens(*pair_.link, Terms()));
  const memory::LolaSettings settings = Last()->default_settings();
  const size_t bytes =
      memory::StateLayout(Last()->layers_geometry(), settings).stride_bytes() - memory::kPageBytes;
  const auto zeros = std::make_shared<std::vector<std::byte>>(bytes);
  const auto load = [&](size_t slot, uint64_t position, size_t size) {
    std::promise<absl::Status> done;
    pair_.link->Load(slot, settings, position, zeros, std::span(*zeros).first(size),
                     [&](absl::Status status) { done.set_value(status); });
    return done.get_future().get();
  };
  EXPECT_TRUE(absl::IsInvalidArgument(load(99, 0, bytes)));
  EXPECT_TRUE(absl::IsInvalidArgument(load(0, 0, bytes - 4096)));
  EXPECT_TRUE(absl::IsDataLoss(load(0, 1000, bytes)));  // events that its counters do not have
  EXPECT_TRUE(pair_.link->state().ok()) << pair_.link->state();
  EXPECT_TRUE(load(0, 0, bytes).ok());
  const std::string address = stage_->server->address();
  stage_.reset();
  EXPECT_TRUE(absl::IsUnavailable(load(0, 0, bytes)));
}

TEST_F(StageTest, AnotherFrontWaitsUntilTheFirstIsGone) {
  ASSERT_TRUE(Opens(*pair_.link, Terms("front-a")));
  auto second = ConnectStage(stage_->endpoint(), std::chrono::seconds(5));
  ASSERT_TRUE(second.ok());
  second->link->Open(Terms("front-b"));
  EXPECT_THAT(StateWith(*second->link, "in use"),
              AllOf(HasSubstr("UNAVAILABLE"), HasSubstr("front-b"), HasSubstr("by front-a")));
  // On the wire it is FAILED_PRECONDITION with the owner as a fact.
  auto stub = v1::Stage::NewStub(stage_->endpoint().channel);
  grpc::ClientContext context;
  auto call = stub->Session(&context);
  v1::StageRequest open;
  *open.mutable_open() = ToProto(Terms("front-c"));
  call->Write(open);
  v1::StageReply reply;
  EXPECT_FALSE(call->Read(&reply));
  const absl::Status refused = rpc::FromGrpc(call->Finish());
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_EQ(rpc::GetDetail(refused, rpc::kOwnerDetail).value_or(""), "front-a");
  pair_.link.reset();
  EXPECT_TRUE(Opens(*second->link, Terms("front-b")));
  EXPECT_GE(stage_->service->Stats().refusals, 2u);
}

TEST_F(StageTest, TermsThatDifferAreRefusedAndTriedAgainUntilTheyFit) {
  engine::StageTerms wrong = Terms();
  wrong.instruction_class = "abacus";
  pair_.link->Open(wrong);
  const std::string text = StateWith(*pair_.link, "abacus");
  EXPECT_THAT(text, AllOf(HasSubstr("FAILED_PRECONDITION"), HasSubstr("instruction_class")));
  EXPECT_TRUE(Opens(*pair_.link, Terms()));
}

TEST_F(StageTest, AStageThatEndsFailsWhatWaitsAndOpensAgainOnlyWhenAsked) {
  ASSERT_TRUE(Opens(*pair_.link, Terms()));
  const memory::LolaSettings settings = Last()->default_settings();
  ASSERT_TRUE(pair_.link->Reset(0, settings).ok());
  const std::string address = stage_->server->address();
  stage_.reset();
  EXPECT_TRUE(absl::IsUnavailable(pair_.link->Reset(0, settings)));
  EXPECT_TRUE(absl::IsUnavailable(pair_.link->state()));
  EXPECT_TRUE(absl::IsUnavailable(pair_.link->Copy(0, 4096).status()));
  stage_ = std::make_unique<StageProcess>(address);
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_TRUE(absl::IsUnavailable(pair_.link->state())) << "nobody asked for another session";
  ASSERT_TRUE(Opens(*pair_.link, Terms()));
  EXPECT_EQ(pair_.counters->Now().sessions, 2u);
  // Its slots are empty: a step on what was there is an error that ends the session.
  engine::StageOutcome outcome;
  std::vector<float> hidden(512), logits(4096);
  const engine::StageSegment segment{0, 0, 1, 1, {}};
  ASSERT_TRUE(pair_.link->StartStep({&segment, 1}, hidden).ok());
  const absl::Status stepped = pair_.link->FinishStep(logits, &outcome);
  EXPECT_TRUE(absl::IsUnavailable(stepped)) << stepped;
  EXPECT_THAT(std::string(stepped.message()), HasSubstr("slot: 0 holds no state"));
}

TEST_F(StageTest, ACopyOnItsWayFailsWithTheSession) {
  ASSERT_TRUE(Opens(*pair_.link, Terms()));
  ASSERT_TRUE(pair_.link->Reset(0, Last()->default_settings()).ok());
  // More than the stage has: it never becomes whole.
  auto copy = pair_.link->Copy(0, size_t{64} << 20);
  ASSERT_TRUE(copy.ok()) << copy.status();
  std::vector<std::byte> to(size_t{64} << 20);
  std::thread ending([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    stage_->service->Stop();
  });
  EXPECT_TRUE(absl::IsUnavailable((*copy)(to)));
  ending.join();
}

// Opens sessions and then does nothing any more: reads on, or not even that.
class StuckStage final : public v1::Stage::Service {
 public:
  explicit StuckStage(bool reads) : reads_(reads) {}
  grpc::Status DescribeStage(grpc::ServerContext*, const v1::DescribeStageRequest*,
                             v1::StageInfo* info) override {
    info->set_first_layer(1);
    info->set_last_layer(2);
    info->set_revision(kStageRevision);
    return grpc::Status::OK;
  }
  grpc::Status Session(grpc::ServerContext* context, StageSession::Stream* stream) override {
    v1::StageRequest request;
    stream->Read(&request);
    v1::StageReply opened;
    opened.mutable_opened();
    stream->Write(opened);
    while (reads_ && stream->Read(&request)) continue;
    while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return grpc::Status::OK;
  }

 private:
  const bool reads_;
};

TEST(StageDeadline, AStageThatIsStuckIsGivenUp) {
  for (const bool reads : {true, false}) {
    StuckStage stuck(reads);
    auto server = rpc::Server::Start({.bind = "127.0.0.1:0"}, {&stuck});
    ASSERT_TRUE(server.ok()) << server.status();
    const std::string address = (*server)->address();
    auto pair =
        ConnectStage({address, *rpc::MakeChannel(address), "", std::chrono::milliseconds(200)},
                     std::chrono::seconds(5));
    ASSERT_TRUE(pair.ok()) << pair.status();
    ASSERT_TRUE(Opens(*pair->link, Terms()));
    // Rows that fill what a connection takes unread.
    const engine::StageSegment segment{0, 0, kRows, 0, {}};
    const std::vector<float> hidden(size_t{kRows} * 512);
    std::vector<float> out;
    engine::StageOutcome outcome;
    absl::Status stepped = pair->link->StartStep({&segment, 1}, hidden);
    if (stepped.ok()) stepped = pair->link->FinishStep(out, &outcome);
    EXPECT_TRUE(absl::IsUnavailable(stepped)) << stepped;
    EXPECT_THAT(std::string(stepped.message()), HasSubstr("no answer within 200 ms"));
    EXPECT_FALSE(pair->link->state().ok());
    pair->link.reset();
    (*server)->Shutdown(std::chrono::milliseconds(0));
  }
}

TEST_F(StageTest, DescribesItself) {
  ASSERT_TRUE(Opens(*pair_.link, Terms("front-a")));
  auto stub = v1::Stage::NewStub(stage_->endpoint().channel);
  grpc::ClientContext context;
  v1::StageInfo info;
  ASSERT_TRUE(stub->DescribeStage(&context, {}, &info).ok());
  EXPECT_EQ(info.model_fingerprint(), Whole()->fingerprint());
  EXPECT_EQ(info.model_name(), "wide");
  EXPECT_EQ(info.first_layer(), 1u);
  EXPECT_EQ(info.last_layer(), 2u);
  EXPECT_EQ(info.front(), "front-a");
  EXPECT_EQ(info.slots(), kSlots);
  EXPECT_EQ(info.instruction_class(), kernels::InstructionClass());
  EXPECT_EQ(info.revision(), kStageRevision);
  EXPECT_FALSE(info.samples());
}

}  // namespace
}  // namespace lola::worker
