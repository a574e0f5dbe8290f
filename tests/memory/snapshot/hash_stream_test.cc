// Checksums are part of the snapshot format: their values never change, however the bytes come.
#include "memory/hash_stream.h"

#include <gtest/gtest.h>

#include <vector>

#include "memory/snapshot/preface.h"

namespace lola::memory {
namespace {

std::vector<std::byte> Bytes(size_t count) {
  std::vector<std::byte> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = std::byte(i * 2654435761u >> 13);
  return bytes;
}

// XXH3-128 without seed, as the algorithm's own command line (xxhsum -H2) prints it.
TEST(HashStream, ValuesAreThoseOfTheAlgorithm) {
  EXPECT_EQ(HashHex(HashStream::Of({})), "99aa06d3014798d86001c324468d497f");
  const std::string abc = "abc";
  EXPECT_EQ(HashHex(HashStream::Of(std::as_bytes(std::span(abc.data(), abc.size())))),
            "06b05ab6733a618578af5f94892f3950");
}

TEST(HashStream, PiecesGiveTheHashOfTheWhole) {
  for (const size_t size : {size_t{1}, size_t{240}, size_t{241}, size_t{100'000}}) {
    const std::vector<std::byte> bytes = Bytes(size);
    for (const size_t piece : {size_t{1}, size_t{63}, size_t{1024}, size_t{70'000}}) {
      HashStream stream;
      stream.Update(bytes);  // thrown away by Reset
      stream.Reset();
      for (size_t at = 0; at < size; at += piece) {
        stream.Update(std::span(bytes).subspan(at, std::min(piece, size - at)));
      }
      EXPECT_EQ(stream.Digest(), HashStream::Of(bytes)) << size << " in pieces of " << piece;
    }
  }
}

}  // namespace
}  // namespace lola::memory
