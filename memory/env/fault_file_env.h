#ifndef LOLA_MEMORY_ENV_FAULT_FILE_ENV_H_
#define LOLA_MEMORY_ENV_FAULT_FILE_ENV_H_

// A FileEnv over another one that can fail, and can lose what a power cut would lose. For tests.
// Any thread.

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "memory/env/file_env.h"

namespace lola::memory {

class FaultFileEnv : public FileEnv {
 public:
  explicit FaultFileEnv(FileEnv& base) : base_(base) {}

  // Asked before every step ("append", "sync", "rename", "remove", "open", "new", "sync_folder",
  // "list", "read") with its path; anything but OK is what the step answers. Null: no faults.
  using Fault = std::function<absl::Status(std::string_view step, const std::string& path)>;
  void SetFault(Fault fault);

  // The next steps may append this many bytes in all; then RESOURCE_EXHAUSTED. -1: no bound.
  void SetSpaceLeft(int64_t bytes);

  // What a power cut leaves: bytes never synced are cut off, files whose folder was not synced
  // since they were made or renamed are gone (or back under the old name). Open files must be
  // closed.
  absl::Status LoseUnsynced();

  absl::StatusOr<std::unique_ptr<WritableFile>> NewFile(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenFile(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status Remove(const std::string& path) override;
  absl::Status SyncFolder(const std::string& path) override;
  absl::Status MakeFolder(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override;
  absl::StatusOr<uint64_t> FileSize(const std::string& path) override;

 private:
  friend class FaultWritableFile;
  struct Written {
    uint64_t synced_bytes = 0;
    uint64_t bytes = 0;
  };
  absl::Status Check(std::string_view step, const std::string& path);
  absl::Status Take(const std::string& path, size_t bytes);

  FileEnv& base_;
  std::mutex mu_;
  Fault fault_;  // guarded by mu_, as all below
  int64_t space_left_ = -1;
  std::map<std::string, Written> written_;  // files made through this env, by present name
  std::map<std::string, std::string> unsynced_names_;  // present name -> durable name, "" = none
};

}  // namespace lola::memory

#endif  // LOLA_MEMORY_ENV_FAULT_FILE_ENV_H_
