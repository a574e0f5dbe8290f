// One session of a stage: reads operations, carries them out, answers. Copies leave on a thread of
// their own, behind answers. Private to services/worker.
#ifndef LOLA_SERVICES_WORKER_STAGE_SESSION_H_
#define LOLA_SERVICES_WORKER_STAGE_SESSION_H_

#include <grpcpp/support/sync_stream.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "lola/v1/stage.grpc.pb.h"
#include "services/engine/pipeline/layer_stage.h"
#include "services/engine/sampler.h"
#include "services/worker/stage_messages.h"

namespace lola::worker {

// What all sessions of a stage add to.
struct StageCounters {
  std::atomic<uint64_t> steps{0}, rows{0}, loads{0}, copies{0};
};

class StageSession {
 public:
  using Stream = grpc::ServerReaderWriter<v1::StageReply, v1::StageRequest>;

  StageSession(Stream* stream, std::unique_ptr<engine::LayerStage> stage, StageCounters* counters);
  ~StageSession();

  // Until the front ends the call (OK) or something fails.
  absl::Status Run();

 private:
  struct Outgoing {
    uint64_t id = 0;
    std::shared_ptr<std::byte[]> record;  // header page and sections
    std::span<const std::byte> sections;
    engine::StateCopy arrived;  // null once it was waited for
    size_t sent = 0;
  };

  bool Read(v1::StageRequest* request) { return stream_->Read(request); }
  bool Answer(v1::StageReply& reply, std::span<const std::byte> payload = {});
  absl::Status Carry(v1::StageRequest& request);
  absl::Status Reset(const v1::StageReset& op);
  absl::Status Load(v1::StageRequest& request);
  absl::Status BeginParts(const v1::StageLoad& op, const memory::LolaSettings& settings,
                          uint64_t bytes);
  absl::Status LoadPart(const v1::StageRequest& request);
  absl::Status AnswerLoad(uint64_t id, const absl::Status& status);
  absl::Status Count(const v1::StageCount& op);
  absl::StatusOr<uint64_t> TakeSegments(const v1::StageStep& op);
  absl::Status Step(v1::StageRequest& request);
  absl::Status Copy(const v1::StageCopy& op);
  absl::Status TakePayload(v1::StageRequest& request, std::span<std::byte> to);
  void SendCopies();

  Stream* const stream_;
  const std::unique_ptr<engine::LayerStage> stage_;
  StageCounters& counters_;
  struct PartialLoad {
    size_t slot = 0;
    size_t have = 0;
  };
  std::map<uint64_t, PartialLoad> loads_;  // by id
  std::vector<engine::StageSegment> segments_;
  std::deque<engine::SamplingParams> samplings_;  // of the segments that ask for tokens
  std::vector<float> hidden_, out_;

  std::mutex mu_;  // also: one writer of the stream at a time
  std::condition_variable changed_;
  std::deque<Outgoing> copies_;     // guarded by mu_
  std::atomic<int> answering_ = 0;  // answers that wait for mu_ or hold it: they go before copies
  bool ending_ = false;             // guarded by mu_
  std::thread copier_;
};

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_STAGE_SESSION_H_
