// Fork of a stream to another shard: copies log and newest usable snapshot. Blocking.
#ifndef LOLA_SERVICES_GATEWAY_STREAM_COPY_H_
#define LOLA_SERVICES_GATEWAY_STREAM_COPY_H_

#include <chrono>

#include "absl/status/statusor.h"
#include "lola/v1/inference.pb.h"
#include "lola/v1/memory.grpc.pb.h"
#include "services/gateway/blocking_call.h"

namespace lola::gateway {

// All or nothing: the child is unfinished (see CreateStreamRequest), seen by nobody, until it has
// all tokens and a snapshot. A copy that fails removes it; the target shard removes the child of a
// copier that died, when the lease of 15 s has run out. The same request_id again answers with the
// complete child, or takes over an unfinished one, fencing whoever copied before. Without one the
// id is made of the parent's uid and the position. Cost: the length of the log up to the position.
// Errors: NOT_FOUND, OUT_OF_RANGE, ALREADY_EXISTS as for a fork within a shard; ABORTED when a
// second attempt took over.
absl::StatusOr<v1::StreamInfo> CopyStream(Caller caller, v1::Memory::Stub& source,
                                          v1::Memory::Stub& target, const v1::ForkRequest& request,
                                          std::chrono::milliseconds within);

}  // namespace lola::gateway

#endif  // LOLA_SERVICES_GATEWAY_STREAM_COPY_H_
