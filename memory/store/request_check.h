#ifndef LOLA_MEMORY_STORE_REQUEST_CHECK_H_
#define LOLA_MEMORY_STORE_REQUEST_CHECK_H_

// Rules for what callers send, before anything is looked up: INVALID_ARGUMENT naming field and
// value. Pure functions, any thread.

#include "absl/status/status.h"
#include "lola/v1/memory.pb.h"

namespace lola::store {

absl::Status CheckCreate(const v1::CreateStreamRequest& request);
absl::Status CheckAcquire(const v1::AcquireRequest& request);
absl::Status CheckRenew(const v1::RenewRequest& request);
absl::Status CheckFork(const v1::ForkStreamRequest& request);
absl::Status CheckRewind(const v1::RewindStreamRequest& request);
absl::Status CheckSnapshotHeader(const v1::PutSnapshotHeader& header);
// The batch as a whole: RESOURCE_EXHAUSTED when too large, INVALID_ARGUMENT for a stream named
// twice.
absl::Status CheckAppendBatch(const v1::AppendBatchRequest& request);
// One entry: runs adjacent, ids not negative, positions in range.
absl::Status CheckAppendEntry(const v1::AppendEntry& entry);

}  // namespace lola::store

#endif  // LOLA_MEMORY_STORE_REQUEST_CHECK_H_
