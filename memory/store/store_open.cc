#include <algorithm>

#include "absl/strings/str_cat.h"
#include "memory/env/failpoint.h"
#include "memory/store/keys.h"
#include "memory/store/store_impl.h"

namespace lola::store {
namespace {

constexpr uint32_t kStoreFormat = 1;
constexpr uint64_t kLogIdsReserved = 1024;  // per write of the store record

}  // namespace

absl::StatusOr<std::unique_ptr<StreamStore>> StreamStore::Open(const StoreOptions& options) {
  if (options.directory.empty()) return absl::InvalidArgumentError("directory: is empty");
  if (options.partitions == 0 || options.partitions > memory::kPartitionsMax) {
    return absl::InvalidArgumentError(absl::StrCat("partitions: is ", options.partitions,
                                                   ", wants 1 to ", memory::kPartitionsMax));
  }
  auto store = std::make_unique<StoreImpl>(options);
  if (absl::Status status = store->Start(); !status.ok()) return status;
  return std::unique_ptr<StreamStore>(std::move(store));
}

absl::Status StoreImpl::Start() {
  memory::FileEnv& files = *options_.files;
  if (absl::Status status = memory::MakeDurableFolder(files, options_.directory); !status.ok()) {
    return status;
  }
  // First: its lock keeps a second process from clearing this one's staged files.
  auto db =
      RecordDb::Open(options_.directory + "/records", options_.cache_bytes, options_.record_env);
  if (!db.ok()) return db.status();
  db_ = *std::move(db);
  table_ = std::make_unique<StreamTable>(*db_);
  if (absl::Status status = LoadStoreRecord(); !status.ok()) return status;
  auto blobs = BlobStore::Open(files, options_.directory);
  if (!blobs.ok()) return blobs.status();
  blobs_ = *std::move(blobs);
  std::set<std::string> listed;
  if (absl::Status status = ScanStreams(&listed); !status.ok()) return status;
  if (absl::Status status = SweepBlobs(listed); !status.ok()) return status;
  if (options_.collect_every_ms > 0) collector_ = std::thread([this] { CollectLoop(); });
  return absl::OkStatus();
}

StoreImpl::~StoreImpl() {
  {
    std::lock_guard lock(stop_mu_);
    stop_ = true;
  }
  stop_changed_.notify_all();
  if (collector_.joinable()) collector_.join();
}

absl::Status StoreImpl::LoadStoreRecord() {
  auto bytes = db_->Get(StoreKey());
  record::v1::StoreRecord record;
  if (absl::IsNotFound(bytes.status())) {
    record.set_format(kStoreFormat);
    record.set_partitions(options_.partitions);
    record.set_next_log_id(1);
    rocksdb::WriteBatch batch;
    batch.Put(StoreKey(), record.SerializeAsString());
    return db_->Commit(&batch, /*sync=*/true);
  }
  if (!bytes.ok()) return bytes.status();
  if (!record.ParseFromString(*bytes) || record.format() == 0) {
    return absl::DataLossError(absl::StrCat(options_.directory, ": store record cannot be read"));
  }
  if (record.format() != kStoreFormat) {
    return absl::FailedPreconditionError(absl::StrCat(options_.directory,
                                                      ": format: the store has ", record.format(),
                                                      ", this program reads ", kStoreFormat));
  }
  if (record.partitions() != options_.partitions) {
    return absl::FailedPreconditionError(
        absl::StrCat(options_.directory, ": partitions: the store was made with ",
                     record.partitions(), ", the configuration says ", options_.partitions));
  }
  std::lock_guard lock(log_ids_mu_);
  next_log_id_ = reserved_log_id_ = record.next_log_id();
  return absl::OkStatus();
}

absl::StatusOr<memory::LogId> StoreImpl::NewLogId() {
  std::lock_guard lock(log_ids_mu_);
  if (next_log_id_ == reserved_log_id_) {
    record::v1::StoreRecord record;
    record.set_format(kStoreFormat);
    record.set_partitions(options_.partitions);
    record.set_next_log_id(reserved_log_id_ + kLogIdsReserved);
    rocksdb::WriteBatch batch;
    batch.Put(StoreKey(), record.SerializeAsString());
    LOLA_FAILPOINT("store.log_ids.before_commit");
    if (absl::Status status = db_->Commit(&batch, /*sync=*/true); !status.ok()) return status;
    reserved_log_id_ = record.next_log_id();
    LOLA_FAILPOINT("store.log_ids.after_commit");
  }
  return next_log_id_++;
}

absl::Status StoreImpl::ScanStreams(std::set<std::string>* blobs) {
  const int64_t now_ms = options_.clock->MonotonicMs();
  const memory::LogId reserved = [this] {
    std::lock_guard lock(log_ids_mu_);
    return reserved_log_id_;
  }();
  uint64_t streams = 0;
  uint64_t tokens = 0;
  absl::Status problem = absl::OkStatus();
  absl::Status status = db_->Scan("s", "", [&](std::string_view key, std::string_view value) {
    auto parsed = ParseRecord(key.substr(1), value);
    if (!parsed.ok()) {
      problem = absl::DataLossError(
          absl::StrCat(options_.directory, ": ", std::string(parsed.status().message())));
      return false;
    }
    const StreamRecord& record = *parsed;
    auto length = db_->LogLength(record.log(record.log_size() - 1).log_id());
    if (!length.ok()) {
      problem = length.status();
      return false;
    }
    for (const auto& segment : record.log()) {
      if (segment.log_id() < reserved) continue;
      problem = absl::DataLossError(absl::StrCat(
          options_.directory, ": stream ", memory::Quoted(record.stream_id()), " has log ",
          segment.log_id(), ", the store record says that only ids below ", reserved, " are used"));
      return false;
    }
    ++streams;
    tokens += *length;
    for (const auto& snapshot : record.snapshots()) blobs->insert(snapshot.info().blob_id());
    if (!record.owner().empty()) {
      leases_.AddStream(record.owner_instance(), now_ms + record.lease_ms());
    }
    NoteUnfinished(record);
    ScheduleExpiry(record, record.ttl_ms() / 16);  // the stored time of use may lag that much
    return true;
  });
  if (!problem.ok()) return problem;
  if (!status.ok()) return status;
  Count([&](StoreStats& counts) {
    counts.streams = streams;
    counts.log_tokens = tokens;
  });
  return absl::OkStatus();
}

// Removes blobs that no record names: a crash came between their rename and their commit, or before
// the collector reached them.
absl::Status StoreImpl::SweepBlobs(const std::set<std::string>& listed) {
  auto blobs = blobs_->List();
  if (!blobs.ok()) return blobs.status();
  for (const std::string& blob_id : *blobs) {
    if (listed.count(blob_id) == 0) {
      if (absl::Status status = blobs_->Remove(blob_id); !status.ok()) return status;
      continue;
    }
    auto size = blobs_->Size(blob_id);
    if (!size.ok()) return size.status();
    Count([&](StoreStats& counts) {
      ++counts.blobs;
      counts.blob_bytes += *size;
    });
  }
  return absl::OkStatus();
}

}  // namespace lola::store
