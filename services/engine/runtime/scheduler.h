// The engine's one thread and everything it decides. Internal: use engine.h.
//
// The public methods post to the mailbox and may be called from any thread; everything else runs on
// the scheduler thread, so nothing below needs a lock except the published statistics.
// One file per topic: scheduler.cc (loop), attach, operations, settled, deliver, step, append,
// residency, restore, snapshot, release, loss.
#ifndef LOLA_SERVICES_ENGINE_RUNTIME_SCHEDULER_H_
#define LOLA_SERVICES_ENGINE_RUNTIME_SCHEDULER_H_

#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "services/engine/runtime/mailbox.h"
#include "services/engine/runtime/resident_states.h"
#include "services/engine/runtime/stream.h"

namespace lola::engine {

class Scheduler {
 public:
  Scheduler(const EngineOptions& options, std::unique_ptr<ModelRunner> runner,
            std::shared_ptr<const Tokenizer> tokenizer, std::shared_ptr<StreamBackend> backend,
            std::shared_ptr<ResidentStates> states);
  ~Scheduler();

  AttachmentId NewAttachment(AttachRequest request, std::shared_ptr<EventSink> sink);
  void Post(Mailbox::Task task) { mailbox_->Post(std::move(task)); }
  EngineStatistics statistics() const;
  absl::Status health() const;
  const EngineOptions& options() const { return options_; }
  const Model& model() const { return runner_->model(); }
  const std::string& instruction_class() const { return class_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }

  // Attachments and operations (scheduler thread from here on).
  void AddOp(AttachmentId attachment, std::unique_ptr<Op> op);
  void AddInternalOp(std::string stream_id, std::unique_ptr<Op> op);
  void Cancel(AttachmentId attachment, uint64_t seq);
  void Detach(AttachmentId attachment);
  void PokeReplays();
  void Prepare(std::string stream_id, bool takeover, Engine::Callback<PrepareResult> done);
  void Release(const std::string& stream_id, std::string target,
               Engine::Callback<ReleaseResult> done);
  void Drain(std::chrono::milliseconds deadline, std::function<void(uint32_t)> done);

 private:
  using AttachmentPtr = std::shared_ptr<Attachment>;

  // Loop.
  void Loop();
  void RunTimers();
  void At(Time when, Mailbox::Task task) { timers_.emplace(when, std::move(task)); }
  Time NextWake() const;
  void PublishStatistics();
  void CountNow();
  // A callback for other threads that runs `fn` here.
  template <typename T>
  std::function<void(T)> Posted(std::function<void(T)> fn) {
    return [mailbox = mailbox_, fn = std::move(fn)](T value) {
      mailbox->Post([fn, value = std::move(value)]() mutable { fn(std::move(value)); });
    };
  }
  // Runs `again` later and answers true, when `status` is one that passes and there is time left.
  bool RetryLater(Backoff& backoff, const absl::Status& status, Mailbox::Task again);

  // Attach.
  void StartAttach(const AttachmentPtr& attachment);
  void JoinStream(const AttachmentPtr& attachment, const StreamPtr& s);
  // Finds or opens a stream and makes sure that it is (still) ours: what this worker holds may be
  // stale when another one took over while nothing was written here.
  using WithStream = std::function<void(absl::StatusOr<StreamPtr>)>;
  void OwnStream(const std::string& id, bool takeover, const AttachRequest* create,
                 const std::shared_ptr<Backoff>& backoff, WithStream then);
  absl::Status CheckAttach(const AttachRequest& request, const Stream& stream) const;
  absl::StatusOr<StreamPtr> OpenStream(const std::string& id, bool takeover,
                                       const AttachRequest* create);
  void AcquireStream(const StreamPtr& s);
  void CreateStream(const StreamPtr& s);
  void OnAcquired(const StreamPtr& s, absl::StatusOr<AcquiredStream> result);
  absl::Status AdoptRecord(Stream& s, AcquiredStream acquired);
  void OpenAttachment(const StreamPtr& s, const AttachmentPtr& attachment);
  void OnReady(const StreamPtr& s);
  void ReplayMore(const AttachmentPtr& attachment);
  void OnReplayPage(const AttachmentPtr& attachment, absl::StatusOr<std::vector<TokenRun>> runs);
  void DeliverReplay(Attachment& attachment, const TokenRun& run);
  void FailAttachment(const AttachmentPtr& attachment, const absl::Status& status);
  void ForgetAttachment(const AttachmentPtr& attachment);
  // Ends a stream here and now. Attachments hear `status`, or "released" when it is ABORTED.
  void DropStream(const StreamPtr& s, const absl::Status& status);

