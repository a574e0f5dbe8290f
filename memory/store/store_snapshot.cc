#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "memory/env/failpoint.h"
#include "memory/store/request_check.h"
#include "memory/store/store_impl.h"

namespace lola::store {
namespace {

using record::v1::SnapshotRecord;

const SnapshotRecord* FindByName(const StreamRecord& record, const std::string& name) {
  for (const SnapshotRecord& snapshot : record.snapshots()) {
    if (snapshot.info().name() == name) return &snapshot;
  }
  return nullptr;
}

uint64_t StatePosition(const v1::PutSnapshotHeader& header) {
  return header.state_position() > 0 ? header.state_position() : header.position();
}

// The same call once more: name, position and state are equal.
const SnapshotRecord* FindEqual(const StreamRecord& record, const v1::PutSnapshotHeader& header) {
  for (const SnapshotRecord& snapshot : record.snapshots()) {
    const v1::SnapshotInfo& info = snapshot.info();
    if (info.name() == header.name() && info.position() == header.position() &&
        info.state_position() == header.state_position() && info.digest() == header.digest() &&
        info.size_bytes() == header.size_bytes()) {
      return &snapshot;
    }
  }
  return nullptr;
}

void Insert(SnapshotRecord snapshot, StreamRecord* record) {
  *record->add_snapshots() = std::move(snapshot);
  auto* list = record->mutable_snapshots();
  std::stable_sort(list->begin(), list->end(), [](const auto& a, const auto& b) {
    return a.info().position() < b.info().position();
  });
}

// Keeps the newest `kept` automatic snapshots and all named ones.
void ApplyRetention(size_t kept, StreamRecord* record) {
  auto* list = record->mutable_snapshots();
  for (int i = list->size() - 1; i >= 0; --i) {
    if (!list->Get(i).info().name().empty()) continue;
    if (kept > 0) {
      --kept;
    } else {
      list->DeleteSubrange(i, 1);
    }
  }
}

bool HasBlob(const StreamRecord& record, const std::string& blob_id) {
  for (const SnapshotRecord& snapshot : record.snapshots()) {
    if (snapshot.info().blob_id() == blob_id) return true;
  }
  return false;
}

void RemoveBlob(const std::string& blob_id, StreamRecord* record) {
  auto* list = record->mutable_snapshots();
  list->erase(std::remove_if(list->begin(), list->end(),
                             [&](const SnapshotRecord& snapshot) {
                               return snapshot.info().blob_id() == blob_id;
                             }),
              list->end());
}

}  // namespace

class UploadImpl : public SnapshotUpload {
 public:
  UploadImpl(StoreImpl& store, const v1::PutSnapshotHeader& header)
      : store_(store), header_(header) {
    if (store.options_.blob_check) check_ = store.options_.blob_check();
  }
  ~UploadImpl() override {
    store_.Count([](StoreStats& counts) { --counts.uploads; });
  }

  absl::Status Begin() {
    auto blob = store_.blobs_->NewBlob();
    if (!blob.ok()) return blob.status();
    blob_ = *std::move(blob);
    return absl::OkStatus();
  }

  absl::Status Write(std::string_view data) override {
    if (status_.ok()) status_ = Take(data);
    return status_;
  }

  absl::StatusOr<v1::SnapshotInfo> Commit() override {
    if (!status_.ok()) return status_;
    status_ = absl::FailedPreconditionError("the snapshot was committed before");
    if (absl::Status status = Verify(); !status.ok()) {
      store_.Count([](StoreStats& counts) { ++counts.snapshots_refused; });
      return status;
    }
    if (absl::Status status = blob_->Finish(); !status.ok()) return status;
    return store_.PublishSnapshot(header_, *blob_);
  }

 private:
  absl::Status Take(std::string_view data) {
    if (data.size() > header_.size_bytes() - blob_->size()) {
      return Refuse(absl::InvalidArgumentError(
          absl::StrCat("size_bytes: the header says ", header_.size_bytes(), ", ",
                       blob_->size() + data.size(), " bytes came")));
    }
    if (check_ != nullptr) {
      if (absl::Status status = check_->Feed(data); !status.ok()) return Refuse(status);
    }
    return blob_->Write(data);
  }

  absl::Status Verify() {
    if (blob_->size() != header_.size_bytes()) {
      return absl::InvalidArgumentError(absl::StrCat("size_bytes: the header says ",
                                                     header_.size_bytes(), ", ", blob_->size(),
                                                     " bytes came"));
    }
    return check_ == nullptr ? absl::OkStatus()
                             : check_->Finish(StatePosition(header_), header_.digest());
  }

