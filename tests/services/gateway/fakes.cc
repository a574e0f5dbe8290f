#include "tests/services/gateway/fakes.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "services/rpc/status_map.h"

namespace lola::gateway {
namespace {

grpc::Status Away() { return {grpc::StatusCode::UNAVAILABLE, "fake is away"}; }
grpc::Status Missing(const std::string& id) {
  return {grpc::StatusCode::NOT_FOUND, "stream '" + id + "' does not exist"};
}

}  // namespace

int32_t TokenAt(uint64_t position) { return static_cast<int32_t>(position * 7919 % 251); }

struct FakeWorker::Call {
  grpc::ServerReaderWriter<v1::ServeReply, v1::ServeRequest>* stream;
  std::string id;
  uint64_t epoch = 0;
  uint64_t delivered = 0;
};

grpc::Status FakeWorker::Own(const std::string& id, bool create, bool takeover, uint64_t* epoch) {
  std::lock_guard lock(store_.mu);
  if (store_.streams.count(id) == 0) {
    if (!create) return Missing(id);
    store_.streams[id].info.set_stream_id(id);
  }
  v1::StreamInfo& info = store_.streams[id].info;
  if (!info.owner().empty() && info.owner() != address_ && !takeover) {
    absl::Status status = absl::FailedPreconditionError("owned by " + info.owner());
    rpc::SetDetail(status, rpc::kOwnerDetail, info.owner());
    return rpc::ToGrpc(status);
  }
  if (info.owner() != address_) {
    info.set_owner(address_);
    info.set_owner_epoch(info.owner_epoch() + 1);
    info.set_lease_remaining_ms(60000);
  }
  *epoch = info.owner_epoch();
  std::lock_guard own(mu_);
  targets_.erase(id);
  return grpc::Status::OK;
}

bool FakeWorker::Released(const std::string& id, uint64_t epoch, std::string* target) {
  std::lock_guard lock(mu_);
  const auto found = targets_.find(id);
  if (found == targets_.end()) return false;
  *target = found->second;
  return true;
}

grpc::Status FakeWorker::Attach(Call& call, const v1::AttachStream& attach) {
  ++attaches;
  takeovers += attach.takeover() ? 1 : 0;
  if (draining) return Away();
  if (refuses) {
    absl::Status status = absl::UnavailableError("its shard is away");
    rpc::SetDetail(status, rpc::kSpeakerDetail, address_);
    return rpc::ToGrpc(status);
  }
  call.id = attach.open().stream_id();
  grpc::Status status =
      Own(call.id, attach.open().create_if_missing(), attach.takeover(), &call.epoch);
  if (!status.ok()) return status;
  std::lock_guard lock(store_.mu);
  const FakeStore::Stream& stream = store_.streams[call.id];
  const uint64_t end = stream.ids.size();
  v1::ServeReply opened;
  opened.mutable_opened()->set_position(end);
  opened.mutable_opened()->mutable_restore()->set_worker(address_);
  call.stream->Write(opened);
  call.delivered = attach.open().has_after_position() ? attach.open().after_position() : end;
  for (; call.delivered < end && !attach.open().resume(); ++call.delivered) {
    v1::ServeReply reply;
    v1::TokenOutput& tokens = *reply.mutable_tokens();
    tokens.set_position(call.delivered);
    tokens.add_ids(stream.ids[call.delivered]);
    tokens.set_author(stream.by_client[call.delivered] ? v1::TOKEN_AUTHOR_CLIENT
                                                       : v1::TOKEN_AUTHOR_MODEL);
    tokens.set_replayed(true);
    call.stream->Write(reply);
  }
  return grpc::Status::OK;
}

grpc::Status FakeWorker::Serve(grpc::ServerContext* context,
                               grpc::ServerReaderWriter<v1::ServeReply, v1::ServeRequest>* stream) {
  if (dead) return Away();
  v1::ServeRequest request;
  if (!stream->Read(&request) || !request.has_attach()) {
    return {grpc::StatusCode::INVALID_ARGUMENT, "attach first"};
  }
  Call call{stream};
  grpc::Status status = Attach(call, request.attach());
  if (!status.ok()) return status;
  // A reader thread, so that a release ends a call that waits for its next operation.
  std::mutex mu;
  std::condition_variable wake;
  std::vector<v1::ServeRequest> inbox;
  bool ended = false;
  std::thread reader([&] {
    v1::ServeRequest next;
    while (stream->Read(&next)) {
      std::lock_guard lock(mu);
      inbox.push_back(next);
      wake.notify_all();
    }
    std::lock_guard lock(mu);
    ended = true;
    wake.notify_all();
  });
  std::string target;
  while (status.ok()) {
    if (dead) status = Away();
    if (Released(call.id, call.epoch, &target)) break;
    v1::ServeRequest next;
    {
      std::unique_lock lock(mu);
      wake.wait_for(lock, std::chrono::milliseconds(2), [&] { return ended || !inbox.empty(); });
      if (inbox.empty()) {
        if (ended) break;
        continue;
      }
      next = inbox.front();
      inbox.erase(inbox.begin());
    }
    if (next.has_run()) status = Run(call, next.run());
  }
  if (status.ok() && Released(call.id, call.epoch, &target)) {
    v1::ServeReply reply;
    reply.mutable_released()->set_target(target);
    stream->Write(reply);
  }
  if (!ended) context->TryCancel();  // frees the reader; the real worker ends its call properly
  reader.join();
  return status;
}

grpc::Status FakeWorker::Run(Call& call, const v1::WorkerOp& op) {
  return op.has_append() ? RunAppend(call, op) : RunGenerate(call, op);
}

grpc::Status FakeWorker::RunAppend(Call& call, const v1::WorkerOp& op) {
  v1::ServeReply reply;
  {
    std::lock_guard lock(store_.mu);
    FakeStore::Stream& stream = store_.streams[call.id];
    if (stream.info.owner_epoch() != call.epoch || stream.info.owner() != address_) {
      return {grpc::StatusCode::ABORTED, "stale epoch"};
    }
    const uint64_t base = op.has_base() ? op.base_position() : stream.ids.size();
    for (size_t i = 0; i < op.append().text().size(); ++i) {
      if (base + i < stream.ids.size()) continue;
      stream.ids.push_back(static_cast<unsigned char>(op.append().text()[i]));
      stream.by_client.push_back(true);
    }
    reply.mutable_done()->set_position(base + op.append().text().size());
    reply.mutable_done()->mutable_usage()->set_appended_tokens(op.append().text().size());
  }
  reply.mutable_done()->set_finish_reason(v1::FINISH_REASON_APPENDED);
  reply.set_seq(op.seq());
  call.delivered = std::max(call.delivered, reply.done().position());
  call.stream->Write(reply);
  return grpc::Status::OK;
}

grpc::Status FakeWorker::RunGenerate(Call& call, const v1::WorkerOp& op) {
  uint64_t base;
  {
    std::lock_guard lock(store_.mu);
    base = op.has_base() ? op.base_position() : store_.streams[call.id].ids.size();
  }
  const uint64_t end = base + op.generate().max_tokens();
  std::string target;
  for (uint64_t p = base; p < end; ++p) {
    while (hangs && !dead) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (dead) return Away();
    if (Released(call.id, call.epoch, &target)) return grpc::Status::OK;
    const bool dies = dies_after.load() == 0;
    {
      std::lock_guard lock(store_.mu);
      FakeStore::Stream& stream = store_.streams[call.id];
      if (stream.info.owner_epoch() != call.epoch) {
        return {grpc::StatusCode::ABORTED, "stale epoch"};
      }
      for (uint64_t q = p; q < std::min(end, dies ? p + 3 : p + 1); ++q) {
        if (q < stream.ids.size()) continue;
        stream.ids.push_back(TokenAt(q));
        stream.by_client.push_back(false);
      }
    }
    if (dies) {
      dead = true;
      return Away();
    }
    if (p < call.delivered) continue;
    v1::ServeReply reply;
    reply.set_seq(op.seq());
    reply.mutable_tokens()->set_position(lies_at.load() == p && p != 0 ? p + 5 : p);
    reply.mutable_tokens()->add_ids(TokenAt(p));
    reply.mutable_tokens()->set_author(v1::TOKEN_AUTHOR_MODEL);
    if (!call.stream->Write(reply)) return Away();
    ++tokens_sent;
    call.delivered = p + 1;
    if (dies_after > 0) --dies_after;
    std::this_thread::sleep_for(std::chrono::microseconds(token_delay_us));
  }
  v1::ServeReply done;
  done.set_seq(op.seq());
  done.mutable_done()->set_position(end);
  done.mutable_done()->set_finish_reason(v1::FINISH_REASON_LENGTH);
  done.mutable_done()->mutable_usage()->set_generated_tokens(op.generate().max_tokens());
  call.stream->Write(done);
  return grpc::Status::OK;
}

grpc::Status FakeWorker::Release(grpc::ServerContext*, const v1::ReleaseStreamRequest* request,
                                 v1::ReleaseStreamReply* reply) {
  if (dead) return Away();
  {
    std::lock_guard lock(store_.mu);
    const auto found = store_.streams.find(request->stream_id());
    if (found == store_.streams.end() || found->second.info.owner() != address_) {
      return Missing(request->stream_id());
    }
    found->second.info.clear_owner();
    found->second.info.set_lease_remaining_ms(0);
    reply->set_position(found->second.ids.size());
  }
  std::lock_guard lock(mu_);
  targets_[request->stream_id()] = request->target();
  return grpc::Status::OK;
}

grpc::Status FakeWorker::Prepare(grpc::ServerContext*, const v1::PrepareStreamRequest* request,
                                 v1::PrepareStreamReply* reply) {
  if (dead) return Away();
  uint64_t epoch = 0;
  return Own(request->stream_id(), false, request->takeover(), &epoch);
}

grpc::Status FakeWorker::Snapshot(grpc::ServerContext*, const v1::WorkerSnapshotRequest* request,
                                  v1::SnapshotInfo* reply) {
  if (dead) return Away();
  reply->set_name(request->name());
  reply->set_blob_id("by " + address_);
  return grpc::Status::OK;
}

grpc::Status FakeWorker::InspectMemory(grpc::ServerContext*,
                                       const v1::InspectMemoryRequest* request,
                                       v1::InspectMemoryReply* reply) {
  if (dead) return Away();
  reply->set_state_digest("digest");
  return grpc::Status::OK;
}

grpc::Status FakeWorker::DescribeWorker(grpc::ServerContext*, const v1::DescribeWorkerRequest*,
                                        v1::WorkerInfo* reply) {
  if (dead) return Away();
  if (hangs) return {grpc::StatusCode::UNAVAILABLE, "the model hangs"};
  if (late_answers > 0) {
    --late_answers;
    std::this_thread::sleep_for(std::chrono::milliseconds(1200));
  }
  reply->set_address(address_);
  reply->set_draining(draining);
  reply->set_model_fingerprint("model-" + std::to_string(model));
  return grpc::Status::OK;
}

grpc::Status FakeWorker::DescribeModel(grpc::ServerContext*, const v1::DescribeModelRequest*,
                                       v1::ModelInfo* reply) {
  if (dead) return Away();
  reply->set_name("fake");
  reply->set_fingerprint("model-" + std::to_string(model));
  reply->set_vocab(271 + static_cast<uint32_t>(model));
  return grpc::Status::OK;
}

}  // namespace lola::gateway
