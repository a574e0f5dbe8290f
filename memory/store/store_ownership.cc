#include "absl/strings/str_cat.h"
#include "memory/env/failpoint.h"
#include "memory/store/request_check.h"
#include "memory/store/store_impl.h"

namespace lola::store {

absl::StatusOr<v1::AcquireReply> StoreImpl::Acquire(const v1::AcquireRequest& request) {
  if (absl::Status status = CheckAcquire(request); !status.ok()) return status;
  auto stream = table_->LockExisting(request.stream_id());
  if (!stream.ok()) return stream.status();
  StreamEntry& entry = **stream;
  // Its copier is known by the id of the request that made it.
  if (absl::Status status = CheckFinished(entry.record);
      !status.ok() && entry.record.request_id() != request.worker_instance()) {
    return status;
  }
  if (entry.record.model_fingerprint() != request.model_fingerprint()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "model_fingerprint: the call has ", memory::Quoted(request.model_fingerprint()),
        ", stream ", memory::Quoted(request.stream_id()), " was made with ",
        memory::Quoted(entry.record.model_fingerprint())));
  }
  const int64_t now_ms = options_.clock->MonotonicMs();
  const bool running =
      LeaseRuns(entry.record) && entry.record.owner_instance() != request.worker_instance();
  if (running && !request.takeover()) {
    absl::Status status = absl::FailedPreconditionError(
        absl::StrCat("owner: stream ", memory::Quoted(request.stream_id()), " belongs to ",
                     memory::Quoted(entry.record.owner()), " for ",
                     leases_.RemainingMs(entry.record.owner_instance(), now_ms),
                     " ms more, the call comes from ", memory::Quoted(request.worker())));
    status.SetPayload(kOwnerPayload, absl::Cord(entry.record.owner()));
    return status;
  }
  StreamRecord after = entry.record;
  after.set_owner(request.worker());
  after.set_owner_instance(request.worker_instance());
  after.set_owner_epoch(entry.record.owner_epoch() + 1);
  after.set_lease_ms(request.lease_ms());
  // A repeated call, whose first answer was lost, finds who was before the caller all the same.
  if (entry.record.owner_instance() != request.worker_instance()) {
    after.set_previous_instruction_class(entry.record.instruction_class());
  }
  after.set_instruction_class(request.instruction_class());
  after.set_last_used_unix_ms(options_.clock->UnixMs());
  const std::string old_instance =
      entry.record.owner().empty() ? "" : entry.record.owner_instance();
  rocksdb::WriteBatch batch;
  LOLA_FAILPOINT("store.acquire.before_commit");
  if (absl::Status status = Replace(entry, std::move(after), &batch); !status.ok()) return status;
  leases_.AddStream(request.worker_instance(), now_ms + request.lease_ms());
  if (!old_instance.empty()) leases_.RemoveStream(old_instance);
  Count([&](StoreStats& counts) {
    ++counts.acquires;
    if (running) ++counts.takeovers;
  });
  LOLA_FAILPOINT("store.acquire.after_commit");
  v1::AcquireReply reply;
  *reply.mutable_info() = ToInfo(entry);
  reply.set_epoch(entry.record.owner_epoch());
  reply.set_previous_instruction_class(entry.record.previous_instruction_class());
  return reply;
}

absl::StatusOr<v1::RenewReply> StoreImpl::Renew(const v1::RenewRequest& request) {
  if (absl::Status status = CheckRenew(request); !status.ok()) return status;
  const int64_t until_ms = options_.clock->MonotonicMs() + request.lease_ms();
  v1::RenewReply reply;
  reply.set_streams(uint32_t(leases_.Renew(request.worker_instance(), until_ms)));
  return reply;
}

absl::Status StoreImpl::Release(const v1::ReleaseRequest& request) {
  auto stream = table_->LockExisting(request.stream_id());
  if (!stream.ok()) return stream.status();
  StreamEntry& entry = **stream;
  const bool unfinished = entry.record.unfinished();
  // A retry: nobody else was owner since. Of an unfinished stream the first release leaves nothing.
  const bool again =
      !unfinished && entry.record.owner().empty() && entry.record.owner_epoch() == request.epoch();
  if (again) return absl::OkStatus();
  if (absl::Status status = CheckEpoch(entry, request.epoch()); !status.ok()) return status;
  if (unfinished && !request.finished()) return DeleteLocked(entry);
  if (unfinished && entry.committed != entry.record.forked_at()) {
    return absl::FailedPreconditionError(
        absl::StrCat("finished: stream ", memory::Quoted(request.stream_id()), " ends at ",
                     entry.committed, ", its copy at ", entry.record.forked_at()));
  }
  StreamRecord after = entry.record;
  after.clear_unfinished();
  const std::string instance = after.owner_instance();
  after.clear_owner();
  after.clear_owner_instance();
  after.clear_lease_ms();
  after.set_last_used_unix_ms(options_.clock->UnixMs());
  rocksdb::WriteBatch batch;
  LOLA_FAILPOINT("store.release.before_commit");
  if (absl::Status status = Replace(entry, std::move(after), &batch); !status.ok()) return status;
  leases_.RemoveStream(instance);
  LOLA_FAILPOINT("store.release.after_commit");
  return absl::OkStatus();
}

}  // namespace lola::store
