#ifndef LOLA_MEMORY_LIMITS_H_
#define LOLA_MEMORY_LIMITS_H_

// Every limit of the stream memory by name. Beyond one the answer is INVALID_ARGUMENT (a value that
// can never be accepted) or RESOURCE_EXHAUSTED (one that can be later), naming the field and both
// values. Units are last in the names.

#include <cstddef>
#include <cstdint>

namespace lola::memory {

// Names and labels.
inline constexpr size_t kStreamIdBytesMax = 128;
inline constexpr size_t kTenantBytesMax = 128;
inline constexpr size_t kRequestIdBytesMax = 128;
inline constexpr size_t kSnapshotNameBytesMax = 128;
inline constexpr size_t kModelFingerprintBytesMax = 256;
inline constexpr size_t kWorkerAddressBytesMax = 512;
inline constexpr size_t kInstructionClassBytesMax = 512;  // a pipeline's names its stages'
inline constexpr size_t kInstructionClassesMax = 32;      // that took part in one state
inline constexpr size_t kLabelsMax = 32;                  // per stream
inline constexpr size_t kLabelKeyBytesMax = 64;
inline constexpr size_t kLabelValueBytesMax = 256;

// The stream space.
inline constexpr uint32_t kPartitionsDefault = 64;
inline constexpr uint32_t kPartitionsMax = 65536;
inline constexpr uint32_t kShardsMax = 4096;
inline constexpr uint64_t kStreamsPerShardMax = 1'000'000;

// One stream.
inline constexpr size_t kNamedSnapshotsMax = 64;
inline constexpr size_t kAutomaticSnapshotsKept = 2;
inline constexpr size_t kLogSegmentsMax = 256;  // shared log pieces of a many times forked stream
inline constexpr uint64_t kStateBytesMax = 8ull << 30;
inline constexpr uint64_t kSnapshotBytesMax = kStateBytesMax + (1ull << 20);
inline constexpr size_t kRewindIdsKept = 16;         // request ids of rewinds a stream remembers
inline constexpr int64_t kUnfinishedMsMax = 10'000;  // a copy's child without an owner
inline constexpr int64_t kLeaseMsMin = 100;
inline constexpr int64_t kLeaseMsMax = 10 * 60 * 1000;
inline constexpr int64_t kTtlMsMax = int64_t{3650} * 24 * 3600 * 1000;
inline constexpr uint64_t kPositionMax = uint64_t{1} << 48;

// Messages.
inline constexpr size_t kAppendEntriesMax = 4096;         // streams in one batch
inline constexpr size_t kAppendTokensMax = 1u << 20;      // tokens in one batch
inline constexpr size_t kTokenRunMax = 16384;             // tokens in one message of ReadTokens
inline constexpr size_t kSnapshotChunkBytes = 512 << 10;  // data in one message of GetSnapshot
inline constexpr size_t kSnapshotChunkBytesMax = 4u << 20;
inline constexpr uint32_t kListPageDefault = 100;
inline constexpr uint32_t kListPageMax = 1000;

// The shard process.
inline constexpr size_t kShardThreadsDefault = 8;
inline constexpr size_t kShardQueueMax = 1024;  // calls waiting for a thread
inline constexpr size_t kUploadsMax = 64;       // snapshots being written at the same time

}  // namespace lola::memory

#endif  // LOLA_MEMORY_LIMITS_H_
