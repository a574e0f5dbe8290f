#include "services/gateway/operations.h"

#include <algorithm>
#include <set>
#include <utility>

#include "memory/env/random.h"
#include "services/gateway/blocking_call.h"
#include "services/gateway/stream_copy.h"
#include "services/rpc/limits.h"
#include "services/rpc/logging.h"

namespace lola::gateway {
namespace {

using ShardStub = v1::Memory::Stub;
using WorkerStub = v1::Worker::Stub;

// A page ends behind this many bytes: one more page of a shard, about 4 MiB, must still fit into
// the same message of 8 MiB.
constexpr size_t kListBytesMax = size_t{2} << 20;

std::string PeerName(const memory::ShardPlace& place) {
  return "shard " + place.shard_id + " at " + place.address;
}

bool Owned(const v1::StreamInfo& info) {
  return !info.owner().empty() && info.lease_remaining_ms() > 0;
}

}  // namespace

absl::StatusOr<v1::StreamInfo> Operations::Describe(Caller caller, const std::string& stream_id) {
  v1::DescribeStreamRequest request;
  request.set_stream_id(stream_id);
  return BlockingCall(caller, shards_.StubOf(stream_id), &ShardStub::Describe, request,
                      deadlines_.shard, PeerName(shards_.PlaceOf(stream_id)), true);
}

absl::StatusOr<v1::ListReply> Operations::List(Caller caller, const v1::ListRequest& request) {
  const auto& places = shards_.map().shards();
  size_t index = 0;
  std::string token = request.page_token();
  if (!token.empty()) {
    const size_t slash = token.find('/');
    const std::string shard = token.substr(0, slash);
    while (index < places.size() && places[index].shard_id != shard) ++index;
    if (slash == std::string::npos || index == places.size()) {
      return absl::InvalidArgumentError("page_token: '" + token.substr(0, 64) +
                                        "' was not given out by this service");
    }
    token = token.substr(slash + 1);
  }
  const uint32_t size = request.page_size() == 0 ? rpc::kListPageDefault : request.page_size();
  v1::ListReply reply;
  while (index < places.size() && reply.streams_size() < static_cast<int>(size) &&
         reply.ByteSizeLong() < kListBytesMax) {
    v1::ListStreamsRequest ask;
    ask.set_page_size(size - static_cast<uint32_t>(reply.streams_size()));
    ask.set_page_token(token);
    ask.set_id_prefix(request.id_prefix());
    *ask.mutable_labels() = request.labels();
    auto part = BlockingCall(caller, shards_.StubOfShard(places[index].shard_id), &ShardStub::List,
                             ask, deadlines_.shard, PeerName(places[index]), true);
    if (!part.ok()) return part.status();
    for (v1::StreamInfo& info : *part->mutable_streams()) *reply.add_streams() = std::move(info);
    token = part->next_page_token();
    if (token.empty()) ++index;
  }
  if (index < places.size()) reply.set_next_page_token(places[index].shard_id + "/" + token);
  return reply;
}

absl::StatusOr<v1::StreamInfo> Operations::Fork(Caller caller, const v1::ForkRequest& request) {
  const memory::ShardPlace& from = shards_.PlaceOf(request.stream_id());
  const memory::ShardPlace& to = shards_.PlaceOf(request.new_stream_id());
  if (from.shard_id != to.shard_id) {
    return CopyStream(caller, shards_.StubOf(request.stream_id()),
                      shards_.StubOf(request.new_stream_id()), request, deadlines_.worker);
  }
  v1::ForkStreamRequest fork;
  fork.set_stream_id(request.stream_id());
  fork.set_new_stream_id(request.new_stream_id());
  if (request.has_at_position()) fork.set_at_position(request.at_position());
  *fork.mutable_labels() = request.labels();
  fork.set_request_id(request.request_id().empty() ? memory::NewUid() : request.request_id());
  return BlockingCall(caller, shards_.StubOf(request.stream_id()), &ShardStub::Fork, fork,
                      deadlines_.shard, PeerName(from), true);
}

absl::StatusOr<v1::PrepareStreamReply> Operations::Prepare(Caller caller, const std::string& worker,
                                                           const std::string& stream_id,
                                                           bool takeover) {
  v1::PrepareStreamRequest request;
  request.set_stream_id(stream_id);
  request.set_takeover(takeover);
  auto reply = BlockingCall(caller, *workers_.stub(worker), &WorkerStub::Prepare, request,
                            deadlines_.worker, "worker " + worker, false);
  const bool restarted = !takeover && absl::IsFailedPrecondition(reply.status()) &&
                         rpc::GetDetail(reply.status(), rpc::kOwnerDetail) == worker;
  // The lease is that of the worker's process before: nobody else is harmed.
  return restarted ? Prepare(caller, worker, stream_id, true) : std::move(reply);
}

absl::StatusOr<std::string> Operations::MakeResident(Caller caller, const std::string& stream_id) {
  auto info = Describe(caller, stream_id);
  if (!info.ok()) return info.status();
  const bool owned = Owned(*info) && workers_.Known(info->owner());
  std::string worker = info->owner();
  if (!owned || !workers_.Usable(worker)) {
    auto picked =
        workers_.Pick(stream_id, owned ? std::set<std::string>{worker} : std::set<std::string>{});
    if (!picked.has_value()) return absl::UnavailableError("no worker answers");
    worker = *picked;
    // An owner that does not answer is overruled; the epoch fences it.
    auto prepared = Prepare(caller, worker, stream_id, owned);
    if (!prepared.ok()) return prepared.status();
  }
  return worker;
}

absl::StatusOr<v1::SnapshotInfo> Operations::Snapshot(Caller caller,
                                                      const v1::SnapshotRequest& request) {
  auto worker = MakeResident(caller, request.stream_id());
  if (!worker.ok()) return worker.status();
  v1::WorkerSnapshotRequest ask;
  ask.set_stream_id(request.stream_id());
  ask.set_name(request.name());
  const auto call = [&] {
    return BlockingCall(caller, *workers_.stub(*worker), &WorkerStub::Snapshot, ask,
                        deadlines_.worker, "worker " + *worker, false);
  };
  auto info = call();
  if (absl::IsNotFound(info.status())) {  // released between the two calls, or never resident
    if (auto prepared = Prepare(caller, *worker, request.stream_id(), false); !prepared.ok()) {
      return prepared.status();
    }
    info = call();
  }
  return info;
}

absl::StatusOr<v1::InspectMemoryReply> Operations::Inspect(
    Caller caller, const v1::InspectMemoryRequest& request) {
  auto worker = MakeResident(caller, request.stream_id());
  if (!worker.ok()) return worker.status();
  const auto call = [&] {
    return BlockingCall(caller, *workers_.stub(*worker), &WorkerStub::InspectMemory, request,
                        deadlines_.worker, "worker " + *worker, true);
  };
  auto reply = call();
  if (absl::IsNotFound(reply.status())) {
    if (auto prepared = Prepare(caller, *worker, request.stream_id(), false); !prepared.ok()) {
      return prepared.status();
    }
    reply = call();
  }
  return reply;
}

void Operations::ReleaseAtOwner(Caller caller, const v1::StreamInfo& info,
                                const std::string& target) {
  if (!Owned(info) || !workers_.Known(info.owner())) return;
  v1::ReleaseStreamRequest release;
  release.set_stream_id(info.stream_id());
  release.set_target(target);
  auto reply = BlockingCall(caller, *workers_.stub(info.owner()), &WorkerStub::Release, release,
                            deadlines_.worker, "worker " + info.owner(), false);
  if (!reply.ok() && !absl::IsNotFound(reply.status())) {
    rpc::LogWarn(
        "owner did not release a stream",
        {{"stream", info.stream_id()}, {"worker", info.owner()}, {"status", reply.status()}});
  }
}

absl::StatusOr<v1::StreamInfo> Operations::Rewind(Caller caller, const v1::RewindRequest& request) {
  auto info = Describe(caller, request.stream_id());
  if (!info.ok()) return info.status();
  // A retry of what is done already must not take the stream from its owner.
  const auto& rewinds = info->rewinds();
  const bool done = std::any_of(rewinds.begin(), rewinds.end(), [&](const v1::RewindInfo& one) {
    return !request.request_id().empty() && one.request_id() == request.request_id();
  });
  if (!done) ReleaseAtOwner(caller, *info, "");
  v1::RewindStreamRequest rewind;
  rewind.set_stream_id(request.stream_id());
  // Ours when the client gives none: the call below may be repeated.
  rewind.set_request_id(request.request_id().empty() ? memory::NewUid() : request.request_id());
  if (request.to_case() == v1::RewindRequest::kPosition) {
    rewind.set_position(request.position());
  } else {
    rewind.set_snapshot_name(request.snapshot_name());
  }
  return BlockingCall(caller, shards_.StubOf(request.stream_id()), &ShardStub::Rewind, rewind,
                      deadlines_.shard, PeerName(shards_.PlaceOf(request.stream_id())), true);
}

absl::Status Operations::Delete(Caller caller, const std::string& stream_id) {
  auto info = Describe(caller, stream_id);
  if (!info.ok()) return info.status();
  // The record goes first: a worker that held the stream is told by its next write at the latest.
  v1::DeleteStreamRequest request;
  request.set_stream_id(stream_id);
  request.set_stream_uid(info->stream_uid());
  auto reply = BlockingCall(caller, shards_.StubOf(stream_id), &ShardStub::Delete, request,
                            deadlines_.shard, PeerName(shards_.PlaceOf(stream_id)), false);
  if (!reply.ok()) return reply.status();
  ReleaseAtOwner(caller, *info, "");
  return absl::OkStatus();
}

absl::StatusOr<v1::ModelInfo> Operations::Model() {
  if (auto model = workers_.Model()) return *std::move(model);
  return absl::UnavailableError("no worker has told its model yet");
}

absl::Status Operations::CheckWorker(const std::string& field, const std::string& address) const {
  if (workers_.Known(address)) return absl::OkStatus();
  std::string known;
  for (const v1::WorkerStatus& worker : workers_.Statuses()) {
    known += (known.empty() ? "" : ", ") + worker.address();
  }
  return absl::InvalidArgumentError(field + ": '" + address + "' is no worker of this gateway (" +
                                    known + ")");
}

absl::StatusOr<v1::MigrateReply> Operations::Migrate(Caller caller,
                                                     const v1::MigrateRequest& request) {
  const auto start = std::chrono::steady_clock::now();
  auto info = Describe(caller, request.stream_id());
  if (!info.ok()) return info.status();
  const std::string source = Owned(*info) ? info->owner() : "";
  std::string target = request.target();
  if (target.empty()) {
    auto picked = workers_.Pick(request.stream_id(), {source});
    if (!picked.has_value()) {
      return absl::FailedPreconditionError("no healthy worker besides '" + source + "' to move to");
    }
    target = *picked;
  }
  if (absl::Status status = CheckWorker("target", target); !status.ok()) return status;
  if (!workers_.Usable(target)) {
    return absl::FailedPreconditionError("target: worker '" + target +
                                         "' does not answer or is draining");
  }
  v1::MigrateReply reply;
  reply.set_source(source);
  reply.set_target(target);
  reply.set_position(info->committed_position());
  if (source == target) return reply;
  ReleaseAtOwner(caller, *info, target);
  const bool source_dead = !source.empty() && !workers_.Usable(source);
  auto prepared = Prepare(caller, target, request.stream_id(), source_dead);
  if (!prepared.ok()) {
    return rpc::Annotate(prepared.status(), "target " + target + " could not take the stream");
  }
  reply.set_position(prepared->position());
  reply.set_replayed_tokens(prepared->restore().replayed_tokens());
  *reply.mutable_restore() = prepared->restore();
  reply.set_seconds(
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return reply;
}

absl::StatusOr<v1::DrainReply> Operations::Drain(Caller caller,
                                                 const v1::DrainWorkerRequest& request) {
  if (absl::Status status = CheckWorker("address", request.address()); !status.ok()) return status;
  v1::DrainRequest drain;
  drain.set_deadline_ms(request.deadline_ms() > 0 ? request.deadline_ms() : 30000);
  const auto within = std::chrono::milliseconds(drain.deadline_ms()) + std::chrono::seconds(5);
  return BlockingCall(caller, *workers_.stub(request.address()), &WorkerStub::Drain, drain, within,
                      "worker " + request.address(), false);
}

v1::PartitionMap Operations::Map() const {
  v1::PartitionMap map;
  map.set_revision(shards_.map().revision());
  map.set_partitions(shards_.map().partitions());
  for (const memory::ShardPlace& place : shards_.map().shards()) {
    v1::Shard& shard = *map.add_shards();
    shard.set_shard_id(place.shard_id);
    shard.set_address(place.address);
    for (const auto partition : place.partitions) shard.add_partitions(partition);
  }
  return map;
}

}  // namespace lola::gateway
