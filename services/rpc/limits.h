// Every limit of the wire API by name: what the gateway refuses, and what the other processes may
// therefore rely on. Plain constants; safe from any thread. Units are in the names.
#ifndef LOLA_SERVICES_RPC_LIMITS_H_
#define LOLA_SERVICES_RPC_LIMITS_H_

#include <cstddef>
#include <cstdint>

#include "memory/limits.h"  // what the shard refuses too is said once, there

namespace lola::rpc {

// One gRPC message, either direction, every process.
inline constexpr size_t kMessageBytesMax = size_t{8} << 20;

using memory::kLabelKeyBytesMax;
using memory::kLabelsMax;
using memory::kLabelValueBytesMax;
using memory::kRequestIdBytesMax;
using memory::kSnapshotNameBytesMax;
using memory::kStreamIdBytesMax;
using memory::kTenantBytesMax;

inline constexpr size_t kAppendTextBytesMax = size_t{1} << 20;
inline constexpr size_t kAppendTokensMax = size_t{256} << 10;
inline constexpr uint32_t kGenerateTokensMax = 1u << 20;
inline constexpr size_t kStopStringsMax = 16;
inline constexpr size_t kStopStringBytesMax = 256;

inline constexpr int64_t kDrainDeadlineMsMax = int64_t{24} * 3'600'000;

using memory::kListPageDefault;
using memory::kListPageMax;

// Operations of one client call that are sent but not done; the gateway reads no further beyond it.
inline constexpr size_t kOpsInFlightMax = 32;
// Bytes of those operations (they are kept for a re-send after a worker's death).
inline constexpr size_t kOpBytesInFlightMax = size_t{4} << 20;
// Replies waiting for a client that reads slowly; beyond it the worker's stream is not read.
inline constexpr size_t kRepliesInFlightMax = 64;

}  // namespace lola::rpc

#endif  // LOLA_SERVICES_RPC_LIMITS_H_
