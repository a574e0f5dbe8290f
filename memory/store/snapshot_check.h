#ifndef LOLA_MEMORY_STORE_SNAPSHOT_CHECK_H_
#define LOLA_MEMORY_STORE_SNAPSHOT_CHECK_H_

// BlobCheck of snapshot blobs (memory/snapshot/FORMAT.md): preface, sections and all checksums,
// and that position and digest are the ones announced. DATA_LOSS or FAILED_PRECONDITION naming the
// field. Any thread.

#include <memory>

#include "memory/store/blob_check.h"

namespace lola::store {

std::unique_ptr<BlobCheck> NewSnapshotCheck();

}  // namespace lola::store

#endif  // LOLA_MEMORY_STORE_SNAPSHOT_CHECK_H_
