// Takes copies of states to the shards in the background: checksums on its own thread, then the
// upload. A fixed number of buffers bounds the memory; a copy holds its buffer until its job dies.
//
// Threads: Take and Submit may be called from any thread; `done` runs on a thread of the backend or
// on the upload thread.
#ifndef LOLA_SERVICES_ENGINE_RUNTIME_SNAPSHOT_UPLOADER_H_
#define LOLA_SERVICES_ENGINE_RUNTIME_SNAPSHOT_UPLOADER_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "memory/snapshot/writer.h"
#include "services/engine/runtime/resident_states.h"
#include "services/engine/runtime/stream_backend.h"

namespace lola::engine {

class SnapshotBuffers;

// One state on its way to the shard.
struct SnapshotJob {
  ~SnapshotJob();

  std::string stream_id;
  uint64_t epoch = 0;
  uint64_t position = 0;  // as SnapshotRecord's, both
  uint64_t state_position = 0;
  Classes computed_by;
  std::string name;
  uint32_t attempts = 0;
  std::function<void(absl::StatusOr<SnapshotRecord>)> done;

  memory::SnapshotIdentity identity;
  std::optional<memory::StateLayout> layout;
  std::span<std::byte> record;  // the copy, inside a buffer
  StateCopy arrived;            // waits for the copy; null once it has been asked
  absl::Status copied;          // its answer: a copy that failed is never uploaded
  std::shared_ptr<SnapshotBuffers> buffers;
  std::optional<memory::SnapshotWriter> writer;  // after the first attempt's checksums
};

class SnapshotUploader {
 public:
  // `buffers` copies of at most `record_bytes_max` each are allocated and touched now.
  SnapshotUploader(std::shared_ptr<StreamBackend> backend, std::shared_ptr<ResidentStates> states,
                   size_t buffers, size_t record_bytes_max);
  // Waits for the job at hand; queued ones are dropped.
  ~SnapshotUploader();
  SnapshotUploader(const SnapshotUploader&) = delete;

  // A job with room for a record; null when all buffers are in use. The caller starts the copy into
  // it: all the time a checkpoint takes from the scheduler.
  std::shared_ptr<SnapshotJob> Take(size_t record_bytes);
  bool HasBuffer() const;
  // Checksums (once) and uploads. The job's `done` is called once per Submit.
  void Submit(std::shared_ptr<SnapshotJob> job);

 private:
  void Loop();
  void Upload(const std::shared_ptr<SnapshotJob>& job);

  const std::shared_ptr<StreamBackend> backend_;
  const std::shared_ptr<SnapshotBuffers> buffers_;

  std::mutex mu_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<SnapshotJob>> queue_;  // guarded by mu_
  bool stopping_ = false;                           // guarded by mu_
  std::thread thread_;
};

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_RUNTIME_SNAPSHOT_UPLOADER_H_
