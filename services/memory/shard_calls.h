// What all calls of the shard share: admission, threads, counters. Private to services/memory.
// Any thread.
#ifndef LOLA_SERVICES_MEMORY_SHARD_CALLS_H_
#define LOLA_SERVICES_MEMORY_SHARD_CALLS_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "memory/store/stream_store.h"
#include "services/memory/executor.h"
#include "services/memory/shard_service.h"

namespace grpc {
class Status;
}

namespace lola::shard {

class ShardCalls {
 public:
  ShardCalls(const ShardOptions& options, std::unique_ptr<store::StreamStore> store);

  // OK when this shard serves the stream and takes calls. UNAVAILABLE while draining,
  // FAILED_PRECONDITION for a partition of another shard.
  absl::Status Admit(std::string_view stream_id);
  absl::Status AdmitAny();                               // the first half: takes calls
  absl::Status AdmitStream(std::string_view stream_id);  // the second half: serves the stream
  // Runs `task` on a thread of ours; RESOURCE_EXHAUSTED when too many wait.
  absl::Status Start(std::function<void()> task);
  // As Start, for a call that sends as fast as its caller reads: while it is open it holds buffers
  // and a version of the store, so at most `queue_max` are. Each OK is followed by one EndSending.
  absl::Status StartSending(std::function<void()> task);
  void EndSending() { --sending_; }
  void Continue(std::function<void()> task) { executor_.Continue(std::move(task)); }
  // Counts the end of a call and turns its status into gRPC's.
  grpc::Status End(const absl::Status& status);

  store::StreamStore& store() { return *store_; }
  const ShardOptions& options() const { return options_; }
  ShardStats Stats() const;
  absl::Status Health() const;
  void Drain() { draining_.store(true); }
  void Stop();

 private:
  // RESOURCE_EXHAUSTED with a retry hint, counted.
  absl::Status Overloaded(const char* field, size_t calls, const char* what);

  const ShardOptions options_;
  std::unique_ptr<store::StreamStore> store_;
  Executor executor_;
  store::StoreStats last_store_stats_;  // of a stopped store
  std::atomic<bool> draining_{false};
  std::atomic<size_t> sending_{0};
  std::atomic<uint64_t> calls_{0};
  std::atomic<uint64_t> failed_{0};
  std::atomic<uint64_t> overloaded_{0};
  std::atomic<uint64_t> misrouted_{0};
};

}  // namespace lola::shard

#endif  // LOLA_SERVICES_MEMORY_SHARD_CALLS_H_
