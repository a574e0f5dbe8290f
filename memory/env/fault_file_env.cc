#include "memory/env/fault_file_env.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace lola::memory {

class FaultWritableFile : public WritableFile {
 public:
  FaultWritableFile(FaultFileEnv& env, std::string path, std::unique_ptr<WritableFile> base)
      : env_(env), path_(std::move(path)), base_(std::move(base)) {}

  absl::Status Append(std::string_view data) override {
    if (absl::Status status = env_.Check("append", path_); !status.ok()) return status;
    if (absl::Status status = env_.Take(path_, data.size()); !status.ok()) return status;
    if (absl::Status status = base_->Append(data); !status.ok()) return status;
    std::lock_guard lock(env_.mu_);
    env_.written_[path_].bytes += data.size();
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    if (absl::Status status = env_.Check("sync", path_); !status.ok()) return status;
    if (absl::Status status = base_->Sync(); !status.ok()) return status;
    std::lock_guard lock(env_.mu_);
    auto& written = env_.written_[path_];
    written.synced_bytes = written.bytes;
    return absl::OkStatus();
  }

  absl::Status Close() override { return base_->Close(); }

 private:
  FaultFileEnv& env_;
  const std::string path_;
  std::unique_ptr<WritableFile> base_;
};

namespace {

class FaultReadableFile : public ReadableFile {
 public:
  using Checker = std::function<absl::Status()>;
  FaultReadableFile(Checker check, std::unique_ptr<ReadableFile> base)
      : check_(std::move(check)), base_(std::move(base)) {}

  uint64_t size() const override { return base_->size(); }
  absl::Status Read(uint64_t offset, std::span<char> out) const override {
    if (absl::Status status = check_(); !status.ok()) return status;
    return base_->Read(offset, out);
  }

 private:
  Checker check_;
  std::unique_ptr<ReadableFile> base_;
};

}  // namespace

void FaultFileEnv::SetFault(Fault fault) {
  std::lock_guard lock(mu_);
  fault_ = std::move(fault);
}

void FaultFileEnv::SetSpaceLeft(int64_t bytes) {
  std::lock_guard lock(mu_);
  space_left_ = bytes;
}

absl::Status FaultFileEnv::Check(std::string_view step, const std::string& path) {
  Fault fault;
  {
    std::lock_guard lock(mu_);
    fault = fault_;
  }
  return fault ? fault(step, path) : absl::OkStatus();
}

absl::Status FaultFileEnv::Take(const std::string& path, size_t bytes) {
  std::lock_guard lock(mu_);
  if (space_left_ < 0) return absl::OkStatus();
  if (space_left_ < int64_t(bytes)) {
    return absl::ResourceExhaustedError(absl::StrCat(path, ": write: no space left on device"));
  }
  space_left_ -= int64_t(bytes);
  return absl::OkStatus();
}

absl::Status FaultFileEnv::LoseUnsynced() {
  std::lock_guard lock(mu_);
  for (const auto& [name, durable] : unsynced_names_) {
    absl::Status status = absl::OkStatus();
    if (durable.empty()) {
      status = base_.Remove(name);
      written_.erase(name);
    } else {
      status = base_.Rename(name, durable);
      if (auto node = written_.extract(name); !node.empty()) {
        node.key() = durable;
        written_.insert(std::move(node));
      }
    }
    if (!status.ok() && !absl::IsNotFound(status)) return status;
  }
  unsynced_names_.clear();
  for (auto& [name, written] : written_) {
    if (written.synced_bytes == written.bytes) continue;
    auto bytes = ReadWholeFile(base_, name);
    if (absl::IsNotFound(bytes.status())) continue;
    if (!bytes.ok()) return bytes.status();
    bytes->resize(std::min<size_t>(bytes->size(), written.synced_bytes));
    if (absl::Status status = WriteWholeFile(base_, name, *bytes); !status.ok()) return status;
    written.bytes = written.synced_bytes;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<WritableFile>> FaultFileEnv::NewFile(const std::string& path) {
  if (absl::Status status = Check("new", path); !status.ok()) return status;
  auto file = base_.NewFile(path);
  if (!file.ok()) return file.status();
  std::lock_guard lock(mu_);
  written_[path] = {};
  unsynced_names_[path] = "";
  return std::make_unique<FaultWritableFile>(*this, path, *std::move(file));
}

absl::StatusOr<std::unique_ptr<ReadableFile>> FaultFileEnv::OpenFile(const std::string& path) {
  if (absl::Status status = Check("open", path); !status.ok()) return status;
  auto file = base_.OpenFile(path);
  if (!file.ok()) return file.status();
  return std::make_unique<FaultReadableFile>([this, path] { return Check("read", path); },
                                             *std::move(file));
}

absl::Status FaultFileEnv::Rename(const std::string& from, const std::string& to) {
  if (absl::Status status = Check("rename", from); !status.ok()) return status;
  if (absl::Status status = base_.Rename(from, to); !status.ok()) return status;
  std::lock_guard lock(mu_);
  written_.erase(to);
  if (auto node = written_.extract(from); !node.empty()) {
    node.key() = to;
    written_.insert(std::move(node));
  }
  const auto unsynced = unsynced_names_.find(from);
  std::string durable = unsynced == unsynced_names_.end() ? from : unsynced->second;
  unsynced_names_.erase(from);
  unsynced_names_[to] = std::move(durable);
  return absl::OkStatus();
}

absl::Status FaultFileEnv::Remove(const std::string& path) {
  if (absl::Status status = Check("remove", path); !status.ok()) return status;
  if (absl::Status status = base_.Remove(path); !status.ok()) return status;
  std::lock_guard lock(mu_);
  written_.erase(path);
  unsynced_names_.erase(path);
  return absl::OkStatus();
}

absl::Status FaultFileEnv::SyncFolder(const std::string& path) {
  if (absl::Status status = Check("sync_folder", path); !status.ok()) return status;
  if (absl::Status status = base_.SyncFolder(path); !status.ok()) return status;
  std::lock_guard lock(mu_);
  std::erase_if(unsynced_names_, [&](const auto& entry) {
    const size_t slash = entry.first.rfind('/');
    return slash != std::string::npos && entry.first.compare(0, slash, path) == 0;
  });
  return absl::OkStatus();
}

absl::Status FaultFileEnv::MakeFolder(const std::string& path) { return base_.MakeFolder(path); }

absl::StatusOr<std::vector<std::string>> FaultFileEnv::List(const std::string& path) {
  if (absl::Status status = Check("list", path); !status.ok()) return status;
  return base_.List(path);
}

absl::StatusOr<uint64_t> FaultFileEnv::FileSize(const std::string& path) {
  return base_.FileSize(path);
}

}  // namespace lola::memory
