#include "services/worker/shard_backend.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lola/v1/memory.grpc.pb.h"
#include "services/rpc/status_map.h"
#include "services/worker/convert.h"
#include "services/worker/shard_transfers.h"

namespace lola::worker {
namespace {

using Async = v1::Memory::StubInterface::async_interface;

// One unary call; freed by its callback.
template <typename Request, typename Reply>
struct UnaryCall {
  grpc::ClientContext context;
  Request request;
  Reply reply;
};

class GrpcShardBackend final : public ShardBackend {
 public:
  explicit GrpcShardBackend(ShardBackendOptions options) : options_(std::move(options)) {
    for (const memory::ShardPlace& place : options_.map.shards()) {
      index_[place.shard_id] = stubs_.size();
      stubs_.push_back(v1::Memory::NewStub(options_.shards.at(place.shard_id)));
    }
  }

  void SetAddress(std::string address) override {
    std::lock_guard lock(mu_);
    address_ = std::move(address);
  }

  size_t shards() const override { return stubs_.size(); }
  size_t ShardOf(std::string_view stream_id) const override {
    return index_.at(options_.map.ShardOf(stream_id).shard_id);
  }

  void Create(engine::CreateRequest request, Callback<engine::StreamRecord> done) override {
    v1::CreateStreamRequest message;
    message.set_stream_id(request.stream_id);
    message.set_tenant(request.tenant);
    message.mutable_labels()->insert(request.labels.begin(), request.labels.end());
    message.set_model_fingerprint(request.model_fingerprint);
    *message.mutable_settings() = ToProto(request.settings);
    *message.mutable_sampling() = ToProto(request.sampling);
    message.set_ttl_ms(request.ttl_ms);
    message.set_state_bytes(request.state_bytes);
    message.set_request_id(absl::StrCat(options_.instance, "-", next_request_++));
    Unary<v1::StreamInfo>(request.stream_id, std::move(message), &Async::Create,
                          [done = std::move(done)](absl::Status status, v1::StreamInfo& reply) {
                            done(status.ok() ? FromProto(reply) : status);
                          });
  }

  void Describe(std::string stream_id, Callback<engine::StreamRecord> done) override {
    v1::DescribeStreamRequest message;
    message.set_stream_id(stream_id);
    Unary<v1::StreamInfo>(stream_id, std::move(message), &Async::Describe,
                          [done = std::move(done)](absl::Status status, v1::StreamInfo& reply) {
                            done(status.ok() ? FromProto(reply) : status);
                          });
  }

  void Acquire(engine::AcquireRequest request, Callback<engine::AcquiredStream> done) override {
    v1::AcquireRequest message;
    message.set_stream_id(request.stream_id);
    message.set_worker(Address());
    message.set_worker_instance(options_.instance);
    message.set_lease_ms(options_.lease.count());
    message.set_takeover(request.takeover);
    message.set_model_fingerprint(request.model_fingerprint);
    message.set_instruction_class(request.instruction_class);
    Unary<v1::AcquireReply>(request.stream_id, std::move(message), &Async::Acquire,
                            [done = std::move(done)](absl::Status status, v1::AcquireReply& reply) {
                              if (!status.ok()) return done(status);
                              auto record = FromProto(reply.info());
                              if (!record.ok()) return done(record.status());
                              done(engine::AcquiredStream{*std::move(record), reply.epoch(),
                                                          reply.previous_instruction_class()});
                            });
  }

  void Renew(StatusCallback done) override {
    struct Round {
      std::mutex mu;
      size_t open;
      absl::Status first_failure;
    };
    auto round = std::make_shared<Round>();
    round->open = stubs_.size();
    for (size_t shard = 0; shard < stubs_.size(); ++shard) {
      v1::RenewRequest message;
      message.set_worker_instance(options_.instance);
      message.set_lease_ms(options_.lease.count());
      Call<v1::RenewReply>(
          shard, std::move(message), &Async::Renew,
          [round, done](absl::Status status, v1::RenewReply&) {
            std::unique_lock lock(round->mu);
            if (!status.ok()) round->first_failure.Update(status);
            const bool last = --round->open == 0;
            lock.unlock();
            if (last) done(round->first_failure);
          },
          std::min(options_.deadline, options_.lease));
    }
  }

  void Release(std::string stream_id, uint64_t epoch, StatusCallback done) override {
    v1::ReleaseRequest message;
    message.set_stream_id(stream_id);
    message.set_epoch(epoch);
    Unary<v1::ReleaseReply>(
        stream_id, std::move(message), &Async::Release,
        [done = std::move(done)](absl::Status status, v1::ReleaseReply&) { done(status); });
  }

