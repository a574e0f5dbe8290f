// Fork of a stream to another shard: copies log and newest usable snapshot. Blocking.
#ifndef LOLA_SERVICES_GATEWAY_STREAM_COPY_H_
#define LOLA_SERVICES_GATEWAY_STREAM_COPY_H_

#include <chrono>

#include "absl/status/statusor.h"
#include "lola/v1/inference.pb.h"
#include "lola/v1/memory.grpc.pb.h"

namespace lola::gateway {

// Repeating a copy that broke off continues it: creation carries a request id made of the parent's
// uid and the position, and appended tokens are compared. A copy that fails is removed again unless
// somebody else has become its owner. Cost: the length of the log up to the position.
absl::StatusOr<v1::StreamInfo> CopyStream(v1::Memory::Stub& source, v1::Memory::Stub& target,
                                          const v1::ForkRequest& request,
                                          std::chrono::milliseconds within);

}  // namespace lola::gateway

#endif  // LOLA_SERVICES_GATEWAY_STREAM_COPY_H_
