// A world for gateway tests in one process: shards and workers that speak the wire contract over
// one store in memory. Token p of a stream is always TokenAt(p), so that a test can tell whether a
// client saw an undisturbed stream.
#ifndef LOLA_TESTS_SERVICES_GATEWAY_FAKES_H_
#define LOLA_TESTS_SERVICES_GATEWAY_FAKES_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "lola/v1/memory.grpc.pb.h"
#include "lola/v1/worker.grpc.pb.h"

namespace lola::gateway {

int32_t TokenAt(uint64_t position);

// What all fake shards and workers see. Thread-safe through `mu`.
struct FakeStore {
  struct Stream {
    v1::StreamInfo info;
    std::vector<int32_t> ids;
    std::vector<bool> by_client;
  };
  std::mutex mu;
  std::map<std::string, Stream> streams;
};

class FakeShard final : public v1::Memory::Service {
 public:
  FakeShard(FakeStore* store, std::string shard_id) : store_(*store), shard_id_(shard_id) {}
  std::atomic<bool> away{false};         // every call: UNAVAILABLE
  std::atomic<bool> lose_answer{false};  // the next rewind is done but answers UNAVAILABLE
  std::atomic<int> rewinds{0};           // calls
  std::atomic<int> describes{0};         // calls
  std::atomic<bool> hold_describes{false};

  grpc::Status Create(grpc::ServerContext*, const v1::CreateStreamRequest* request,
                      v1::StreamInfo* reply) override;
  grpc::Status Describe(grpc::ServerContext*, const v1::DescribeStreamRequest* request,
                        v1::StreamInfo* reply) override;
  grpc::Status List(grpc::ServerContext*, const v1::ListStreamsRequest* request,
                    v1::ListStreamsReply* reply) override;
  grpc::Status Acquire(grpc::ServerContext*, const v1::AcquireRequest* request,
                       v1::AcquireReply* reply) override;
  grpc::Status Release(grpc::ServerContext*, const v1::ReleaseRequest* request,
                       v1::ReleaseReply* reply) override;
  grpc::Status Append(grpc::ServerContext*, const v1::AppendBatchRequest* request,
                      v1::AppendBatchReply* reply) override;
  grpc::Status ReadTokens(grpc::ServerContext*, const v1::ReadTokensRequest* request,
                          grpc::ServerWriter<v1::TokenRun>* writer) override;
  grpc::Status Fork(grpc::ServerContext*, const v1::ForkStreamRequest* request,
                    v1::StreamInfo* reply) override;
  grpc::Status Rewind(grpc::ServerContext*, const v1::RewindStreamRequest* request,
                      v1::StreamInfo* reply) override;
  grpc::Status Delete(grpc::ServerContext*, const v1::DeleteStreamRequest* request,
                      v1::DeleteStreamReply* reply) override;

 private:
  FakeStore& store_;
  const std::string shard_id_;  // written as the label "shard" into what it creates
};

class FakeWorker final : public v1::Worker::Service {
 public:
  FakeWorker(FakeStore* store, std::string address) : store_(*store), address_(address) {}

  std::atomic<bool> dead{false};      // every call: UNAVAILABLE, running ones end so
  std::atomic<bool> draining{false};  // says so; takes no new streams
  std::atomic<bool> refuses{false};   // takes no streams, and says UNAVAILABLE as a worker does
  std::atomic<int> model{1};         // what it serves: model-1 has 272 tokens, the next one 273 ...
  std::atomic<bool> hangs{false};    // its calls stay open and nothing comes; it says it is unwell
  std::atomic<int> late_answers{0};  // so many questions how it is are answered too late
  // Dies after it delivered so many more model tokens, with three more in the log; -1: never.
  std::atomic<int> dies_after{-1};
  // Sends this position instead of the right one, once; 0: never.
  std::atomic<uint64_t> lies_at{0};
  std::atomic<int> token_delay_us{200};
  std::atomic<int> attaches{0}, takeovers{0};
  std::atomic<uint64_t> tokens_sent{0};

  grpc::Status Serve(grpc::ServerContext* context,
                     grpc::ServerReaderWriter<v1::ServeReply, v1::ServeRequest>* stream) override;
  grpc::Status Release(grpc::ServerContext*, const v1::ReleaseStreamRequest* request,
                       v1::ReleaseStreamReply* reply) override;
  grpc::Status Prepare(grpc::ServerContext*, const v1::PrepareStreamRequest* request,
                       v1::PrepareStreamReply* reply) override;
  grpc::Status Snapshot(grpc::ServerContext*, const v1::WorkerSnapshotRequest* request,
                        v1::SnapshotInfo* reply) override;
  grpc::Status InspectMemory(grpc::ServerContext*, const v1::InspectMemoryRequest* request,
                             v1::InspectMemoryReply* reply) override;
  grpc::Status DescribeWorker(grpc::ServerContext*, const v1::DescribeWorkerRequest* request,
                              v1::WorkerInfo* reply) override;
  grpc::Status DescribeModel(grpc::ServerContext*, const v1::DescribeModelRequest* request,
                             v1::ModelInfo* reply) override;

 private:
  struct Call;
  grpc::Status Attach(Call& call, const v1::AttachStream& attach);
  grpc::Status Run(Call& call, const v1::WorkerOp& op);
  grpc::Status RunAppend(Call& call, const v1::WorkerOp& op);
  grpc::Status RunGenerate(Call& call, const v1::WorkerOp& op);
  grpc::Status Own(const std::string& stream_id, bool create, bool takeover, uint64_t* epoch);
  // Set when `stream_id` was released here: where clients go.
  bool Released(const std::string& stream_id, uint64_t epoch, std::string* target);

  FakeStore& store_;
  const std::string address_;
  std::mutex mu_;
  std::map<std::string, std::string> targets_;  // released streams -> target
};

}  // namespace lola::gateway

#endif  // LOLA_TESTS_SERVICES_GATEWAY_FAKES_H_
