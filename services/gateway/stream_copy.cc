#include "services/gateway/stream_copy.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <string>
#include <utility>

#include "memory/env/failpoint.h"
#include "services/gateway/blocking_call.h"
#include "services/rpc/logging.h"

namespace lola::gateway {
namespace {

using Stub = v1::Memory::Stub;
using TimePoint = std::chrono::system_clock::time_point;

constexpr int kBatchTokens = 64 << 10;
constexpr char kOwner[] = "gateway-copy";
// A copier that died is noticed by the shard after this.
constexpr std::chrono::milliseconds kLease{15000};
constexpr std::chrono::milliseconds kRenewEvery{3000};

// State of one copy.
struct Copy {
  Caller caller;
  Stub& source;
  Stub& target;
  TimePoint deadline;
  v1::StreamInfo parent;
  uint64_t end = 0;
  std::string child;
  std::string request_id;  // also the instance that owns the child meanwhile
  uint64_t epoch = 0;
  TimePoint renewed;

  std::chrono::milliseconds Left() const {
    return std::chrono::duration_cast<std::chrono::milliseconds>(deadline -
                                                                 std::chrono::system_clock::now());
  }
  template <typename Request, typename Reply>
  absl::StatusOr<Reply> Ask(Stub& stub,
                            grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                         Reply*),
                            const Request& request, bool retry = true) const {
    return BlockingCall(caller, stub, method, request, Left(), "copy to another shard", retry);
  }
};

absl::Status Taken(const Copy& copy, const std::string& why) {
  return absl::AlreadyExistsError("new_stream_id: stream '" + copy.child + "' exists, " + why);
}

// OK when `child` is what `request` asks for, from an attempt before this one.
absl::Status CheckSame(const Copy& copy, const v1::ForkRequest& request,
                       const v1::StreamInfo& child) {
  if (child.request_id() != copy.request_id) {
    return Taken(copy,
                 "made by request '" + child.request_id() + "', not '" + copy.request_id + "'");
  }
  if (child.parent() != request.stream_id()) {
    return Taken(copy, "a fork of '" + child.parent() + "', not of '" + request.stream_id() + "'");
  }
  if (!request.has_at_position() || request.at_position() == child.forked_at()) {
    return absl::OkStatus();
  }
  return Taken(copy, "forked at position " + std::to_string(child.forked_at()) + ", not at " +
                         std::to_string(request.at_position()));
}

absl::StatusOr<v1::StreamInfo> DescribeAt(const Copy& copy, Stub& stub, const std::string& id,
                                          bool retry) {
  v1::DescribeStreamRequest describe;
  describe.set_stream_id(id);
  return copy.Ask(stub, &Stub::Describe, describe, retry);
}

// The child as it is at the target: complete from an earlier attempt, or (still) unfinished.
absl::StatusOr<v1::StreamInfo> CreateChild(const Copy& copy, const v1::ForkRequest& request) {
  v1::CreateStreamRequest create;
  create.set_stream_id(copy.child);
  create.set_tenant(copy.parent.tenant());
  *create.mutable_labels() = request.labels().empty() ? copy.parent.labels() : request.labels();
  create.set_model_fingerprint(copy.parent.model_fingerprint());
  *create.mutable_settings() = copy.parent.settings();
  *create.mutable_sampling() = copy.parent.sampling();
  create.set_ttl_ms(copy.parent.ttl_ms());
  create.set_state_bytes(copy.parent.state_bytes());
  create.set_request_id(copy.request_id);
  create.set_parent(request.stream_id());
  create.set_forked_at(copy.end);
  create.set_unfinished(true);
  auto child = copy.Ask(copy.target, &Stub::Create, create);
  if (!child.ok()) return child.status();
  if (absl::Status status = CheckSame(copy, request, *child); !status.ok()) return status;
  return child;
}

// Whoever copied before us, with the same request id, is fenced by this.
absl::Status AcquireChild(Copy& copy) {
  v1::AcquireRequest acquire;
  acquire.set_stream_id(copy.child);
  acquire.set_worker(kOwner);
  acquire.set_worker_instance(copy.request_id);
  acquire.set_lease_ms(kLease.count());
  acquire.set_model_fingerprint(copy.parent.model_fingerprint());
  acquire.set_instruction_class(copy.parent.instruction_class());  // whose tokens these are
  auto acquired = copy.Ask(copy.target, &Stub::Acquire, acquire);
  if (!acquired.ok()) return acquired.status();
  copy.epoch = acquired->epoch();
  copy.renewed = std::chrono::system_clock::now();
  return absl::OkStatus();
}

// To be called while the copy goes on.
absl::Status KeepLease(Copy& copy) {
  const auto now = std::chrono::system_clock::now();
  if (now - copy.renewed < kRenewEvery) return absl::OkStatus();
  v1::RenewRequest renew;
  renew.set_worker_instance(copy.request_id);
  renew.set_lease_ms(kLease.count());
  auto reply = copy.Ask(copy.target, &Stub::Renew, renew);
  if (reply.ok()) copy.renewed = now;
  return reply.status();
}

absl::Status Flush(Copy& copy, v1::AppendBatchRequest* batch) {
  if (batch->entries_size() == 0) return absl::OkStatus();
  batch->mutable_entries(0)->set_stream_id(copy.child);
  batch->mutable_entries(0)->set_epoch(copy.epoch);
  auto reply = copy.Ask(copy.target, &Stub::Append, *batch);
  batch->Clear();
  if (!reply.ok()) return reply.status();
  if (reply->results_size() != 1) return absl::InternalError("append: no result");
  const v1::AppendResult& result = reply->results(0);
  return absl::Status(static_cast<absl::StatusCode>(result.code()), result.message());
}

absl::Status CopyTokens(Copy& copy) {
  if (copy.end == 0) return absl::OkStatus();
  const auto context = ContextFor(copy.caller);
  context->set_deadline(copy.deadline);
  v1::ReadTokensRequest read;
  read.set_stream_id(copy.parent.stream_id());
  read.set_from(0);
  read.set_to(copy.end);
  auto reader = copy.source.ReadTokens(context.get(), read);
  v1::AppendBatchRequest batch;
  v1::TokenRun run;
  int gathered = 0;
  uint64_t next = 0;
  while (reader->Read(&run)) {
    if (run.position() != next) {
      context->TryCancel();
      return absl::DataLossError("log of '" + copy.parent.stream_id() + "' continues at " +
                                 std::to_string(run.position()) + ", expected " +
                                 std::to_string(next));
    }
    next += static_cast<uint64_t>(run.ids_size());
    gathered += run.ids_size();
    if (batch.entries_size() == 0) batch.add_entries();
    *batch.mutable_entries(0)->add_runs() = std::move(run);
    if (gathered < kBatchTokens) continue;
    gathered = 0;
    absl::Status status = Flush(copy, &batch);
    if (status.ok()) status = KeepLease(copy);
    if (!status.ok()) {
      context->TryCancel();
      return status;
    }
  }
  if (absl::Status status = rpc::FromGrpc(reader->Finish()); !status.ok()) return status;
  if (absl::Status status = Flush(copy, &batch); !status.ok()) return status;
  if (next == copy.end) return absl::OkStatus();
  return absl::DataLossError("log of '" + copy.parent.stream_id() + "' ends at " +
                             std::to_string(next) + ", expected " + std::to_string(copy.end));
}

absl::Status CopySnapshot(Copy& copy, const v1::SnapshotInfo& snapshot) {
  const auto get_context = ContextFor(copy.caller), put_context = ContextFor(copy.caller);
  get_context->set_deadline(copy.deadline);
  put_context->set_deadline(copy.deadline);
  v1::GetSnapshotRequest get;
  get.set_stream_id(copy.parent.stream_id());
  get.set_blob_id(snapshot.blob_id());
  auto reader = copy.source.GetSnapshot(get_context.get(), get);
  v1::SnapshotInfo stored;
  auto writer = copy.target.PutSnapshot(put_context.get(), &stored);
  v1::PutSnapshotRequest part;
  part.mutable_header()->set_stream_id(copy.child);
  part.mutable_header()->set_epoch(copy.epoch);
  part.mutable_header()->set_position(snapshot.position());
  part.mutable_header()->set_state_position(snapshot.state_position());
  *part.mutable_header()->mutable_instruction_classes() = snapshot.instruction_classes();
  part.mutable_header()->set_digest(snapshot.digest());
  part.mutable_header()->set_size_bytes(snapshot.size_bytes());
  bool writable = writer->Write(part);
  v1::SnapshotChunk chunk;
  while (writable && reader->Read(&chunk)) {
    part.set_data(std::move(*chunk.mutable_data()));
    writable = writer->Write(part) && KeepLease(copy).ok();
  }
  if (!writable) get_context->TryCancel();
  const absl::Status read = rpc::FromGrpc(reader->Finish());
  if (writable && !read.ok()) {
    put_context->TryCancel();
    writer->Finish();
    return read;
  }
  writer->WritesDone();
  return rpc::FromGrpc(writer->Finish());
}

absl::Status FillChild(Copy& copy) {
  if (absl::Status status = CopyTokens(copy); !status.ok()) return status;
  LOLA_FAILPOINT("gateway.copy.tokens");
  absl::Status status;
  for (int i = copy.parent.snapshots_size() - 1; i >= 0; --i) {
    const v1::SnapshotInfo& snapshot = copy.parent.snapshots(i);
    if (snapshot.position() > copy.end) continue;
    status = CopySnapshot(copy, snapshot);
    if (status.ok()) break;  // else an older one: it may have been collected meanwhile
    rpc::LogWarn("snapshot not copied", {{"stream", copy.parent.stream_id()}, {"status", status}});
  }
  if (!status.ok()) return status;
  LOLA_FAILPOINT("gateway.copy.snapshot");
  // Deleted and made anew under our eyes, it is another stream.
  auto parent = DescribeAt(copy, copy.source, copy.parent.stream_id(), true);
  if (!parent.ok()) return parent.status();
  if (parent->stream_uid() == copy.parent.stream_uid()) return absl::OkStatus();
  return absl::AbortedError("stream '" + copy.parent.stream_id() + "' was made anew meanwhile");
}

absl::Status ReleaseChild(const Copy& copy, bool finished) {
  v1::ReleaseRequest release;
  release.set_stream_id(copy.child);
  release.set_epoch(copy.epoch);
  release.set_finished(finished);
  if (finished) return copy.Ask(copy.target, &Stub::Release, release).status();
  // Also when the time for the copy is up, or its caller has gone.
  return BlockingCall(nullptr, copy.target, &Stub::Release, release, kRenewEvery, "copy", false)
      .status();
}

// Creates the child and fills it, or takes up where an earlier attempt left off.
absl::Status MakeChild(Copy& copy, const v1::ForkRequest& request) {
  auto child = CreateChild(copy, request);
  if (!child.ok()) return child.status();
  if (!child->unfinished()) return absl::OkStatus();
  copy.end = child->forked_at();
  LOLA_FAILPOINT("gateway.copy.created");
  if (absl::Status status = AcquireChild(copy); !status.ok()) return status;
  absl::Status status = FillChild(copy);
  if (status.ok()) return ReleaseChild(copy, true);
  // Removes what is there. Should that fail too, the shard does it when the lease has run out; if a
  // second attempt has become owner, its child stays.
  (void)ReleaseChild(copy, false);
  return rpc::Annotate(status, "fork of '" + request.stream_id() + "' to another shard");
}

}  // namespace

