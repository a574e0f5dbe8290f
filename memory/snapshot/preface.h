// The head of a snapshot blob as plain values, and its encoding (see FORMAT.md). Knows nothing of
// models or live streams, so that a shard can check blobs. Pure functions: any thread.
#ifndef LOLA_MEMORY_SNAPSHOT_PREFACE_H_
#define LOLA_MEMORY_SNAPSHOT_PREFACE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lola::memory {

using Hash128 = std::array<std::byte, 16>;  // canonical (big-endian) XXH3-128

Hash128 HashOf(std::span<const std::byte> bytes);
std::string HashHex(const Hash128& hash);  // 32 lower-case digits
// INVALID_ARGUMENT unless `hex` is 32 hex digits; `field` is named.
absl::StatusOr<Hash128> HashFromHex(std::string_view hex, std::string_view field);

// 1: the first release; 2: settings and record sections that version 1 does not know. A writer
// takes the lowest version that can say what it has to say.
inline constexpr uint32_t kSnapshotVersionMin = 1;
inline constexpr uint32_t kSnapshotVersion = 2;
inline constexpr size_t kPrefaceBytesMax = 1 << 20;
inline constexpr size_t kSectionsMax = 8192;

// A named unsigned value of the model's geometry or the stream's settings; floats as their bits.
struct PrefaceField {
  std::string name;
  uint64_t value = 0;
  bool operator==(const PrefaceField&) const = default;
};

// A run of record bytes with its own checksum.
struct PrefaceSection {
  std::string name;     // "header", "layer 3"
  uint64_t offset = 0;  // in the record; sections are adjacent and cover the record
  uint64_t size = 0;
  Hash128 hash{};
  bool operator==(const PrefaceSection&) const = default;
};

struct Preface {
  uint32_t version = kSnapshotVersionMin;
  uint64_t position = 0;      // tokens consumed by the state
  uint64_t record_bytes = 0;  // size of the record that follows
  Hash128 model{};            // model fingerprint
  Hash128 digest{};           // canonical state digest
  std::vector<PrefaceField> geometry;
  std::vector<PrefaceField> settings;
  std::vector<PrefaceSection> sections;
  bool operator==(const Preface&) const = default;
};

// The preface's bytes, a multiple of 4096 so that the record stays page aligned in a file.
std::string EncodePreface(const Preface& preface);

// Size of the whole preface, from its first kPrefaceFixedBytes bytes. DATA_LOSS for a wrong magic
// or size, FAILED_PRECONDITION for an unknown version.
inline constexpr size_t kPrefaceFixedBytes = 24;
absl::StatusOr<size_t> PrefaceSize(std::span<const std::byte> head);

// Decodes and checks all of it: checksum, bounds, adjacent sections. DATA_LOSS naming the field.
absl::StatusOr<Preface> DecodePreface(std::span<const std::byte> bytes);

}  // namespace lola::memory

#endif  // LOLA_MEMORY_SNAPSHOT_PREFACE_H_
