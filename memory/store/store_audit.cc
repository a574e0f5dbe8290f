#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "memory/store/keys.h"
#include "memory/store/store_impl.h"

namespace lola::store {
namespace {

std::string Readable(const std::string& key) { return absl::CHexEscape(key); }

// Keys that are in one set only, as problems.
void Compare(const std::set<std::string>& wanted, const std::set<std::string>& found,
             const std::string& what, std::vector<std::string>* problems) {
  for (const std::string& key : wanted) {
    if (found.count(key) == 0) problems->push_back(what + " is missing: " + Readable(key));
  }
  for (const std::string& key : found) {
    if (wanted.count(key) == 0) problems->push_back(what + " is spare: " + Readable(key));
  }
}

}  // namespace

absl::StatusOr<std::vector<std::string>> StoreImpl::Audit() {
  std::vector<std::string> problems;
  std::set<std::string> refs_wanted, refs_found, blobs_wanted, blobs_found;
  std::set<uint64_t> logs_wanted, logs_found;
  std::vector<std::string> ids;
  absl::Status scan = db_->Scan("s", "", [&](std::string_view key, std::string_view value) {
    StreamRecord record;
    if (!record.ParseFromArray(value.data(), int(value.size()))) {
      problems.push_back("record cannot be read: " + Readable(std::string(key)));
      return true;
    }
    ids.push_back(record.stream_id());
    for (const auto& segment : record.log()) {
      refs_wanted.insert(LogRefKey(segment.log_id(), record.stream_uid()) + "=" +
                         LogRefValue(segment.from(), segment.upto()));
      logs_wanted.insert(segment.log_id());
    }
    for (const auto& snapshot : record.snapshots()) {
      refs_wanted.insert(BlobRefKey(snapshot.info().blob_id(), record.stream_uid()) + "=");
      blobs_wanted.insert(snapshot.info().blob_id());
    }
    return true;
  });
  if (!scan.ok()) return scan;
  for (const char* kind : {"l", "b"}) {
    scan = db_->Scan(kind, "", [&](std::string_view key, std::string_view value) {
      refs_found.insert(absl::StrCat(std::string(key), "=", std::string(value)));
      return true;
    });
    if (!scan.ok()) return scan;
  }
  // What waits for the collector may still be there.
  scan = db_->Scan("x", "", [&](std::string_view key, auto) {
    if (IsLogGarbage(key)) {
      logs_wanted.insert(GarbageLog(key));
    } else if (const std::string blob_id = GarbageBlob(key); blobs_->Size(blob_id).ok()) {
      blobs_wanted.insert(blob_id);
    }
    return true;
  });
  if (!scan.ok()) return scan;
  auto blobs = blobs_->List();
  if (!blobs.ok()) return blobs.status();
  blobs_found.insert(blobs->begin(), blobs->end());
  std::unique_ptr<rocksdb::Iterator> it = db_->NewLogIterator();
  for (it->SeekToFirst(); it->Valid(); it->Next()) logs_found.insert(GetBe64(ToView(it->key())));
  if (!it->status().ok()) return db_->ToStatus(it->status());

  Compare(refs_wanted, refs_found, "reference", &problems);
  Compare(blobs_wanted, blobs_found, "blob", &problems);
  for (const uint64_t log_id : logs_found) {  // a log without tokens has no block at all
    if (logs_wanted.count(log_id) == 0) problems.push_back(absl::StrCat("log is spare: ", log_id));
  }
  for (const std::string& id : ids) {
    auto stream = table_->Lock(id);
    if (!stream.ok()) return stream.status();
    if (!stream->exists()) continue;
    LogCursor cursor(*db_, (*stream)->record, 0, (*stream)->committed);
    for (;;) {
      auto tokens = cursor.Next();
      if (!tokens.ok()) problems.push_back(std::string(tokens.status().message()));
      if (!tokens.ok() || tokens->empty()) break;
    }
  }
  return problems;
}

}  // namespace lola::store