absl::StatusOr<v1::StreamInfo> CopyStream(Caller caller, Stub& source, Stub& target,
                                          const v1::ForkRequest& request,
                                          std::chrono::milliseconds within) {
  Copy copy{caller, source, target, std::chrono::system_clock::now() + within};
  copy.child = request.new_stream_id();
  copy.request_id = request.request_id();
  if (!copy.request_id.empty()) {
    // An answer that got lost: the parent may be gone by now.
    auto done = DescribeAt(copy, target, copy.child, false);
    if (done.ok()) {
      absl::Status same = CheckSame(copy, request, *done);
      return same.ok() ? done : same;
    }
  }
  auto parent = DescribeAt(copy, source, request.stream_id(), true);
  if (!parent.ok()) return parent.status();
  copy.parent = *std::move(parent);
  copy.end = request.has_at_position() ? request.at_position() : copy.parent.committed_position();
  if (copy.end > copy.parent.committed_position()) {
    return absl::OutOfRangeError("at_position: " + std::to_string(copy.end) +
                                 " is beyond the committed position " +
                                 std::to_string(copy.parent.committed_position()));
  }
  if (copy.request_id.empty()) {
    copy.request_id = "fork:" + copy.parent.stream_uid() + "@" + std::to_string(copy.end);
  }
  if (absl::Status status = MakeChild(copy, request); !status.ok()) return status;
  LOLA_FAILPOINT("gateway.copy.finished");
  return DescribeAt(copy, target, copy.child, true);
}

}  // namespace lola::gateway
