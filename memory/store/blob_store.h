#ifndef LOLA_MEMORY_STORE_BLOB_STORE_H_
#define LOLA_MEMORY_STORE_BLOB_STORE_H_

// Immutable files under one folder. A blob is staged in tmp/, written, synced, moved to blobs/ and
// the folder synced; only then may a record name it. Its checksum (XXH3-128 of all bytes) is kept
// by the record, not here. BlobStore: any thread. BlobWriter, BlobReader: one thread at a time.
// Errors name the path; see memory/env/file_env.h.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/env/file_env.h"

namespace lola::store {

class BlobWriter {
 public:
  ~BlobWriter();  // removes what was not finished
  BlobWriter(const BlobWriter&) = delete;
  BlobWriter& operator=(const BlobWriter&) = delete;

  absl::Status Write(std::string_view data);
  // Synced, in its place, folder synced. From here on the caller answers for the blob.
  absl::Status Finish();

  const std::string& blob_id() const { return blob_id_; }
  uint64_t size() const { return size_; }
  std::string checksum() const;  // 16 bytes, of what was written so far

 private:
  friend class BlobStore;
  struct Hash;
  BlobWriter(memory::FileEnv& files, const std::string& folder, std::string blob_id);

  memory::FileEnv& files_;
  const std::string folder_;
  const std::string blob_id_;
  const std::string staged_path_;
  std::unique_ptr<memory::WritableFile> file_;
  std::unique_ptr<Hash> hash_;
  uint64_t size_ = 0;
};

class BlobReader {
 public:
  ~BlobReader();
  BlobReader(const BlobReader&) = delete;
  BlobReader& operator=(const BlobReader&) = delete;

  uint64_t size() const { return file_->size(); }
  // Puts the next piece into `piece`, at most `bytes_max`; empty at the end. With the last piece
  // the checksum is compared: DATA_LOSS names the file, and that piece is not to be used.
  absl::Status Next(size_t bytes_max, std::string* piece);

 private:
  friend class BlobStore;
  struct Hash;
  BlobReader(std::string path, std::unique_ptr<memory::ReadableFile> file, std::string checksum);

  const std::string path_;
  const std::unique_ptr<memory::ReadableFile> file_;
  const std::string checksum_;
  std::unique_ptr<Hash> hash_;
  uint64_t offset_ = 0;
};

class BlobStore {
 public:
  // Makes the folders and removes what is staged.
  static absl::StatusOr<std::unique_ptr<BlobStore>> Open(memory::FileEnv& files,
                                                         const std::string& folder);

  absl::StatusOr<std::unique_ptr<BlobWriter>> NewBlob();
  // DATA_LOSS when the file is missing or has another size.
  absl::StatusOr<std::unique_ptr<BlobReader>> OpenBlob(const std::string& blob_id, uint64_t size,
                                                       std::string checksum);
  // A blob that is not there is fine.
  absl::Status Remove(const std::string& blob_id);
  // Moves a damaged blob to `<blob>.broken` and returns that path.
  std::string SetAside(const std::string& blob_id);
  // There is a `<blob>.broken`.
  bool SetAsideBefore(const std::string& blob_id);
  // Ids of all whole blobs.
  absl::StatusOr<std::vector<std::string>> List();
  absl::StatusOr<uint64_t> Size(const std::string& blob_id);
  std::string Path(const std::string& blob_id) const;

 private:
  BlobStore(memory::FileEnv& files, const std::string& folder) : files_(files), folder_(folder) {}

  memory::FileEnv& files_;
  const std::string folder_;
};

}  // namespace lola::store

#endif  // LOLA_MEMORY_STORE_BLOB_STORE_H_