  // Operations.
  void Pump(const StreamPtr& s);
  void StartOps(const StreamPtr& s);
  bool StartAppend(const StreamPtr& s, Op& op);
  bool StartGenerate(const StreamPtr& s, Op& op);
  void RestoreBelowEnd(const StreamPtr& s);
  static uint64_t SettledPosition(const Stream& s, const Op& op);
  bool StartSettled(const StreamPtr& s, Op& op);
  bool NeedLog(const StreamPtr& s, Op& op, uint64_t from, uint64_t to);
  void FetchLog(const StreamPtr& s, uint64_t fetch, uint64_t from, uint64_t to);
  static Op* Fetching(const Stream& s, uint64_t fetch);  // null: it waits for it no more
  // Token and author at a position of [base, end) of an operation that asked NeedLog.
  std::pair<int32_t, TokenAuthor> Logged(const Stream& s, const Op& op, uint64_t position) const;
  bool ReplayLogged(Stream& s, Op& op);
  void TakeToken(Stream& s, Op& op, uint64_t position, SampledToken token, bool replayed);
  void Finish(Stream& s, Op& op, FinishReason reason, uint64_t end);
  void FailOp(Op& op, absl::Status status);
  absl::Status CheckRoom(const Stream& s, uint64_t tokens) const;
  absl::Status OpsFull(size_t ops) const;
  absl::StatusOr<MemoryReport> InspectNow(Stream& s, const Op& op);

  // Deliver.
  void Deliver(const StreamPtr& s);
  bool DeliverOutbox(Stream& s, Op& op, Attachment* attachment);
  void EmitDone(Stream& s, Op& op, Attachment& attachment);
  void CountDelivery(Op& op, Attachment& attachment, bool replayed, size_t tokens, Time now);

  // Step.
  struct Feed {
    StreamPtr stream;
    uint32_t rows = 0;
    bool logits = false;
  };
  bool Step();
  std::vector<Feed> PlanStep();
  bool WantsLogits(const Stream& s) const;
  uint64_t FeedableRows(const Stream& s, bool wants) const;
  void AfterFeed(const Feed& feed, const Segment& segment);
  void TakeLogits(const StreamPtr& s, std::span<const float> logits);
  void SampleNext(const StreamPtr& s, Op& op, std::span<const float> logits);
  void AcceptToken(const StreamPtr& s, Op& op, const SampledToken& token);
  std::span<const int32_t> RecentTokens(const Stream& s, const Op& op) const;
  void Poison(const StreamPtr& s, const absl::Status& status);

  // Append.
  struct ShardQueue {
    bool in_flight = false;
    std::shared_ptr<const AppendBatch> batch;
    std::vector<StreamPtr> streams;  // of the batch, in order
    Backoff backoff;
  };
  void KickAppends();
  void SendAppend(size_t shard);
  void OnAppended(size_t shard, absl::StatusOr<std::vector<AppendResult>> results);
  void OnAppendResult(const StreamPtr& s, const AppendEntry& entry, const AppendResult& result);

  // Residency.
  void NeedSlot(const StreamPtr& s);
  void TrySlots();
  bool EvictOne();
  bool Demote(const StreamPtr& s);
  void DropSlot(const StreamPtr& s);
  void PreemptOne();
  void Sweep();
  std::span<std::byte> Record(const Stream& s) const;

