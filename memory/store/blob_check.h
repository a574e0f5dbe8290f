#ifndef LOLA_MEMORY_STORE_BLOB_CHECK_H_
#define LOLA_MEMORY_STORE_BLOB_CHECK_H_

// What the store asks of whoever understands a snapshot's bytes. One object per blob, one thread.
// The store itself knows bytes only; NewSnapshotCheck (snapshot_check.h) is the real one.

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "absl/status/status.h"

namespace lola::store {

class BlobCheck {
 public:
  virtual ~BlobCheck() = default;
  // The blob's next bytes. Not OK as soon as something is wrong.
  virtual absl::Status Feed(std::string_view data) = 0;
  // All bytes were fed: whether they are one whole blob of this position and state digest.
  virtual absl::Status Finish(uint64_t position, std::string_view digest) = 0;
};

using BlobCheckFactory = std::function<std::unique_ptr<BlobCheck>()>;

}  // namespace lola::store

#endif  // LOLA_MEMORY_STORE_BLOB_CHECK_H_
