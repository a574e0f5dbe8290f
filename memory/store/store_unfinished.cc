// Streams whose copy from another shard is under way: seen by their copier only, gone when it is.
#include <vector>

#include "absl/strings/str_cat.h"
#include "memory/env/failpoint.h"
#include "memory/store/store_impl.h"

namespace lola::store {

absl::Status StoreImpl::CheckFinished(const StreamRecord& record) {
  if (!record.unfinished()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("stream ", memory::Quoted(record.stream_id()),
                                             " is being copied from ",
                                             memory::Quoted(record.parent()), ", not there yet"));
}

absl::StatusOr<LockedStream> StoreImpl::LockFinished(std::string_view stream_id) {
  auto stream = table_->LockExisting(stream_id);
  if (!stream.ok()) return stream;
  if (absl::Status status = CheckFinished((*stream)->record); !status.ok()) return status;
  return stream;
}

void StoreImpl::NoteUnfinished(const StreamRecord& record) {
  if (!record.unfinished()) return;
  std::lock_guard lock(unfinished_mu_);
  unfinished_.insert(record.stream_id());
}

// A copier keeps its lease while it lives. Between its Create and its Acquire there is none.
bool StoreImpl::CopierGone(const StreamRecord& record) const {
  if (!record.owner().empty()) return !LeaseRuns(record);
  return options_.clock->UnixMs() - record.created_unix_ms() >= memory::kUnfinishedMsMax;
}

absl::Status StoreImpl::DropUnfinished() {
  std::vector<std::string> ids;
  {
    std::lock_guard lock(unfinished_mu_);
    ids.assign(unfinished_.begin(), unfinished_.end());
  }
  absl::Status problem = absl::OkStatus();
  for (const std::string& id : ids) {
    auto stream = table_->Lock(id);
    if (!stream.ok()) {  // keeps nobody from the others
      problem = stream.status();
      continue;
    }
    const bool unfinished = stream->exists() && (*stream)->record.unfinished();
    if (unfinished && !CopierGone((*stream)->record)) continue;
    LOLA_FAILPOINT("store.drop_unfinished.before_commit");
    if (unfinished) {
      if (absl::Status status = DeleteLocked(**stream); !status.ok()) return status;
    }
    // The stream is still locked: a copy that starts anew is noted after this.
    std::lock_guard lock(unfinished_mu_);
    unfinished_.erase(id);
  }
  return problem;
}

}  // namespace lola::store
