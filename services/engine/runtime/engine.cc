#include "services/engine/runtime/engine.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/engine/runtime/scheduler.h"

namespace lola::engine {

std::string_view RestoreKindName(RestoreReport::Kind kind) {
  switch (kind) {
    case RestoreReport::Kind::kNew:
      return "new";
    case RestoreReport::Kind::kResident:
      return "resident";
    case RestoreReport::Kind::kRestored:
      return "restored";
  }
  return "unknown";
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options,
                                                       std::unique_ptr<ModelRunner> runner,
                                                       std::shared_ptr<const Tokenizer> tokenizer,
                                                       std::shared_ptr<StreamBackend> backend) {
  if (absl::Status s = options.Validate(); !s.ok()) return s;
  EngineOptions resolved = options;
  if (absl::Status s = resolved.FitRows(runner->rows_max()); !s.ok()) return s;
  const memory::StateLayout layout(runner->model().geometry(), runner->model().default_settings());
  if (resolved.slot_bytes == 0) resolved.slot_bytes = layout.stride_bytes();
  resolved.slot_bytes =
      (resolved.slot_bytes + memory::kPageBytes - 1) / memory::kPageBytes * memory::kPageBytes;
  auto states = runner->MakeStates(resolved.slot_bytes, resolved.slots, resolved.snapshot_buffers);
  if (!states.ok()) return states.status();
  return std::unique_ptr<Engine>(new Engine(std::make_unique<Scheduler>(
      resolved, std::move(runner), std::move(tokenizer), std::move(backend), std::move(*states))));
}

Engine::Engine(std::unique_ptr<Scheduler> scheduler) : scheduler_(std::move(scheduler)) {}
Engine::~Engine() = default;

AttachmentId Engine::Attach(AttachRequest request, std::shared_ptr<EventSink> sink) {
  return scheduler_->NewAttachment(std::move(request), std::move(sink));
}

void Engine::Append(AttachmentId attachment, AppendOp append) {
  // Tasks are copyable closures, operations are not: the op waits in a shared box.
  auto box = std::make_shared<std::unique_ptr<Op>>(std::make_unique<Op>());
  Op& op = **box;
  op.kind = Op::Kind::kAppend;
  op.seq = append.seq;
  op.base = append.base;
  op.ids = std::move(append.ids);
  op.ids_at_start = std::move(append.ids_at_start);
  op.received = std::chrono::steady_clock::now();
  scheduler_->Post([scheduler = scheduler_.get(), attachment, box] {
    scheduler->AddOp(attachment, std::move(*box));
  });
}

void Engine::Generate(AttachmentId attachment, GenerateOp generate) {
  auto box = std::make_shared<std::unique_ptr<Op>>(std::make_unique<Op>());
  Op& op = **box;
  op.kind = Op::Kind::kGenerate;
  op.seq = generate.seq;
  op.base = generate.base;
  op.cancelled = generate.cancelled;
  op.generate = std::move(generate);
  op.received = std::chrono::steady_clock::now();
  scheduler_->Post([scheduler = scheduler_.get(), attachment, box] {
    scheduler->AddOp(attachment, std::move(*box));
  });
}

void Engine::Cancel(AttachmentId attachment, uint64_t seq) {
  scheduler_->Post(
      [scheduler = scheduler_.get(), attachment, seq] { scheduler->Cancel(attachment, seq); });
}

void Engine::Detach(AttachmentId attachment) {
  scheduler_->Post([scheduler = scheduler_.get(), attachment] { scheduler->Detach(attachment); });
}

void Engine::Poke() {
  scheduler_->Post([scheduler = scheduler_.get()] { scheduler->PokeReplays(); });
}

void Engine::Snapshot(std::string stream_id, std::string name, Callback<SnapshotRecord> done) {
  scheduler_->Post([scheduler = scheduler_.get(), stream_id, name, done] {
    auto op = std::make_unique<Op>();
    op->kind = Op::Kind::kSnapshot;
    op->snapshot_name = name;
    op->on_snapshot = done;
    scheduler->AddInternalOp(stream_id, std::move(op));
  });
}

void Engine::Inspect(std::string stream_id, std::optional<uint32_t> layer,
                     std::optional<uint32_t> head, Callback<MemoryReport> done) {
  scheduler_->Post([scheduler = scheduler_.get(), stream_id, layer, head, done] {
    auto op = std::make_unique<Op>();
    op->kind = Op::Kind::kInspect;
    op->layer = layer;
    op->head = head;
    op->on_inspect = done;
    scheduler->AddInternalOp(stream_id, std::move(op));
  });
}

void Engine::Release(std::string stream_id, std::string target, Callback<ReleaseResult> done) {
  scheduler_->Post([scheduler = scheduler_.get(), stream_id, target, done] {
    scheduler->Release(stream_id, target, done);
  });
}

void Engine::Prepare(std::string stream_id, bool takeover, Callback<PrepareResult> done) {
  scheduler_->Post([scheduler = scheduler_.get(), stream_id, takeover, done] {
    scheduler->Prepare(stream_id, takeover, done);
  });
}

void Engine::Drain(std::chrono::milliseconds deadline, std::function<void(uint32_t)> done) {
  scheduler_->Post(
      [scheduler = scheduler_.get(), deadline, done] { scheduler->Drain(deadline, done); });
}

absl::Status Engine::health() const { return scheduler_->health(); }

EngineStatistics Engine::statistics() const { return scheduler_->statistics(); }
std::string Engine::instruction_class() const { return scheduler_->instruction_class(); }
const EngineOptions& Engine::options() const { return scheduler_->options(); }
const Model& Engine::model() const { return scheduler_->model(); }
const Tokenizer& Engine::tokenizer() const { return scheduler_->tokenizer(); }

}  // namespace lola::engine
