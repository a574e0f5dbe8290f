// RocksDB's files on a disk that is full, fails, or tears a write. Any thread.
#ifndef LOLA_TESTS_MEMORY_STORE_FAULTY_FILE_SYSTEM_H_
#define LOLA_TESTS_MEMORY_STORE_FAULTY_FILE_SYSTEM_H_

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "rocksdb/env.h"
#include "rocksdb/file_system.h"

namespace lola::store {

class FaultyFileSystem : public rocksdb::FileSystemWrapper {
 public:
  FaultyFileSystem() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}
  const char* Name() const override { return "FaultyFileSystem"; }

  std::atomic<bool> full{false};        // appends answer "no space"
  std::atomic<bool> tears{false};       // ... after writing half of what was to be written
  std::atomic<bool> sync_fails{false};  // the bytes may be there or not
  std::atomic<bool> read_fails{false};

  rocksdb::IOStatus NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* debug) override {
    std::unique_ptr<rocksdb::FSWritableFile> base;
    rocksdb::IOStatus status = target()->NewWritableFile(path, options, &base, debug);
    if (status.ok()) *file = std::make_unique<Written>(*this, path, std::move(base));
    return status;
  }
  rocksdb::IOStatus NewRandomAccessFile(const std::string& path,
                                        const rocksdb::FileOptions& options,
                                        std::unique_ptr<rocksdb::FSRandomAccessFile>* file,
                                        rocksdb::IODebugContext* debug) override {
    std::unique_ptr<rocksdb::FSRandomAccessFile> base;
    rocksdb::IOStatus status = target()->NewRandomAccessFile(path, options, &base, debug);
    if (status.ok()) *file = std::make_unique<ReadFrom>(*this, path, std::move(base));
    return status;
  }

 private:
  class Written : public rocksdb::FSWritableFileOwnerWrapper {
   public:
    Written(FaultyFileSystem& owner, std::string path,
            std::unique_ptr<rocksdb::FSWritableFile> base)
        : FSWritableFileOwnerWrapper(std::move(base)), owner_(owner), path_(std::move(path)) {}
    rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* debug) override {
      if (owner_.full) return Full(data, options, debug);
      return FSWritableFileOwnerWrapper::Append(data, options, debug);
    }
    rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                             const rocksdb::DataVerificationInfo& info,
                             rocksdb::IODebugContext* debug) override {
      if (owner_.full) return Full(data, options, debug);
      return FSWritableFileOwnerWrapper::Append(data, options, info, debug);
    }
    rocksdb::IOStatus Sync(const rocksdb::IOOptions& options,
                           rocksdb::IODebugContext* debug) override {
      if (owner_.sync_fails) return rocksdb::IOStatus::IOError("While syncing " + path_);
      return FSWritableFileOwnerWrapper::Sync(options, debug);
    }
    rocksdb::IOStatus Fsync(const rocksdb::IOOptions& options,
                            rocksdb::IODebugContext* debug) override {
      if (owner_.sync_fails) return rocksdb::IOStatus::IOError("While syncing " + path_);
      return FSWritableFileOwnerWrapper::Fsync(options, debug);
    }

   private:
    rocksdb::IOStatus Full(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                           rocksdb::IODebugContext* debug) {
      if (owner_.tears) {
        (void)FSWritableFileOwnerWrapper::Append({data.data(), data.size() / 2}, options, debug);
      }
      return rocksdb::IOStatus::NoSpace("While appending to " + path_);
    }

    FaultyFileSystem& owner_;
    const std::string path_;
  };

  class ReadFrom : public rocksdb::FSRandomAccessFileOwnerWrapper {
   public:
    ReadFrom(FaultyFileSystem& owner, std::string path,
             std::unique_ptr<rocksdb::FSRandomAccessFile> base)
        : FSRandomAccessFileOwnerWrapper(std::move(base)), owner_(owner), path_(std::move(path)) {}
    rocksdb::IOStatus Read(uint64_t offset, size_t bytes, const rocksdb::IOOptions& options,
                           rocksdb::Slice* result, char* scratch,
                           rocksdb::IODebugContext* debug) const override {
      if (owner_.read_fails) {
        return rocksdb::IOStatus::IOError("While reading " + path_ + ": Input/output error");
      }
      return FSRandomAccessFileOwnerWrapper::Read(offset, bytes, options, result, scratch, debug);
    }

   private:
    FaultyFileSystem& owner_;
    const std::string path_;
  };
};

}  // namespace lola::store

#endif  // LOLA_TESTS_MEMORY_STORE_FAULTY_FILE_SYSTEM_H_
