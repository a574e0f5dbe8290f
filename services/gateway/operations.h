// What operators and simple callers do to streams: blocking calls to shards and workers, each with
// a deadline, and none longer than its caller waits. Thread-safe; called from the gateway's task
// pool. Errors are those of the process that refused, with its name in front when it could not be
// reached.
#ifndef LOLA_SERVICES_GATEWAY_OPERATIONS_H_
#define LOLA_SERVICES_GATEWAY_OPERATIONS_H_

#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lola/v1/cluster.pb.h"
#include "lola/v1/inference.pb.h"
#include "lola/v1/memory.pb.h"
#include "services/gateway/blocking_call.h"
#include "services/gateway/shard_clients.h"
#include "services/gateway/worker_pool.h"

namespace lola::gateway {

struct OperationDeadlines {
  std::chrono::milliseconds shard{5000};    // one call to a shard, retries included
  std::chrono::milliseconds worker{60000};  // release, prepare, snapshot: states of gigabytes
};

class Operations {
 public:
  Operations(ShardClients* shards, WorkerPool* workers, OperationDeadlines deadlines = {})
      : shards_(*shards), workers_(*workers), deadlines_(deadlines) {}

  absl::StatusOr<v1::StreamInfo> Describe(Caller caller, const std::string& stream_id);
  // Shard after shard, by id within a shard. The page token names the shard and its own token, so
  // that pages stay stable while streams come and go. A page of large streams ends early.
  absl::StatusOr<v1::ListReply> List(Caller caller, const v1::ListRequest& request);
  // Within the parent's shard: O(1). To another shard: a copy of log and snapshot, see
  // stream_copy.h. Safe to repeat with the same request_id.
  absl::StatusOr<v1::StreamInfo> Fork(Caller caller, const v1::ForkRequest& request);
  absl::StatusOr<v1::SnapshotInfo> Snapshot(Caller caller, const v1::SnapshotRequest& request);
  // The owner releases the stream first. Safe to repeat with the same request_id.
  absl::StatusOr<v1::StreamInfo> Rewind(Caller caller, const v1::RewindRequest& request);
  absl::Status Delete(Caller caller, const std::string& stream_id);
  absl::StatusOr<v1::InspectMemoryReply> Inspect(Caller caller,
                                                 const v1::InspectMemoryRequest& request);
  absl::StatusOr<v1::ModelInfo> Model();

  absl::StatusOr<v1::MigrateReply> Migrate(Caller caller, const v1::MigrateRequest& request);
  absl::StatusOr<v1::DrainReply> Drain(Caller caller, const v1::DrainWorkerRequest& request);
  v1::PartitionMap Map() const;

 private:
  // A worker that owns the stream with its state resident.
  absl::StatusOr<std::string> MakeResident(Caller caller, const std::string& stream_id);
  absl::StatusOr<v1::PrepareStreamReply> Prepare(Caller caller, const std::string& worker,
                                                 const std::string& stream_id, bool takeover);
  // Best effort: an owner that cannot be reached is fenced by the shard's epoch instead.
  void ReleaseAtOwner(Caller caller, const v1::StreamInfo& info, const std::string& target);
  absl::Status CheckWorker(const std::string& field, const std::string& address) const;

  ShardClients& shards_;
  WorkerPool& workers_;
  const OperationDeadlines deadlines_;
};

}  // namespace lola::gateway

#endif  // LOLA_SERVICES_GATEWAY_OPERATIONS_H_