  // Restore.
  void StartRestore(const StreamPtr& s, bool fresh_record);
  void ChooseCandidates(Stream& s);
  void TryCandidate(const StreamPtr& s);
  void BringState(const StreamPtr& s, const std::shared_ptr<Restore>& job,
                  const ResidentStates::Staging& staging);
  void OnCandidate(const StreamPtr& s, const std::shared_ptr<Restore>& job, absl::Status fed,
                   absl::Status transport);
  void StartReplay(const StreamPtr& s, uint64_t position);
  void ReadPage(const StreamPtr& s);
  void OnPage(const StreamPtr& s, const std::shared_ptr<Restore>& job,
              absl::StatusOr<std::vector<TokenRun>> runs);
  void ContinueRestore(const StreamPtr& s);
  void SayContinuation(Stream& s);
  static RestoreReport ResidentReport(const Stream& s);
  void FailRestore(const StreamPtr& s, const absl::Status& status);

  // Snapshot.
  void Checkpoint(const StreamPtr& s);
  bool BeginSnapshot(const StreamPtr& s, std::string name, Engine::Callback<SnapshotRecord> done);
  void SubmitUpload(const StreamPtr& s);
  void OnUploaded(const StreamPtr& s, const std::shared_ptr<SnapshotJob>& job,
                  absl::StatusOr<SnapshotRecord> result, Time started);
  void ScheduleCheckpoint(Stream& s);

  // Loss of what runs the model.
  void CheckRunner();
  void LoseStates(const absl::Status& status);

  // Release.
  void StartClosing(const StreamPtr& s, std::string target, Engine::Callback<ReleaseResult> done);
  void ProgressClosing(const StreamPtr& s);
  void SendRelease(const StreamPtr& s);
  void FinishClosing(const StreamPtr& s);
  void CheckDrained();
  void RenewLeases();

  const EngineOptions options_;
  const std::unique_ptr<ModelRunner> runner_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
  const std::shared_ptr<StreamBackend> backend_;
  const std::shared_ptr<ResidentStates> states_;
  const std::shared_ptr<Mailbox> mailbox_ = std::make_shared<Mailbox>();
  const std::array<std::byte, 16> fingerprint_;
  const std::string class_;  // the runner's
  SnapshotUploader uploader_;
  std::atomic<AttachmentId> next_attachment_{1};

  // Scheduler thread only.
  std::unordered_map<std::string, StreamPtr> streams_;
  std::unordered_map<AttachmentId, AttachmentPtr> attachments_;
  std::vector<StreamPtr> residents_;  // with a slot, in no order
  std::deque<StreamPtr> slot_queue_;  // first come first served
  std::vector<StreamPtr> closing_;
  std::vector<ShardQueue> shards_;
  std::multimap<Time, Mailbox::Task> timers_;
  Sampler sampler_;
  std::vector<float> logits_;
  size_t turn_ = 0;        // rotates who goes first
  size_t count_turn_ = 0;  // and whose pairs are counted
  uint64_t queued_tokens_ = 0;
  uint64_t next_fetch_ = 0;
  bool more_work_ = false;
  bool draining_ = false;
  bool drain_expired_ = false;
  uint32_t drained_ = 0;
  absl::Status lost_;   // why the model cannot run now; OK while it can
  Time next_recovery_;  // while it cannot
  std::vector<std::function<void(uint32_t)>> on_drained_;
  EngineStatistics stats_;

  mutable std::mutex published_mu_;
  EngineStatistics published_;   // guarded by published_mu_
  Time published_at_;            // guarded by published_mu_; the loop goes round ten times a second
  absl::Status published_lost_;  // guarded by published_mu_

  std::thread thread_;  // last: starts when all else exists
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_RUNTIME_SCHEDULER_H_
