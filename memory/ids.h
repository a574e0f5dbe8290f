#ifndef LOLA_MEMORY_IDS_H_
#define LOLA_MEMORY_IDS_H_

// Names and numbers of the stream space, and the rules for names that come from outside.
// Pure functions, any thread. Rules return INVALID_ARGUMENT naming the field, its value (shortened)
// and the limit; limits are in memory/limits.h.

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace lola::memory {

using Position = uint64_t;     // tokens before this one; a token log of n tokens ends at position n
using Epoch = uint64_t;        // grows with every change of a stream's owner
using PartitionId = uint32_t;  // [0, partitions)
using LogId = uint64_t;        // one token log in one shard's store; never reused

// Partition of a stream: XXH64(id, seed 0) % partitions. Fixed for ever: it decides where data is.
// REQUIRES: partitions > 0.
PartitionId PartitionOf(std::string_view stream_id, uint32_t partitions);

// 1..kStreamIdBytesMax bytes, no control characters, no leading or trailing space.
absl::Status ValidateStreamId(std::string_view field, std::string_view id);

// A snapshot's name: as a stream id, at most kSnapshotNameBytesMax bytes; empty is not a name.
absl::Status ValidateSnapshotName(std::string_view name);

// `value` in quotes, cut to at most 80 bytes between characters, control characters escaped: safe
// inside a message or a log.
std::string Quoted(std::string_view value);

}  // namespace lola::memory

#endif  // LOLA_MEMORY_IDS_H_
