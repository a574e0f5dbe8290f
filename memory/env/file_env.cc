#include "memory/env/file_env.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace lola::memory {
namespace {

absl::Status ErrnoStatus(std::string_view step, const std::string& path, int error) {
  const std::string message =
      absl::StrCat(path, ": ", std::string(step), ": ", std::strerror(error));
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
      return absl::ResourceExhaustedError(message);
    case ENOENT:
      return absl::NotFoundError(message);
    case EEXIST:
      return absl::AlreadyExistsError(message);
    default:
      return absl::InternalError(message);
  }
}

// The folder that holds `path`.
std::string ParentOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

class PosixWritableFile : public WritableFile {
 public:
  PosixWritableFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  ~PosixWritableFile() override {
    if (fd_ >= 0) close(fd_);
  }

  absl::Status Append(std::string_view data) override {
    while (!data.empty()) {
      const ssize_t n = write(fd_, data.data(), data.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus("write", path_, errno);
      data.remove_prefix(size_t(n));
      written_ += size_t(n);
    }
    StartWriteback();
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    if (fdatasync(fd_) != 0) return ErrnoStatus("sync", path_, errno);
    return absl::OkStatus();
  }

  absl::Status Close() override {
    const int fd = std::exchange(fd_, -1);
    if (close(fd) != 0) return ErrnoStatus("close", path_, errno);
    return absl::OkStatus();
  }

 private:
  // Lets the disk begin with a large file while the rest of it still comes: the sync at the end
  // then waits for little. A hint: its failure means nothing.
  void StartWriteback() {
    if (written_ - started_ < kWritebackBytes) return;
    (void)sync_file_range(fd_, off_t(started_), off_t(written_ - started_), SYNC_FILE_RANGE_WRITE);
    started_ = written_;
  }

  static constexpr size_t kWritebackBytes = size_t{4} << 20;

  const std::string path_;
  int fd_;
  size_t written_ = 0;
  size_t started_ = 0;  // of them, given to the disk
};

class PosixReadableFile : public ReadableFile {
 public:
  PosixReadableFile(std::string path, int fd, uint64_t size)
      : path_(std::move(path)), fd_(fd), size_(size) {}
  ~PosixReadableFile() override { close(fd_); }

  uint64_t size() const override { return size_; }

  absl::Status Read(uint64_t offset, std::span<char> out) const override {
    size_t done = 0;
    while (done < out.size()) {
      const ssize_t n = pread(fd_, out.data() + done, out.size() - done, off_t(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus("read", path_, errno);
      if (n == 0) {
        return absl::DataLossError(absl::StrCat(path_, ": ends at byte ", offset + done, ", ",
                                                out.size() - done, " bytes are missing"));
      }
      done += size_t(n);
    }
    return absl::OkStatus();
  }

 private:
  const std::string path_;
  const int fd_;
  const uint64_t size_;
};

class PosixFileEnv : public FileEnv {
 public:
  absl::StatusOr<std::unique_ptr<WritableFile>> NewFile(const std::string& path) override {
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) return ErrnoStatus("create", path, errno);
    return std::make_unique<PosixWritableFile>(path, fd);
  }

  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenFile(const std::string& path) override {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return ErrnoStatus("open", path, errno);
    struct stat info;
    if (fstat(fd, &info) != 0) {
      const int error = errno;
      close(fd);
      return ErrnoStatus("stat", path, error);
    }
    return std::make_unique<PosixReadableFile>(path, fd, uint64_t(info.st_size));
  }

  absl::Status Rename(const std::string& from, const std::string& to) override {
    if (rename(from.c_str(), to.c_str()) != 0) return ErrnoStatus("rename", from, errno);
    return absl::OkStatus();
  }

  absl::Status Remove(const std::string& path) override {
    if (unlink(path.c_str()) != 0) return ErrnoStatus("remove", path, errno);
    return absl::OkStatus();
  }

  absl::Status SyncFolder(const std::string& path) override {
    const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return ErrnoStatus("open folder", path, errno);
    const int result = fsync(fd);
    const int error = errno;
    close(fd);
    if (result != 0) return ErrnoStatus("sync folder", path, error);
    return absl::OkStatus();
  }

  absl::Status MakeFolder(const std::string& path) override {
    for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
      const std::string part = path.substr(0, end);
      if (mkdir(part.c_str(), 0755) != 0 && errno != EEXIST) {
        return ErrnoStatus("make folder", part, errno);
      }
      if (end == std::string::npos) return absl::OkStatus();
    }
  }

  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override {
    DIR* folder = opendir(path.c_str());
    if (folder == nullptr) return ErrnoStatus("list", path, errno);
    std::vector<std::string> names;
    while (const dirent* entry = readdir(folder)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
    }
    closedir(folder);
    std::sort(names.begin(), names.end());
    return names;
  }

  absl::StatusOr<uint64_t> FileSize(const std::string& path) override {
    struct stat info;
    if (stat(path.c_str(), &info) != 0) return ErrnoStatus("stat", path, errno);
    return uint64_t(info.st_size);
  }
};

}  // namespace

FileEnv* FileEnv::Real() {
  static PosixFileEnv* const env = new PosixFileEnv;  // never destroyed: used until the end
  return env;
}

absl::Status MakeDurableFolder(FileEnv& env, std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const bool last = end == std::string::npos;
    const std::string part = path.substr(0, end);
    if (last || part.back() != '/') {
      const bool made = !env.FileSize(part).ok();
      if (made) {
        if (absl::Status status = env.MakeFolder(part); !status.ok()) return status;
      }
      if (made || last) {
        if (absl::Status status = env.SyncFolder(ParentOf(part)); !status.ok()) return status;
      }
    }
    if (last) return absl::OkStatus();
  }
}

absl::StatusOr<std::string> ReadWholeFile(FileEnv& env, const std::string& path) {
  auto file = env.OpenFile(path);
  if (!file.ok()) return file.status();
  std::string bytes((*file)->size(), '\0');
  if (absl::Status status = (*file)->Read(0, bytes); !status.ok()) return status;
  return bytes;
}

absl::Status WriteWholeFile(FileEnv& env, const std::string& path, std::string_view bytes) {
  const std::string staged = path + ".new";
  (void)env.Remove(staged);  // left by a writer that was stopped
  auto file = env.NewFile(staged);
  if (!file.ok()) return file.status();
  absl::Status status = (*file)->Append(bytes);
  if (status.ok()) status = (*file)->Sync();
  if (status.ok()) status = (*file)->Close();
  if (status.ok()) status = env.Rename(staged, path);
  if (!status.ok()) {
    (void)env.Remove(staged);
    return status;
  }
  return env.SyncFolder(ParentOf(path));
}

}  // namespace lola::memory