  absl::Status Refuse(absl::Status status) {
    store_.Count([](StoreStats& counts) { ++counts.snapshots_refused; });
    return status;
  }

  StoreImpl& store_;
  const v1::PutSnapshotHeader header_;
  std::unique_ptr<BlobCheck> check_;
  std::unique_ptr<BlobWriter> blob_;
  absl::Status status_;
};

class DownloadImpl : public SnapshotDownload {
 public:
  DownloadImpl(StoreImpl& store, std::string stream_id, v1::SnapshotInfo info,
               std::unique_ptr<BlobReader> blob)
      : store_(store),
        stream_id_(std::move(stream_id)),
        info_(std::move(info)),
        blob_(std::move(blob)) {}

  const v1::SnapshotInfo& info() const override { return info_; }

  absl::Status Next(size_t bytes_max, std::string* piece) override {
    if (!status_.ok()) return status_;
    status_ = blob_->Next(bytes_max, piece);
    if (status_.ok()) {
      store_.Count([&](StoreStats& counts) { counts.snapshot_read_bytes += piece->size(); });
    } else if (absl::IsDataLoss(status_)) {
      store_.DropBrokenSnapshot(stream_id_, info_.blob_id());
    }
    return status_;
  }

 private:
  StoreImpl& store_;
  const std::string stream_id_;
  const v1::SnapshotInfo info_;
  const std::unique_ptr<BlobReader> blob_;
  absl::Status status_;
};

absl::Status StoreImpl::CheckSnapshot(const StreamEntry& stream,
                                      const v1::PutSnapshotHeader& header) {
  if (absl::Status status = CheckEpoch(stream, header.epoch()); !status.ok()) return status;
  if (header.position() > stream.committed) {
    return absl::OutOfRangeError(absl::StrCat("position: the snapshot is at ", header.position(),
                                              ", stream ", memory::Quoted(header.stream_id()),
                                              " ends at ", stream.committed));
  }
  if (header.name().empty() || FindEqual(stream.record, header) != nullptr) {
    return absl::OkStatus();
  }
  if (const SnapshotRecord* same = FindByName(stream.record, header.name()); same != nullptr) {
    return absl::AlreadyExistsError(
        absl::StrCat("name: ", memory::Quoted(header.name()), " is a snapshot at position ",
                     same->info().position(), ", the call's is at ", header.position()));
  }
  size_t named = 0;
  for (const auto& snapshot : stream.record.snapshots()) named += !snapshot.info().name().empty();
  if (named >= memory::kNamedSnapshotsMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("name: stream ", memory::Quoted(header.stream_id()), " has ", named,
                     " named snapshots, at most ", memory::kNamedSnapshotsMax));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<SnapshotUpload>> StoreImpl::PutSnapshot(
    const v1::PutSnapshotHeader& header) {
  if (absl::Status status = CheckSnapshotHeader(header); !status.ok()) return status;
  {
    auto stream = table_->LockExisting(header.stream_id());
    if (!stream.ok()) return stream.status();
    if (absl::Status status = CheckSnapshot(**stream, header); !status.ok()) return status;
  }
  bool room = false;
  Count([&](StoreStats& counts) {
    room = counts.uploads < memory::kUploadsMax;
    if (room) ++counts.uploads;
  });
  if (!room) {
    return absl::ResourceExhaustedError(
        absl::StrCat("snapshots: ", memory::kUploadsMax, " are being written, no more at a time"));
  }
  auto upload = std::make_unique<UploadImpl>(*this, header);
  if (absl::Status status = upload->Begin(); !status.ok()) return status;
  return std::unique_ptr<SnapshotUpload>(std::move(upload));
}

absl::StatusOr<v1::SnapshotInfo> StoreImpl::PublishSnapshot(const v1::PutSnapshotHeader& header,
                                                            const BlobWriter& blob) {
  absl::Status commit = absl::OkStatus();
  absl::StatusOr<v1::SnapshotInfo> result = [&]() -> absl::StatusOr<v1::SnapshotInfo> {
    auto stream = table_->LockExisting(header.stream_id());
    if (!stream.ok()) return stream.status();
    StreamEntry& entry = **stream;
    // Again: much may have happened while the bytes came.
    if (absl::Status status = CheckSnapshot(entry, header); !status.ok()) return status;
    if (const SnapshotRecord* equal = FindEqual(entry.record, header); equal != nullptr) {
      (void)blobs_->Remove(blob.blob_id());
      return equal->info();
    }
    SnapshotRecord snapshot;
    v1::SnapshotInfo& info = *snapshot.mutable_info();
    info.set_blob_id(blob.blob_id());
    info.set_position(header.position());
    info.set_digest(header.digest());
    info.set_size_bytes(header.size_bytes());
    info.set_name(header.name());
    info.set_state_position(header.state_position());
    *info.mutable_instruction_classes() = header.instruction_classes();
    info.set_created_unix_ms(options_.clock->UnixMs());
    snapshot.set_checksum(blob.checksum());
    const v1::SnapshotInfo published = info;
    StreamRecord after = entry.record;
    after.set_last_used_unix_ms(options_.clock->UnixMs());
    Insert(std::move(snapshot), &after);
    ApplyRetention(options_.automatic_snapshots_kept, &after);
    if (!HasBlob(after, blob.blob_id())) {
      return absl::FailedPreconditionError(
          absl::StrCat("position: the automatic snapshot is at ", header.position(),
                       ", older than the ", options_.automatic_snapshots_kept, " of stream ",
                       memory::Quoted(header.stream_id()), " that are kept"));
    }
    rocksdb::WriteBatch batch;
    LOLA_FAILPOINT("store.snapshot.before_commit");
    commit = Replace(entry, std::move(after), &batch);
    if (!commit.ok()) return commit;
    Count([&](StoreStats& counts) {
      ++counts.snapshots_put;
      counts.snapshot_put_bytes += blob.size();
      ++counts.blobs;
      counts.blob_bytes += blob.size();
    });
    return published;
  }();
  if (!commit.ok()) {
    // The write may have reached the disk: the collector decides once the disk works again.
    std::lock_guard lock(doubtful_mu_);
    doubtful_blobs_.push_back(blob.blob_id());
  } else if (!result.ok()) {
    (void)blobs_->Remove(blob.blob_id());  // a left-over is removed at the next start
  }
  if (result.ok()) LOLA_FAILPOINT("store.snapshot.after_commit");
  return result;
}

absl::StatusOr<std::unique_ptr<SnapshotDownload>> StoreImpl::GetSnapshot(
    const v1::GetSnapshotRequest& request) {
  SnapshotRecord snapshot;
  absl::StatusOr<std::unique_ptr<BlobReader>> blob = nullptr;
  {
    auto stream = LockFinished(request.stream_id());
    if (!stream.ok()) return stream.status();
    StreamEntry& entry = **stream;
    for (const SnapshotRecord& candidate : entry.record.snapshots()) {
      if (candidate.info().blob_id() == request.blob_id()) snapshot = candidate;
    }
    if (!snapshot.has_info()) {
      return absl::NotFoundError(
          absl::StrCat("blob_id: stream ", memory::Quoted(request.stream_id()), " has no snapshot ",
                       memory::Quoted(request.blob_id())));
    }
    entry.record.set_last_used_unix_ms(options_.clock->UnixMs());
    // While the stream is locked it lists the blob, so nobody removes the file.
    blob = blobs_->OpenBlob(request.blob_id(), snapshot.info().size_bytes(), snapshot.checksum());
  }
  if (!blob.ok()) {
    if (absl::IsDataLoss(blob.status())) DropBrokenSnapshot(request.stream_id(), request.blob_id());
    return blob.status();
  }
  Count([](StoreStats& counts) { ++counts.snapshots_read; });
  return std::make_unique<DownloadImpl>(*this, request.stream_id(), snapshot.info(),
                                        *std::move(blob));
}

void StoreImpl::DropBrokenSnapshot(const std::string& stream_id, const std::string& blob_id) {
  auto stream = table_->LockExisting(stream_id);
  if (!stream.ok()) return;  // deleted meanwhile: nothing names the blob any more
  StreamEntry& entry = **stream;
  StreamRecord after = entry.record;
  RemoveBlob(blob_id, &after);
  if (after.snapshots_size() == entry.record.snapshots_size()) return;
  auto size = blobs_->Size(blob_id);
  const bool known = blobs_->SetAsideBefore(blob_id);  // through another stream that shares it
  if (size.ok()) blobs_->SetAside(blob_id);
  Count([&](StoreStats& counts) {
    if (size.ok() || !known) ++counts.broken_blobs;
    if (!size.ok()) return;
    --counts.blobs;
    counts.blob_bytes -= *size;
  });
  rocksdb::WriteBatch batch;
  // Failing leaves the snapshot listed; the next reader ends here again.
  (void)Replace(entry, std::move(after), &batch);
}

}  // namespace lola::store
