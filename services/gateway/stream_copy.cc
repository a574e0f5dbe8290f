#include "services/gateway/stream_copy.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <string>
#include <utility>

#include "services/gateway/blocking_call.h"
#include "services/rpc/logging.h"

namespace lola::gateway {
namespace {

using Stub = v1::Memory::Stub;
using TimePoint = std::chrono::system_clock::time_point;

constexpr int kBatchTokens = 64 << 10;
constexpr char kOwner[] = "gateway-copy";

// State of one copy.
struct Copy {
  Stub& source;
  Stub& target;
  TimePoint deadline;
  v1::StreamInfo parent;
  uint64_t end = 0;
  std::string child;
  uint64_t epoch = 0;

  template <typename Request, typename Reply>
  absl::StatusOr<Reply> Ask(Stub& stub,
                            grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                         Reply*),
                            const Request& request) const {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::system_clock::now());
    return BlockingCall(stub, method, request, left, "copy to another shard", true);
  }
};

absl::Status CreateChild(Copy& copy, const v1::ForkRequest& request) {
  v1::CreateStreamRequest create;
  create.set_stream_id(copy.child);
  create.set_tenant(copy.parent.tenant());
  *create.mutable_labels() = request.labels().empty() ? copy.parent.labels() : request.labels();
  create.set_model_fingerprint(copy.parent.model_fingerprint());
  *create.mutable_settings() = copy.parent.settings();
  *create.mutable_sampling() = copy.parent.sampling();
  create.set_ttl_ms(copy.parent.ttl_ms());
  create.set_state_bytes(copy.parent.state_bytes());
  create.set_request_id("fork:" + copy.parent.stream_uid() + "@" + std::to_string(copy.end));
  if (auto info = copy.Ask(copy.target, &Stub::Create, create); !info.ok()) return info.status();
  v1::AcquireRequest acquire;
  acquire.set_stream_id(copy.child);
  acquire.set_worker(kOwner);
  acquire.set_worker_instance(create.request_id());
  acquire.set_lease_ms(60000);
  acquire.set_model_fingerprint(copy.parent.model_fingerprint());
  auto acquired = copy.Ask(copy.target, &Stub::Acquire, acquire);
  if (!acquired.ok()) return acquired.status();
  copy.epoch = acquired->epoch();
  return absl::OkStatus();
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
  grpc::ClientContext context;
  context.set_deadline(copy.deadline);
  v1::ReadTokensRequest read;
  read.set_stream_id(copy.parent.stream_id());
  read.set_from(0);
  read.set_to(copy.end);
  auto reader = copy.source.ReadTokens(&context, read);
  v1::AppendBatchRequest batch;
  v1::TokenRun run;
  int gathered = 0;
  uint64_t next = 0;
  while (reader->Read(&run)) {
    if (run.position() != next) {
      context.TryCancel();
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
    if (absl::Status status = Flush(copy, &batch); !status.ok()) {
      context.TryCancel();
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
  grpc::ClientContext get_context, put_context;
  get_context.set_deadline(copy.deadline);
  put_context.set_deadline(copy.deadline);
  v1::GetSnapshotRequest get;
  get.set_stream_id(copy.parent.stream_id());
  get.set_blob_id(snapshot.blob_id());
  auto reader = copy.source.GetSnapshot(&get_context, get);
  v1::SnapshotInfo stored;
  auto writer = copy.target.PutSnapshot(&put_context, &stored);
  v1::PutSnapshotRequest part;
  part.mutable_header()->set_stream_id(copy.child);
  part.mutable_header()->set_epoch(copy.epoch);
  part.mutable_header()->set_position(snapshot.position());
  part.mutable_header()->set_digest(snapshot.digest());
  part.mutable_header()->set_size_bytes(snapshot.size_bytes());
  bool writable = writer->Write(part);
  v1::SnapshotChunk chunk;
  while (writable && reader->Read(&chunk)) {
    part.set_data(std::move(*chunk.mutable_data()));
    writable = writer->Write(part);
  }
  if (!writable) get_context.TryCancel();
  const absl::Status read = rpc::FromGrpc(reader->Finish());
  if (writable && !read.ok()) {
    put_context.TryCancel();
    writer->Finish();
    return read;
  }
  writer->WritesDone();
  return rpc::FromGrpc(writer->Finish());
}

absl::Status FillChild(Copy& copy) {
  if (absl::Status status = CopyTokens(copy); !status.ok()) return status;
  absl::Status status;
  for (int i = copy.parent.snapshots_size() - 1; i >= 0; --i) {
    const v1::SnapshotInfo& snapshot = copy.parent.snapshots(i);
    if (snapshot.position() > copy.end) continue;
    status = CopySnapshot(copy, snapshot);
    if (status.ok()) break;  // else an older one: it may have been collected meanwhile
    rpc::LogWarn("snapshot not copied", {{"stream", copy.parent.stream_id()}, {"status", status}});
  }
  return status;
}

}  // namespace

absl::StatusOr<v1::StreamInfo> CopyStream(Stub& source, Stub& target,
                                          const v1::ForkRequest& request,
                                          std::chrono::milliseconds within) {
  Copy copy{source, target, std::chrono::system_clock::now() + within};
  copy.child = request.new_stream_id();
  v1::DescribeStreamRequest describe;
  describe.set_stream_id(request.stream_id());
  auto parent = copy.Ask(source, &Stub::Describe, describe);
  if (!parent.ok()) return parent.status();
  copy.parent = *std::move(parent);
  copy.end = request.has_at_position() ? request.at_position() : copy.parent.committed_position();
  if (copy.end > copy.parent.committed_position()) {
    return absl::OutOfRangeError("at_position: " + std::to_string(copy.end) +
                                 " is beyond the committed position " +
                                 std::to_string(copy.parent.committed_position()));
  }
  if (absl::Status status = CreateChild(copy, request); !status.ok()) return status;
  if (absl::Status status = FillChild(copy); !status.ok()) {
    if (!absl::IsAborted(status)) {
      v1::DeleteStreamRequest remove;
      remove.set_stream_id(copy.child);
      (void)copy.Ask(target, &Stub::Delete, remove);
    }
    return rpc::Annotate(status, "fork of '" + request.stream_id() + "' to another shard");
  }
  v1::ReleaseRequest release;
  release.set_stream_id(copy.child);
  release.set_epoch(copy.epoch);
  if (auto reply = copy.Ask(target, &Stub::Release, release); !reply.ok()) return reply.status();
  describe.set_stream_id(copy.child);
  auto child = copy.Ask(target, &Stub::Describe, describe);
  if (!child.ok()) return child.status();
  child->set_parent(request.stream_id());
  child->set_forked_at(copy.end);
  return child;
}

}  // namespace lola::gateway
