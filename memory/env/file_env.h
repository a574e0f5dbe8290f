#ifndef LOLA_MEMORY_ENV_FILE_ENV_H_
#define LOLA_MEMORY_ENV_FILE_ENV_H_

// Files behind one seam. The only way to make a file durable is: create, append, sync, rename, sync
// the folder. A FileEnv may be used from any thread; a file object by one thread at a time.
// Errors name the path: RESOURCE_EXHAUSTED (no space), NOT_FOUND, ALREADY_EXISTS, DATA_LOSS (short
// read of bytes that were there), INTERNAL (any other, with the system's words).

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lola::memory {

// A file being written, from the start, once. Closed (not synced) on destruction.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  // After an error the file's contents are unspecified: remove it.
  virtual absl::Status Append(std::string_view data) = 0;
  // All bytes appended so far survive a power cut, once the folder entry does.
  virtual absl::Status Sync() = 0;
  virtual absl::Status Close() = 0;
};

// An existing file. Stays readable after its removal.
class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  virtual uint64_t size() const = 0;
  // Reads exactly out.size() bytes at `offset`.
  virtual absl::Status Read(uint64_t offset, std::span<char> out) const = 0;
};

class FileEnv {
 public:
  virtual ~FileEnv() = default;
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> NewFile(const std::string& path) = 0;
  virtual absl::StatusOr<std::unique_ptr<ReadableFile>> OpenFile(const std::string& path) = 0;
  // Replaces `to`. Durable after SyncFolder on both folders.
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  virtual absl::Status Remove(const std::string& path) = 0;
  virtual absl::Status SyncFolder(const std::string& path) = 0;
  // Makes missing parents too; an existing folder is fine.
  virtual absl::Status MakeFolder(const std::string& path) = 0;
  // Names of the entries, sorted, without "." and "..".
  virtual absl::StatusOr<std::vector<std::string>> List(const std::string& path) = 0;
  virtual absl::StatusOr<uint64_t> FileSize(const std::string& path) = 0;

  // The machine's files; lives for ever.
  static FileEnv* Real();
};

// Makes a folder and its missing parents; each one made, and the last one in any case, survives a
// power cut when this returns.
absl::Status MakeDurableFolder(FileEnv& env, std::string path);
// The whole file as bytes. For small files: maps, markers.
absl::StatusOr<std::string> ReadWholeFile(FileEnv& env, const std::string& path);
// New file under a temporary name, synced, renamed to `path`, folder synced.
absl::Status WriteWholeFile(FileEnv& env, const std::string& path, std::string_view bytes);

}  // namespace lola::memory

#endif  // LOLA_MEMORY_ENV_FILE_ENV_H_