  void Append(size_t shard, std::shared_ptr<const engine::AppendBatch> batch,
              Callback<std::vector<engine::AppendResult>> done) override {
    v1::AppendBatchRequest message;
    message.set_durability(batch->durability == engine::Durability::kNone ? v1::DURABILITY_NONE
                                                                          : v1::DURABILITY_LOCAL);
    for (const engine::AppendEntry& entry : batch->entries) {
      v1::AppendEntry& out = *message.add_entries();
      out.set_stream_id(entry.stream_id);
      out.set_epoch(entry.epoch);
      for (const engine::TokenRun& run : entry.runs) *out.add_runs() = ToProto(run);
    }
    Call<v1::AppendBatchReply>(
        shard, std::move(message), &Async::Append,
        [done = std::move(done)](absl::Status status, v1::AppendBatchReply& reply) {
          if (!status.ok()) return done(status);
          std::vector<engine::AppendResult> results;
          for (const v1::AppendResult& result : reply.results()) {
            results.push_back(
                {rpc::FromGrpc(grpc::Status(grpc::StatusCode(result.code()), result.message())),
                 result.committed_position()});
          }
          done(std::move(results));
        });
  }

  void ReadTokens(std::string stream_id, uint64_t from, uint64_t to,
                  Callback<std::vector<engine::TokenRun>> done) override {
    v1::Memory::Stub& stub = Stub(stream_id);  // before the id moves: arguments have no order
    StartReadTokens(stub, std::move(stream_id), from, to, options_.transfer_deadline,
                    std::move(done));
  }

  void PutSnapshot(engine::PutSnapshotRequest request,
                   Callback<engine::SnapshotRecord> done) override {
    v1::Memory::Stub& stub = Stub(request.stream_id);
    StartPutSnapshot(stub, std::move(request), options_.transfer_deadline, std::move(done));
  }

  void GetSnapshot(std::string stream_id, std::string blob_id, ByteSink sink,
                   StatusCallback done) override {
    v1::Memory::Stub& stub = Stub(stream_id);
    StartGetSnapshot(stub, std::move(stream_id), std::move(blob_id), options_.transfer_deadline,
                     std::move(sink), std::move(done));
  }

 private:
  v1::Memory::Stub& Stub(const std::string& stream_id) { return *stubs_[ShardOf(stream_id)]; }
  std::string Address() {
    std::lock_guard lock(mu_);
    return address_;
  }

  template <typename Request, typename Reply>
  using Method = void (Async::*)(grpc::ClientContext*, const Request*, Reply*,
                                 std::function<void(grpc::Status)>);

  template <typename Reply, typename Request, typename Done>
  void Unary(const std::string& stream_id, Request request, Method<Request, Reply> method,
             Done done) {
    Call<Reply>(ShardOf(stream_id), std::move(request), method, std::move(done));
  }

  template <typename Reply, typename Request, typename Done>
  void Call(size_t shard, Request request, Method<Request, Reply> method, Done done,
            std::optional<std::chrono::milliseconds> within = std::nullopt) {
    auto* call = new UnaryCall<Request, Reply>();
    call->request = std::move(request);
    call->context.set_deadline(std::chrono::system_clock::now() +
                               within.value_or(options_.deadline));
    Async& async = *stubs_[shard]->async();
    (async.*method)(&call->context, &call->request, &call->reply,
                    [call, done = std::move(done)](const grpc::Status& status) {
                      done(rpc::FromGrpc(status), call->reply);
                      delete call;
                    });
  }

  const ShardBackendOptions options_;
  std::map<std::string, size_t> index_;  // constant after construction, as the stubs
  std::vector<std::unique_ptr<v1::Memory::Stub>> stubs_;
  std::atomic<uint64_t> next_request_{1};
  std::mutex mu_;
  std::string address_;  // guarded by mu_
};

}  // namespace

absl::StatusOr<std::shared_ptr<ShardBackend>> ShardBackend::Create(ShardBackendOptions options) {
  for (const memory::ShardPlace& place : options.map.shards()) {
    auto found = options.shards.find(place.shard_id);
    if (found == options.shards.end() || found->second == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("shards: no channel to ", place.shard_id, " of the map"));
    }
  }
  return std::make_shared<GrpcShardBackend>(std::move(options));
}

}  // namespace lola::worker
