#include "memory/snapshot/reader.h"
#include "memory/snapshot/verify.h"
#include "memory/stream/arena.h"
#include "tests/memory/snapshot/snapshot_testing.h"

// Whatever the bytes are: a Status from verifier and reader, never a wrong access. The digest is
// not recomputed by fuzzers, so a blob that reads well must be one the writer could have made.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lola::memory;
  const std::span<const std::byte> blob = std::as_bytes(std::span(data, size));
  const bool good = VerifyBlob(blob).ok();
  static SmallRecord* const target = new SmallRecord();
  const auto read = ReadSnapshot(blob, SmallIdentity(), target->layout(), target->record());
  if (read.ok() && !good) __builtin_trap();
  BlobVerifier pieces;
  for (size_t at = 0; at < size; at += 100) {
    (void)pieces.Feed(blob.subspan(at, std::min<size_t>(100, size - at)));
  }
  if (pieces.Finish().ok() != good) __builtin_trap();
  return 0;
}
