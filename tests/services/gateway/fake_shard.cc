#include <algorithm>
#include <chrono>
#include <thread>

#include "tests/services/gateway/fakes.h"

namespace lola::gateway {
namespace {

grpc::Status Away() { return {grpc::StatusCode::UNAVAILABLE, "fake is away"}; }
grpc::Status Missing(const std::string& id) {
  return {grpc::StatusCode::NOT_FOUND, "stream '" + id + "' does not exist"};
}

}  // namespace

grpc::Status FakeShard::Create(grpc::ServerContext*, const v1::CreateStreamRequest* request,
                               v1::StreamInfo* reply) {
  std::lock_guard lock(store_.mu);
  FakeStore::Stream& stream = store_.streams[request->stream_id()];
  if (stream.info.request_id() != request->request_id()) {
    if (!stream.info.stream_id().empty()) return {grpc::StatusCode::ALREADY_EXISTS, "exists"};
    stream.info.set_request_id(request->request_id());
    stream.info.set_parent(request->parent());
    stream.info.set_forked_at(request->forked_at());
    stream.info.set_unfinished(request->unfinished());
  }
  stream.info.set_stream_id(request->stream_id());
  stream.info.set_stream_uid("uid-" + request->stream_id());
  (*stream.info.mutable_labels())["shard"] = shard_id_;
  *reply = stream.info;
  return grpc::Status::OK;
}

grpc::Status FakeShard::Describe(grpc::ServerContext*, const v1::DescribeStreamRequest* request,
                                 v1::StreamInfo* reply) {
  ++describes;
  while (hold_describes) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (away) return Away();
  std::lock_guard lock(store_.mu);
  const auto found = store_.streams.find(request->stream_id());
  if (found == store_.streams.end()) return Missing(request->stream_id());
  if (found->second.info.unfinished()) return {grpc::StatusCode::UNAVAILABLE, "being copied"};
  *reply = found->second.info;
  reply->set_committed_position(found->second.ids.size());
  return grpc::Status::OK;
}

grpc::Status FakeShard::List(grpc::ServerContext*, const v1::ListStreamsRequest* request,
                             v1::ListStreamsReply* reply) {
  if (away) return Away();
  std::lock_guard lock(store_.mu);
  for (auto it = store_.streams.upper_bound(request->page_token()); it != store_.streams.end();
       ++it) {
    const auto shard = it->second.info.labels().find("shard");
    if (shard == it->second.info.labels().end() || shard->second != shard_id_) continue;
    if (reply->streams_size() == static_cast<int>(request->page_size())) {
      reply->set_next_page_token(reply->streams(reply->streams_size() - 1).stream_id());
      break;
    }
    *reply->add_streams() = it->second.info;
  }
  return grpc::Status::OK;
}

grpc::Status FakeShard::Acquire(grpc::ServerContext*, const v1::AcquireRequest* request,
                                v1::AcquireReply* reply) {
  std::lock_guard lock(store_.mu);
  FakeStore::Stream& stream = store_.streams[request->stream_id()];
  stream.info.set_owner(request->worker());
  stream.info.set_owner_epoch(stream.info.owner_epoch() + 1);
  reply->set_epoch(stream.info.owner_epoch());
  return grpc::Status::OK;
}

grpc::Status FakeShard::Release(grpc::ServerContext*, const v1::ReleaseRequest* request,
                                v1::ReleaseReply*) {
  std::lock_guard lock(store_.mu);
  v1::StreamInfo& info = store_.streams[request->stream_id()].info;
  const bool given_up = info.unfinished() && !request->finished();
  info.set_owner("");
  info.set_unfinished(false);
  if (given_up) store_.streams.erase(request->stream_id());
  return grpc::Status::OK;
}

grpc::Status FakeShard::Append(grpc::ServerContext*, const v1::AppendBatchRequest* request,
                               v1::AppendBatchReply* reply) {
  std::lock_guard lock(store_.mu);
  for (const v1::AppendEntry& entry : request->entries()) {
    FakeStore::Stream& stream = store_.streams[entry.stream_id()];
    for (const v1::TokenRun& run : entry.runs()) {
      for (const int32_t id : run.ids()) {
        stream.ids.push_back(id);
        stream.by_client.push_back(run.author() == v1::TOKEN_AUTHOR_CLIENT);
      }
    }
    reply->add_results()->set_committed_position(stream.ids.size());
  }
  return grpc::Status::OK;
}

grpc::Status FakeShard::ReadTokens(grpc::ServerContext*, const v1::ReadTokensRequest* request,
                                   grpc::ServerWriter<v1::TokenRun>* writer) {
  std::lock_guard lock(store_.mu);
  const FakeStore::Stream& stream = store_.streams[request->stream_id()];
  for (uint64_t p = request->from(); p < request->to(); ++p) {
    v1::TokenRun run;
    run.set_position(p);
    run.set_author(stream.by_client[p] ? v1::TOKEN_AUTHOR_CLIENT : v1::TOKEN_AUTHOR_MODEL);
    run.add_ids(stream.ids[p]);
    writer->Write(run);
  }
  return grpc::Status::OK;
}

grpc::Status FakeShard::Fork(grpc::ServerContext*, const v1::ForkStreamRequest* request,
                             v1::StreamInfo* reply) {
  std::lock_guard lock(store_.mu);
  if (const auto found = store_.streams.find(request->new_stream_id());
      found != store_.streams.end()) {
    if (found->second.info.request_id() != request->request_id()) {
      return {grpc::StatusCode::ALREADY_EXISTS, "exists"};
    }
    *reply = found->second.info;
    reply->set_committed_position(found->second.ids.size());
    return grpc::Status::OK;
  }
  FakeStore::Stream child = store_.streams[request->stream_id()];
  child.info.set_request_id(request->request_id());
  child.info.set_stream_id(request->new_stream_id());
  child.info.set_parent(request->stream_id());
  child.info.clear_owner();
  *reply = child.info;
  reply->set_committed_position(child.ids.size());
  store_.streams[request->new_stream_id()] = child;
  return grpc::Status::OK;
}

grpc::Status FakeShard::Rewind(grpc::ServerContext*, const v1::RewindStreamRequest* request,
                               v1::StreamInfo* reply) {
  std::lock_guard lock(store_.mu);
  FakeStore::Stream& stream = store_.streams[request->stream_id()];
  ++rewinds;
  for (const v1::RewindInfo& done : stream.info.rewinds()) {
    if (done.request_id() != request->request_id()) continue;
    *reply = stream.info;
    reply->set_committed_position(done.position());
    return grpc::Status::OK;
  }
  stream.ids.resize(request->position());
  stream.by_client.resize(request->position());
  stream.info.clear_owner();
  stream.info.set_owner_epoch(stream.info.owner_epoch() + 1);
  stream.info.add_rewinds()->set_request_id(request->request_id());
  stream.info.mutable_rewinds()->rbegin()->set_position(request->position());
  *reply = stream.info;
  reply->set_committed_position(stream.ids.size());
  // Done, but the answer gets lost.
  return lose_answer.exchange(false) ? Away() : grpc::Status::OK;
}

grpc::Status FakeShard::Delete(grpc::ServerContext*, const v1::DeleteStreamRequest* request,
                               v1::DeleteStreamReply*) {
  std::lock_guard lock(store_.mu);
  const auto found = store_.streams.find(request->stream_id());
  if (found == store_.streams.end()) return Missing(request->stream_id());
  // The gateway says which stream it saw.
  if (found->second.info.stream_uid() != request->stream_uid()) return Missing("of that uid");
  store_.streams.erase(found);
  return grpc::Status::OK;
}

}  // namespace lola::gateway
