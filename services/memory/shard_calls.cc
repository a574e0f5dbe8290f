#include "services/memory/shard_calls.h"

#include <grpcpp/support/status.h>

#include "absl/strings/str_cat.h"
#include "memory/env/failpoint.h"
#include "services/rpc/status_map.h"

namespace lola::shard {
namespace {

constexpr char kRetryAfterMs[] = "50";

}  // namespace

ShardCalls::ShardCalls(const ShardOptions& options, std::unique_ptr<store::StreamStore> store)
    : options_(options), store_(std::move(store)), executor_(options.threads, options.queue_max) {}

absl::Status ShardCalls::AdmitAny() {
  ++calls_;
  if (!draining_.load()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("shard ", options_.shard_id, " is shutting down"));
}

absl::Status ShardCalls::Admit(std::string_view stream_id) {
  absl::Status status = AdmitAny();
  return status.ok() ? AdmitStream(stream_id) : status;
}

absl::Status ShardCalls::AdmitStream(std::string_view stream_id) {
  const memory::ShardPlace& place = options_.map.ShardOf(stream_id);
  if (place.shard_id == options_.shard_id) return absl::OkStatus();
  ++misrouted_;
  return absl::FailedPreconditionError(
      absl::StrCat("partition: stream ", memory::Quoted(stream_id), " is in partition ",
                   options_.map.PartitionOf(stream_id), " of shard ", place.shard_id,
                   ", this is shard ", options_.shard_id));
}

absl::Status ShardCalls::Overloaded(const char* field, size_t calls, const char* what) {
  ++overloaded_;
  absl::Status status = absl::ResourceExhaustedError(
      absl::StrCat(field, ": ", calls, " calls ", what, " in shard ", options_.shard_id,
                   ", at most ", options_.queue_max));
  rpc::SetDetail(status, rpc::kRetryAfterMsDetail, kRetryAfterMs);
  return status;
}

absl::Status ShardCalls::Start(std::function<void()> task) {
  if (executor_.TrySubmit(std::move(task))) return absl::OkStatus();
  return Overloaded("queue", executor_.queued(), "wait");
}

absl::Status ShardCalls::StartSending(std::function<void()> task) {
  const size_t open = sending_.fetch_add(1);
  absl::Status status =
      open < options_.queue_max ? Start(std::move(task)) : Overloaded("open", open, "send");
  if (!status.ok()) --sending_;
  return status;
}

grpc::Status ShardCalls::End(const absl::Status& status) {
  if (!status.ok()) ++failed_;
  return rpc::ToGrpc(status);
}

absl::Status ShardCalls::Health() const {
  LOLA_FAILPOINT("shard.health");
  return store_ == nullptr ? absl::OkStatus() : store_->Health();
}

ShardStats ShardCalls::Stats() const {
  ShardStats stats;
  stats.store = store_ != nullptr ? store_->Stats() : last_store_stats_;
  stats.calls = calls_;
  stats.calls_failed = failed_;
  stats.calls_overloaded = overloaded_;
  stats.calls_misrouted = misrouted_;
  stats.queued = executor_.queued();
  return stats;
}

void ShardCalls::Stop() {
  Drain();
  executor_.Stop();
  if (store_ == nullptr) return;
  last_store_stats_ = store_->Stats();
  store_.reset();
}

}  // namespace lola::shard
