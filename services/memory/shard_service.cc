#include "services/memory/shard_service.h"

#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "lola/v1/memory.grpc.pb.h"
#include "memory/store/snapshot_check.h"
#include "services/memory/shard_calls.h"
#include "services/memory/stream_calls.h"
#include "services/rpc/status_map.h"

namespace lola::shard {
namespace {

using Context = grpc::CallbackServerContext;
using Reactor = grpc::ServerUnaryReactor;

// Moves a result into the reply; returns its status.
template <typename Reply>
absl::Status Into(absl::StatusOr<Reply> result, Reply* reply) {
  if (result.ok()) *reply = *std::move(result);
  return result.status();
}

// Handlers: check, call on a thread of ours, map, reply.
class MemoryService final : public v1::Memory::CallbackService {
 public:
  explicit MemoryService(ShardCalls& calls) : calls_(calls) {}

  Reactor* Create(Context* context, const v1::CreateStreamRequest* request,
                  v1::StreamInfo* reply) override {
    return Run(context, calls_.Admit(request->stream_id()),
               [=, this] { return Into(store().Create(*request), reply); });
  }
  Reactor* Describe(Context* context, const v1::DescribeStreamRequest* request,
                    v1::StreamInfo* reply) override {
    return Run(context, calls_.Admit(request->stream_id()),
               [=, this] { return Into(store().Describe(request->stream_id()), reply); });
  }
  Reactor* List(Context* context, const v1::ListStreamsRequest* request,
                v1::ListStreamsReply* reply) override {
    return Run(context, calls_.AdmitAny(),
               [=, this] { return Into(store().List(*request), reply); });
  }
  Reactor* Acquire(Context* context, const v1::AcquireRequest* request,
                   v1::AcquireReply* reply) override {
    return Run(context, calls_.Admit(request->stream_id()),
               [=, this] { return Into(store().Acquire(*request), reply); });
  }
  // At once, on gRPC's thread: it touches no disk, and owners must not lose their leases because
  // the disk is slow.
  Reactor* Renew(Context* context, const v1::RenewRequest* request,
                 v1::RenewReply* reply) override {
    absl::Status status = calls_.AdmitAny();
    if (status.ok()) status = Into(store().Renew(*request), reply);
    Reactor* reactor = context->DefaultReactor();
    reactor->Finish(calls_.End(status));
    return reactor;
  }
  Reactor* Release(Context* context, const v1::ReleaseRequest* request,
                   v1::ReleaseReply*) override {
    return Run(context, calls_.Admit(request->stream_id()),
               [=, this] { return store().Release(*request); });
  }
  Reactor* Append(Context* context, const v1::AppendBatchRequest* request,
                  v1::AppendBatchReply* reply) override {
    absl::Status status = calls_.AdmitAny();
    for (const v1::AppendEntry& entry : request->entries()) {
      if (status.ok()) status = calls_.AdmitStream(entry.stream_id());
    }
    return Run(context, status, [=, this] { return Into(store().Append(*request), reply); });
  }
  grpc::ServerWriteReactor<v1::TokenRun>* ReadTokens(
      Context* context, const v1::ReadTokensRequest* request) override {
    return NewReadTokensCall(calls_, context, request);
  }
  grpc::ServerReadReactor<v1::PutSnapshotRequest>* PutSnapshot(Context* context,
                                                               v1::SnapshotInfo* reply) override {
    return NewPutSnapshotCall(calls_, context, reply);
  }
  grpc::ServerWriteReactor<v1::SnapshotChunk>* GetSnapshot(
      Context* context, const v1::GetSnapshotRequest* request) override {
    return NewGetSnapshotCall(calls_, context, request);
  }
  Reactor* Fork(Context* context, const v1::ForkStreamRequest* request,
                v1::StreamInfo* reply) override {
    absl::Status status = calls_.Admit(request->stream_id());
    // A fork shares files, so the child must live on the same shard.
    if (status.ok()) status = calls_.AdmitStream(request->new_stream_id());
    return Run(context, status, [=, this] { return Into(store().Fork(*request), reply); });
  }
  Reactor* Rewind(Context* context, const v1::RewindStreamRequest* request,
                  v1::StreamInfo* reply) override {
    return Run(context, calls_.Admit(request->stream_id()),
               [=, this] { return Into(store().Rewind(*request), reply); });
  }
  Reactor* Delete(Context* context, const v1::DeleteStreamRequest* request,
                  v1::DeleteStreamReply*) override {
    return Run(context, calls_.Admit(request->stream_id()),
               [=, this] { return store().Delete(request->stream_id(), request->stream_uid()); });
  }
  Reactor* DescribeShard(Context* context, const v1::DescribeShardRequest*,
                         v1::ShardInfo* reply) override {
    return Run(context, calls_.AdmitAny(), [=, this] {
      *reply = store().DescribeShard();
      const ShardOptions& options = calls_.options();
      reply->set_shard_id(options.shard_id);
      for (const auto id : options.map.FindShard(options.shard_id)->partitions) {
        reply->add_partitions(id);
      }
      return absl::OkStatus();
    });
  }

 private:
  store::StreamStore& store() { return calls_.store(); }

  template <typename Work>
  Reactor* Run(Context* context, absl::Status status, Work work) {
    Reactor* reactor = context->DefaultReactor();
    if (status.ok()) {
      status = calls_.Start([this, context, reactor, work = std::move(work)] {
        reactor->Finish(calls_.End(
            context->IsCancelled() ? absl::CancelledError("the caller is gone") : work()));
      });
    }
    if (!status.ok()) reactor->Finish(calls_.End(status));
    return reactor;
  }

  ShardCalls& calls_;
};

class ShardServiceImpl final : public ShardService {
 public:
  ShardServiceImpl(const ShardOptions& options, std::unique_ptr<store::StreamStore> store)
      : calls_(options, std::move(store)), service_(calls_) {}
  ~ShardServiceImpl() override { calls_.Stop(); }

  grpc::Service* service() override { return &service_; }
  ShardStats Stats() const override { return calls_.Stats(); }
  absl::Status Health() const override { return calls_.Health(); }
  void Drain() override { calls_.Drain(); }
  void Stop() override { calls_.Stop(); }

 private:
  ShardCalls calls_;
  MemoryService service_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ShardService>> ShardService::Create(const ShardOptions& options) {
  if (options.map.FindShard(options.shard_id) == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("shard_id: the map has no shard ", memory::Quoted(options.shard_id)));
  }
  if (options.threads == 0 || options.queue_max == 0) {
    return absl::InvalidArgumentError(absl::StrCat("threads: is ", options.threads, ", queue: is ",
                                                   options.queue_max, ", both want at least 1"));
  }
  ShardOptions resolved = options;
  resolved.store.partitions = options.map.partitions();
  if (!resolved.store.blob_check) resolved.store.blob_check = store::NewSnapshotCheck;
  auto store = store::StreamStore::Open(resolved.store);
  if (!store.ok()) return store.status();
  return std::make_unique<ShardServiceImpl>(resolved, *std::move(store));
}

}  // namespace lola::shard
