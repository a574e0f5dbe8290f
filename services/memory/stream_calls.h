// The calls that carry many messages: snapshots in and out, tokens out. Each starts itself and
// deletes itself when gRPC is done with it. One read or write is in flight at a time; the next is
// started only after the disk's part, so a slow disk or peer holds back the other side.
#ifndef LOLA_SERVICES_MEMORY_STREAM_CALLS_H_
#define LOLA_SERVICES_MEMORY_STREAM_CALLS_H_

#include <grpcpp/grpcpp.h>

#include "lola/v1/memory.pb.h"
#include "services/memory/shard_calls.h"

namespace lola::shard {

grpc::ServerReadReactor<v1::PutSnapshotRequest>* NewPutSnapshotCall(
    ShardCalls& calls, grpc::CallbackServerContext* context, v1::SnapshotInfo* reply);
grpc::ServerWriteReactor<v1::SnapshotChunk>* NewGetSnapshotCall(
    ShardCalls& calls, grpc::CallbackServerContext* context, const v1::GetSnapshotRequest* request);
grpc::ServerWriteReactor<v1::TokenRun>* NewReadTokensCall(ShardCalls& calls,
                                                          grpc::CallbackServerContext* context,
                                                          const v1::ReadTokensRequest* request);

}  // namespace lola::shard

#endif  // LOLA_SERVICES_MEMORY_STREAM_CALLS_H_
