// Runs token streams: batches the work of many streams into passes of the model, keeps their tokens
// in the log before anybody sees them, their states in a fixed number of slots, and brings states
// back from snapshot and log after a move or a crash.
//
// Threads: all methods may be called from any thread and return at once; results come through sinks
// and callbacks on the scheduler thread, which must not be blocked. One scheduler thread and one
// upload thread per engine.
//
// Positions of a stream: committed <= end. `end` tokens have a position; the first `committed` of
// them are durable at the shard. The state has consumed some of them, and rests at end - 1: the
// last token is fed when something follows it or a prediction is wanted, because logits exist only
// at the moment a token is fed. So a stream can always continue from any snapshot below its end and
// the log. (Snapshot and Inspect feed the last token too: their position is the end.)
//
// Destruction is a crash on purpose: nothing is flushed, released or told. Drain first.
#ifndef LOLA_SERVICES_ENGINE_RUNTIME_ENGINE_H_
#define LOLA_SERVICES_ENGINE_RUNTIME_ENGINE_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/engine/runtime/events.h"
#include "services/engine/runtime/model_runner.h"
#include "services/engine/runtime/options.h"
#include "services/engine/runtime/statistics.h"
#include "services/engine/runtime/stream_backend.h"
#include "services/engine/tokenizer.h"

namespace lola::engine {

using AttachmentId = uint64_t;

class Scheduler;

class Engine {
 public:
  template <typename T>
  using Callback = std::function<void(absl::StatusOr<T>)>;

  // INVALID_ARGUMENT for bad options, RESOURCE_EXHAUSTED when the slots do not fit into memory.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options,
                                                        std::unique_ptr<ModelRunner> runner,
                                                        std::shared_ptr<const Tokenizer> tokenizer,
                                                        std::shared_ptr<StreamBackend> backend);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Takes ownership of the stream if need be and brings its state here. Then `sink` gets OnOpened,
  // or OnError: NOT_FOUND, FAILED_PRECONDITION (another owner, model, settings, state larger than a
  // slot), DATA_LOSS, UNAVAILABLE, RESOURCE_EXHAUSTED.
  AttachmentId Attach(AttachRequest request, std::shared_ptr<EventSink> sink);
  // Operations run in the order given. A failed operation ends its attachment (OnError).
  void Append(AttachmentId attachment, AppendOp op);
  void Generate(AttachmentId attachment, GenerateOp op);
  // The generation ends at the next token boundary with kCancelled; a queued one before its first.
  void Cancel(AttachmentId attachment, uint64_t seq);
  // The sink hears nothing more; operations not done are dropped where they stand.
  void Detach(AttachmentId attachment);
  // A sink became writable again.
  void Poke();

  // A snapshot of everything committed; named, or automatic when `name` is empty.
  void Snapshot(std::string stream_id, std::string name, Callback<SnapshotRecord> done);
  void Inspect(std::string stream_id, std::optional<uint32_t> layer, std::optional<uint32_t> head,
               Callback<MemoryReport> done);
  // Ends work at a token boundary, snapshots, gives up ownership; attachments are sent to `target`.
  // NOT_FOUND when the stream is not owned here.
  void Release(std::string stream_id, std::string target, Callback<ReleaseResult> done);
  // Takes ownership and makes the state resident.
  void Prepare(std::string stream_id, bool takeover, Callback<PrepareResult> done);
  // Releases everything and accepts nothing new. Snapshots not done by the deadline are skipped;
  // asked several times, the earliest deadline holds.
  // The callback gets the number of streams released.
  void Drain(std::chrono::milliseconds deadline, std::function<void(uint32_t)> done);

  EngineStatistics statistics() const;
  // OK while streams can be served. UNAVAILABLE with the reason while what runs the model is lost:
  // streams were given back, operations ended with it, attachments are refused with it. The same
  // while a pass of the model does not come back (a device that hangs): nothing is answered then.
  absl::Status health() const;
  std::string instruction_class() const;  // of the model runner
  const EngineOptions& options() const;
  const Model& model() const;
  const Tokenizer& tokenizer() const;

 private:
  explicit Engine(std::unique_ptr<Scheduler> scheduler);
  const std::unique_ptr<Scheduler> scheduler_;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_RUNTIME_ENGINE_H_
