// Checks a snapshot blob while it streams by, without a model: what a shard does before it makes a
// blob visible, and a worker before it uses one. Not thread-safe: one verifier per blob.
#ifndef LOLA_MEMORY_SNAPSHOT_VERIFY_H_
#define LOLA_MEMORY_SNAPSHOT_VERIFY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/snapshot/preface.h"

namespace lola::memory {

class BlobVerifier {
 public:
  BlobVerifier();
  ~BlobVerifier();
  BlobVerifier(const BlobVerifier&) = delete;
  BlobVerifier& operator=(const BlobVerifier&) = delete;

  // Takes the next bytes of the blob, in any portions. Not OK as soon as something is wrong, and
  // from then on: DATA_LOSS naming the section or field, FAILED_PRECONDITION for an unknown
  // version.
  absl::Status Feed(std::span<const std::byte> bytes);
  // OK when exactly one whole, correct blob was fed; DATA_LOSS with both sizes when it is short.
  absl::Status Finish() const;

  // The preface, once it was read and found correct; null before.
  const Preface* preface() const;
  uint64_t bytes_fed() const;
  // Thereof bytes of the record, behind the preface.
  uint64_t record_bytes_fed() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The same for a blob in memory (or mapped). Returns its preface.
absl::StatusOr<Preface> VerifyBlob(std::span<const std::byte> blob);

}  // namespace lola::memory

#endif  // LOLA_MEMORY_SNAPSHOT_VERIFY_H_
