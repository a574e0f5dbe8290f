#include "memory/store/blob_store.h"

#include <algorithm>
#include <span>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "memory/env/failpoint.h"
#include "memory/env/random.h"
#include "memory/hash_stream.h"

namespace lola::store {
namespace {

constexpr char kBlobFolder[] = "/blobs";
constexpr char kStagedFolder[] = "/tmp";
constexpr char kBrokenSuffix[] = ".broken";

class Checksum {
 public:
  void Update(std::string_view data) { hash_.Update(std::as_bytes(std::span(data))); }
  std::string Digest() const {
    const auto digest = hash_.Digest();
    return std::string(reinterpret_cast<const char*>(digest.data()), digest.size());
  }

 private:
  memory::HashStream hash_;
};

}  // namespace

struct BlobWriter::Hash : Checksum {};
struct BlobReader::Hash : Checksum {};

BlobWriter::BlobWriter(memory::FileEnv& files, const std::string& folder, std::string blob_id)
    : files_(files),
      folder_(folder),
      blob_id_(std::move(blob_id)),
      staged_path_(absl::StrCat(folder, kStagedFolder, "/", blob_id_)),
      hash_(std::make_unique<Hash>()) {}

BlobWriter::~BlobWriter() {
  if (file_ == nullptr) return;
  file_.reset();
  (void)files_.Remove(staged_path_);  // a left-over is removed at the next start
}

absl::Status BlobWriter::Write(std::string_view data) {
  if (absl::Status status = file_->Append(data); !status.ok()) return status;
  hash_->Update(data);
  size_ += data.size();
  return absl::OkStatus();
}

std::string BlobWriter::checksum() const { return hash_->Digest(); }

absl::Status BlobWriter::Finish() {
  LOLA_FAILPOINT("blob.before_sync");
  if (absl::Status status = file_->Sync(); !status.ok()) return status;
  LOLA_FAILPOINT("blob.after_sync");
  if (absl::Status status = file_->Close(); !status.ok()) return status;
  const std::string path = absl::StrCat(folder_, kBlobFolder, "/", blob_id_);
  if (absl::Status status = files_.Rename(staged_path_, path); !status.ok()) return status;
  file_.reset();
  absl::Status status = [&]() -> absl::Status {
    LOLA_FAILPOINT("blob.after_rename");
    if (absl::Status status = files_.SyncFolder(folder_ + kBlobFolder); !status.ok()) return status;
    LOLA_FAILPOINT("blob.after_folder_sync");
    return absl::OkStatus();
  }();
  if (!status.ok()) (void)files_.Remove(path);
  return status;
}

BlobReader::BlobReader(std::string path, std::unique_ptr<memory::ReadableFile> file,
                       std::string checksum)
    : path_(std::move(path)),
      file_(std::move(file)),
      checksum_(std::move(checksum)),
      hash_(std::make_unique<Hash>()) {}

BlobReader::~BlobReader() = default;

absl::Status BlobReader::Next(size_t bytes_max, std::string* piece) {
  const uint64_t bytes = std::min<uint64_t>(bytes_max, size() - offset_);
  piece->resize(bytes);
  if (bytes == 0 && offset_ > 0) return absl::OkStatus();
  absl::Status status = file_->Read(offset_, std::span(piece->data(), bytes));
  if (!status.ok()) return status;
  hash_->Update(*piece);
  offset_ += bytes;
  if (offset_ == size() && hash_->Digest() != checksum_) {
    return absl::DataLossError(
        absl::StrCat(path_, ": checksum is ", absl::BytesToHexString(hash_->Digest()),
                     ", was written as ", absl::BytesToHexString(checksum_)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<BlobStore>> BlobStore::Open(memory::FileEnv& files,
                                                           const std::string& folder) {
  for (const char* part : {kBlobFolder, kStagedFolder}) {
    if (absl::Status status = files.MakeFolder(folder + part); !status.ok()) return status;
  }
  if (absl::Status status = files.SyncFolder(folder); !status.ok()) return status;
  auto staged = files.List(folder + kStagedFolder);
  if (!staged.ok()) return staged.status();
  for (const std::string& name : *staged) {
    const std::string path = absl::StrCat(folder, kStagedFolder, "/", name);
    if (absl::Status status = files.Remove(path); !status.ok()) return status;
  }
  return std::unique_ptr<BlobStore>(new BlobStore(files, folder));
}

absl::StatusOr<std::unique_ptr<BlobWriter>> BlobStore::NewBlob() {
  LOLA_FAILPOINT("blob.before_create");
  std::unique_ptr<BlobWriter> writer(new BlobWriter(files_, folder_, memory::NewUid()));
  auto file = files_.NewFile(writer->staged_path_);
  if (!file.ok()) return file.status();
  writer->file_ = *std::move(file);
  LOLA_FAILPOINT("blob.after_create");
  return writer;
}

absl::StatusOr<std::unique_ptr<BlobReader>> BlobStore::OpenBlob(const std::string& blob_id,
                                                                uint64_t size,
                                                                std::string checksum) {
  const std::string path = Path(blob_id);
  auto file = files_.OpenFile(path);
  if (absl::IsNotFound(file.status())) {
    return absl::DataLossError(absl::StrCat(path, ": the snapshot's file is missing"));
  }
  if (!file.ok()) return file.status();
  if ((*file)->size() != size) {
    return absl::DataLossError(
        absl::StrCat(path, ": has ", (*file)->size(), " bytes, was written with ", size));
  }
  return std::unique_ptr<BlobReader>(new BlobReader(path, *std::move(file), std::move(checksum)));
}

absl::Status BlobStore::Remove(const std::string& blob_id) {
  absl::Status status = files_.Remove(Path(blob_id));
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

std::string BlobStore::SetAside(const std::string& blob_id) {
  const std::string path = Path(blob_id);
  // Failing here leaves the damaged file in place: it is refused again, by the same checksum.
  (void)files_.Rename(path, path + kBrokenSuffix);
  return path + kBrokenSuffix;
}

bool BlobStore::SetAsideBefore(const std::string& blob_id) {
  return files_.FileSize(Path(blob_id) + kBrokenSuffix).ok();
}

absl::StatusOr<std::vector<std::string>> BlobStore::List() {
  auto names = files_.List(folder_ + kBlobFolder);
  if (!names.ok()) return names.status();
  std::erase_if(*names,
                [](const std::string& name) { return absl::EndsWith(name, kBrokenSuffix); });
  return names;
}

absl::StatusOr<uint64_t> BlobStore::Size(const std::string& blob_id) {
  return files_.FileSize(Path(blob_id));
}

std::string BlobStore::Path(const std::string& blob_id) const {
  return absl::StrCat(folder_, kBlobFolder, "/", blob_id);
}

}  // namespace lola::store
