// Messages no front of ours would send end the session with a reason and free the stage.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include <thread>
#include <vector>

#include "lola/v1/stage.grpc.pb.h"
#include "services/rpc/status_map.h"
#include "services/worker/convert.h"
#include "services/worker/stage_messages.h"
#include "tests/services/worker/stage_testing.h"

namespace lola::worker {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// One raw session: sends what it is given and returns how the call ended.
absl::Status Talk(const StageProcess& stage, std::vector<v1::StageRequest> requests, bool open) {
  auto stub = v1::Stage::NewStub(stage.endpoint().channel);
  absl::Status ended;
  // The session before may still be on its way out.
  for (int tries = 0; tries < 200; ++tries) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    auto call = stub->Session(&context);
    if (open) {
      v1::StageRequest first;
      *first.mutable_open() = ToProto(Terms());
      call->Write(first);
    }
    for (const v1::StageRequest& request : requests) call->Write(request);
    call->WritesDone();
    v1::StageReply reply;
    while (call->Read(&reply)) {
    }
    ended = rpc::FromGrpc(call->Finish());
    if (!rpc::GetDetail(ended, rpc::kOwnerDetail)) return ended;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return ended;
}

class StageRefusal : public ::testing::Test {
 protected:
  void Expect(std::vector<v1::StageRequest> requests, const std::string& part, bool open = true) {
    const absl::Status ended = Talk(stage_, std::move(requests), open);
    EXPECT_THAT(ended.ToString(), AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr(part)));
  }
  StageProcess stage_;
};

TEST_F(StageRefusal, OperationsThatAreWrongEndTheSessionWithAReason) {
  v1::StageRequest reset, step, load, more, copy;
  reset.mutable_reset()->set_slot(0);
  step.mutable_step()->add_segments()->set_rows(1);
  step.set_payload_bytes(512 * 4);
  more.set_payload("rest");
  load.mutable_load()->set_slot(1);
  copy.mutable_copy()->set_slot(99);
  Expect({reset}, "the first message must be open", false);
  v1::StageRequest backwards;
  *backwards.mutable_open() = ToProto(Terms());
  backwards.mutable_open()->set_last_layer(0);
  Expect({backwards}, "layers: 1 to 0", false);
  backwards.mutable_open()->set_last_layer(2);
  backwards.mutable_open()->set_front(std::string(513, 'f'));
  Expect({backwards}, "front: 513 bytes", false);
  Expect({more}, "op: 0 is none of");
  Expect({copy}, "slot: 99");
  Expect({load}, "mode");
  // A payload that is cut short by another operation, too long, or of another size.
  step.set_payload(std::string(100, 'x'));
  Expect({step, reset}, "payload: ended after 100 of 2048 bytes");
  step.set_payload(std::string(3000, 'x'));
  Expect({step}, "payload: 3000 bytes after 0 of 2048");
  step.set_payload_bytes(7);
  Expect({step}, "payload_bytes: 7, must be 2048");
  step.set_payload_bytes(512 * 4);
  step.set_payload(std::string(2048, '\0'));
  Expect({step}, "slot: 0 holds no state");
  for (size_t i = 0; i < kSlots; ++i) step.mutable_step()->add_segments()->set_rows(1);
  Expect({step}, "segments: 4 for 3 slots");
  step.mutable_step()->clear_segments();
  step.mutable_step()->add_segments()->set_rows(4'000'000'000u);
  Expect({step}, "rows: 4000000000 of at most 1024");
  step.mutable_step()->mutable_segments(0)->set_rows(1);
  step.mutable_step()->mutable_segments(0)->set_logits_rows(4'000'000'000u);
  Expect({step}, "logits for 4000000000");
  EXPECT_FALSE(stage_.service->Stats().open);
}

TEST_F(StageRefusal, LoadsInPartsAndQuestionsThatAreWrongToo) {
  v1::StageRequest count, parts, again, part;
  count.mutable_count()->mutable_slots()->Resize(4, 0);
  Expect({count}, "slots: 4 for 3 slots");
  const memory::LolaSettings settings = Last()->default_settings();
  const size_t sections =
      memory::StateLayout(Last()->layers_geometry(), settings).stride_bytes() - memory::kPageBytes;
  parts.mutable_load()->set_slot(1);
  parts.mutable_load()->set_id(5);
  *parts.mutable_load()->mutable_settings() = ToProto(settings);
  parts.set_payload_bytes(sections);
  again = parts;
  again.mutable_load()->set_id(6);
  Expect({parts, again}, "load: 6 of slot 1 begins within 5 of slot 1");
  part.mutable_load_part()->set_id(5);
  Expect({parts, part}, "load_part: 0 bytes after 0");
  part.set_payload(std::string(sections + 1, 'x'));
  Expect({parts, part}, "load_part: " + std::to_string(sections + 1) + " bytes after 0");
  // A reset in the middle: the load is over, and its next part is wrong.
  part.set_payload("x");
  v1::StageRequest between;
  between.mutable_reset()->set_slot(1);
  *between.mutable_reset()->mutable_settings() = ToProto(settings);
  Expect({parts, part, between, part}, "slot: 1 is not being loaded");
  v1::StageRequest sampling = between, sample;
  sample.mutable_step()->add_segments()->set_rows(1);
  sample.mutable_step()->mutable_segments(0)->set_slot(1);
  sample.mutable_step()->mutable_segments(0)->mutable_sampling()->set_temperature(1);
  sample.set_payload_bytes(512 * 4);
  sample.set_payload(std::string(2048, '\0'));
  Expect({sampling, sample}, "this stage does not sample");
  EXPECT_FALSE(stage_.service->Stats().open);
}

}  // namespace
}  // namespace lola::worker
