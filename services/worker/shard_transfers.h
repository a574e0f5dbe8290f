// Streaming calls to a shard: log ranges and snapshots. Each frees itself after `done`.
// Any thread; `done` and `sink` run on gRPC threads. Private to services/worker.
#ifndef LOLA_SERVICES_WORKER_SHARD_TRANSFERS_H_
#define LOLA_SERVICES_WORKER_SHARD_TRANSFERS_H_

#include <chrono>
#include <string>
#include <vector>

#include "lola/v1/memory.grpc.pb.h"
#include "services/engine/runtime/stream_backend.h"

namespace lola::worker {

// All tokens of [from, to) or an error; DATA_LOSS when the shard's answer has holes.
void StartReadTokens(v1::Memory::Stub& stub, std::string stream_id, uint64_t from, uint64_t to,
                     std::chrono::milliseconds deadline,
                     engine::StreamBackend::Callback<std::vector<engine::TokenRun>> done);

void StartPutSnapshot(v1::Memory::Stub& stub, engine::PutSnapshotRequest request,
                      std::chrono::milliseconds deadline,
                      engine::StreamBackend::Callback<engine::SnapshotRecord> done);

// The received bytes go from the message to `sink` without another copy.
void StartGetSnapshot(v1::Memory::Stub& stub, std::string stream_id, std::string blob_id,
                      std::chrono::milliseconds deadline, engine::StreamBackend::ByteSink sink,
                      engine::StreamBackend::StatusCallback done);

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_SHARD_TRANSFERS_H_
