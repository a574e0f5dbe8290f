#include "tests/services/engine/runtime/fake_backend.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "memory/snapshot/verify.h"

namespace lola::engine {

absl::StatusOr<FakeStore::Entry*> FakeStore::Find(const std::string& id) {
  if (unavailable) return absl::UnavailableError("shard is away");
  auto found = streams_.find(id);
  if (found == streams_.end()) return absl::NotFoundError(absl::StrCat("stream ", id));
  return &found->second;
}

absl::StatusOr<StreamRecord> FakeStore::Create(const CreateRequest& request) {
  std::lock_guard lock(mu_);
  if (unavailable) return absl::UnavailableError("shard is away");
  if (streams_.contains(request.stream_id)) return absl::AlreadyExistsError(request.stream_id);
  Entry& entry = streams_[request.stream_id];
  entry.record.stream_id = request.stream_id;
  entry.record.model_fingerprint = request.model_fingerprint;
  entry.record.settings = request.settings;
  entry.record.sampling = request.sampling;
  entry.record.state_bytes = request.state_bytes;
  entry.record.labels = request.labels;
  return entry.record;
}

absl::StatusOr<StreamRecord> FakeStore::Describe(const std::string& id) {
  std::lock_guard lock(mu_);
  auto entry = Find(id);
  if (!entry.ok()) return entry.status();
  return (*entry)->record;
}

absl::StatusOr<AcquiredStream> FakeStore::Acquire(const AcquireRequest& request,
                                                  const std::string& worker) {
  std::lock_guard lock(mu_);
  auto entry = Find(request.stream_id);
  if (!entry.ok()) return entry.status();
  StreamRecord& record = (*entry)->record;
  if (!record.owner.empty() && record.owner != worker && !request.takeover) {
    return absl::FailedPreconditionError(absl::StrCat("owner: ", record.owner));
  }
  record.owner = worker;
  ++record.owner_epoch;
  const std::string previous = std::exchange(record.instruction_class, request.instruction_class);
  return AcquiredStream{record, record.owner_epoch, previous};
}

absl::Status FakeStore::Release(const std::string& id, uint64_t epoch) {
  std::lock_guard lock(mu_);
  auto entry = Find(id);
  if (!entry.ok()) return entry.status();
  if ((*entry)->record.owner_epoch != epoch) return absl::AbortedError("stale epoch");
  (*entry)->record.owner.clear();
  return absl::OkStatus();
}

AppendResult FakeStore::Append(const AppendEntry& request) {
  std::lock_guard lock(mu_);
  ++appends_;
  auto found = Find(request.stream_id);
  if (!found.ok()) return {found.status(), 0};
  Entry& entry = **found;
  if (entry.record.owner_epoch != request.epoch) {
    return {absl::AbortedError(
                absl::StrCat("stale epoch ", request.epoch, ", it is ", entry.record.owner_epoch)),
            0};
  }
  for (const TokenRun& run : request.runs) {
    for (size_t i = 0; i < run.ids.size(); ++i) {
      const uint64_t position = run.position + i;
      if (position > entry.tokens.size()) return {absl::FailedPreconditionError("hole"), 0};
      if (position < entry.tokens.size()) {
        if (entry.tokens[position].first == run.ids[i]) continue;
        return {absl::FailedPreconditionError("different token"), 0};
      }
      entry.tokens.emplace_back(run.ids[i], run.author);
    }
  }
  entry.record.committed_position = entry.tokens.size();
  return {absl::OkStatus(), entry.tokens.size()};
}

absl::StatusOr<std::vector<TokenRun>> FakeStore::Read(const std::string& id, uint64_t from,
                                                      uint64_t to) {
  std::lock_guard lock(mu_);
  auto found = Find(id);
  if (!found.ok()) return found.status();
  const Entry& entry = **found;
  if (from < entry.trimmed || to > entry.tokens.size()) {
    return absl::OutOfRangeError(absl::StrCat("tokens [", from, ", ", to, ") of [", entry.trimmed,
                                              ", ", entry.tokens.size(), ")"));
  }
  std::vector<TokenRun> runs;
  for (uint64_t p = from; p < to; ++p) {
    if (runs.empty() || runs.back().author != entry.tokens[p].second) {
      runs.push_back({p, entry.tokens[p].second, {}});
    }
    runs.back().ids.push_back(entry.tokens[p].first);
  }
  return runs;
}

absl::StatusOr<SnapshotRecord> FakeStore::PutSnapshot(const PutSnapshotRequest& request) {
  std::string bytes;
  while (bytes.size() < request.blob->size_bytes()) {
    const auto piece = request.blob->Piece(bytes.size(), 64 << 10);
    bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  auto preface = memory::VerifyBlob(std::as_bytes(std::span(bytes)));
  if (!preface.ok()) return preface.status();
  std::lock_guard lock(mu_);
  if (refuse_snapshots) return absl::InternalError("disk is full");
  auto found = Find(request.stream_id);
  if (!found.ok()) return found.status();
  Entry& entry = **found;
  if (entry.record.owner_epoch != request.epoch) return absl::AbortedError("stale epoch");
  if (request.position > entry.tokens.size()) {
    return absl::FailedPreconditionError("snapshot is ahead of the log");
  }
  SnapshotRecord snapshot;
  snapshot.blob_id = absl::StrCat("blob-", next_blob_++);
  snapshot.position = request.position;
  snapshot.digest = request.digest;
  snapshot.size_bytes = bytes.size();
  snapshot.name = request.name;
  snapshot.state_position = request.state_position;
  snapshot.computed_by = request.computed_by;
  entry.blobs[snapshot.blob_id] = std::move(bytes);
  entry.record.snapshots.push_back(snapshot);
  // Retention: the newest two automatic ones and all named ones.
  size_t automatic = 0;
  for (size_t i = entry.record.snapshots.size(); i-- > 0;) {
    if (!entry.record.snapshots[i].name.empty() || ++automatic <= 2) continue;
    entry.blobs.erase(entry.record.snapshots[i].blob_id);
    entry.record.snapshots.erase(entry.record.snapshots.begin() + ptrdiff_t(i));
  }
  return snapshot;
}

absl::StatusOr<std::string> FakeStore::GetSnapshot(const std::string& id, const std::string& blob) {
  std::lock_guard lock(mu_);
  auto found = Find(id);
  if (!found.ok()) return found.status();
  auto bytes = (*found)->blobs.find(blob);
  if (bytes == (*found)->blobs.end()) return absl::NotFoundError(blob);
  return bytes->second;
}

std::vector<int32_t> FakeStore::Tokens(const std::string& id) {
  std::lock_guard lock(mu_);
  std::vector<int32_t> ids;
  for (const auto& [token, author] : streams_[id].tokens) ids.push_back(token);
  return ids;
}

StreamRecord FakeStore::Record(const std::string& id) {
  std::lock_guard lock(mu_);
  auto found = streams_.find(id);
  return found == streams_.end() ? StreamRecord() : found->second.record;
}

void FakeStore::CorruptSnapshots(const std::string& id, size_t count) {
  std::lock_guard lock(mu_);
  Entry& entry = streams_[id];
  for (size_t i = entry.record.snapshots.size(); i-- > 0 && count > 0; --count) {
    std::string& bytes = entry.blobs[entry.record.snapshots[i].blob_id];
    bytes[bytes.size() / 2] ^= 0x10;
  }
}

void FakeStore::Steal(const std::string& id) {
  std::lock_guard lock(mu_);
  ++streams_[id].record.owner_epoch;
  streams_[id].record.owner = "thief";
}

void FakeStore::Rewind(const std::string& id, uint64_t position) {
  std::lock_guard lock(mu_);
  Entry& entry = streams_[id];
  entry.tokens.resize(position);
  std::erase_if(entry.record.snapshots,
                [position](const SnapshotRecord& s) { return s.position > position; });
  entry.record.committed_position = position;
  entry.record.owner.clear();
  ++entry.record.owner_epoch;
}

void FakeStore::ForgetClasses(const std::string& id) {
  std::lock_guard lock(mu_);
  StreamRecord& record = streams_[id].record;
  record.instruction_class.clear();
  for (SnapshotRecord& snapshot : record.snapshots) snapshot.computed_by.clear();
}

void FakeStore::Trim(const std::string& id, uint64_t before) {
  std::lock_guard lock(mu_);
  streams_[id].trimmed = before;
}

FakeBackend::FakeBackend(std::shared_ptr<FakeStore> store, std::string worker)
    : store_(std::move(store)), worker_(std::move(worker)), thread_([mailbox = mailbox_] {
        while (true) {
          std::function<void()> task;
          {
            std::unique_lock lock(mailbox->mu);
            mailbox->wake.wait(lock, [&] { return mailbox->stopping || !mailbox->tasks.empty(); });
            if (mailbox->stopping) return;
            task = std::move(mailbox->tasks.front());
            mailbox->tasks.pop_front();
          }
          task();
        }
      }) {}

FakeBackend::~FakeBackend() {
  {
    std::lock_guard lock(mailbox_->mu);
    mailbox_->stopping = true;
  }
  mailbox_->wake.notify_all();
  if (thread_.get_id() == std::this_thread::get_id()) {
    thread_.detach();
  } else {
    thread_.join();
  }
}

void FakeBackend::Do(std::function<void()> task) {
  {
    std::lock_guard lock(mailbox_->mu);
    mailbox_->tasks.push_back(std::move(task));
  }
  mailbox_->wake.notify_one();
}

template <typename T>
void FakeBackend::Answer(std::function<absl::StatusOr<T>()> work, Callback<T> done) {
  Do([work = std::move(work), done = std::move(done)] { done(work()); });
}

size_t FakeBackend::ShardOf(std::string_view stream_id) const {
  return std::hash<std::string_view>()(stream_id) % FakeStore::kShards;
}

void FakeBackend::Create(CreateRequest request, Callback<StreamRecord> done) {
  Answer<StreamRecord>([this, request] { return store_->Create(request); }, std::move(done));
}

void FakeBackend::Describe(std::string stream_id, Callback<StreamRecord> done) {
  Answer<StreamRecord>([this, stream_id] { return store_->Describe(stream_id); }, std::move(done));
}

void FakeBackend::Acquire(AcquireRequest request, Callback<AcquiredStream> done) {
  Answer<AcquiredStream>([this, request] { return store_->Acquire(request, worker_); },
                         std::move(done));
}

void FakeBackend::Renew(StatusCallback done) {
  ++renewals;
  if (mute_renewals) return;
  Do([done] { done(absl::OkStatus()); });
}

void FakeBackend::Release(std::string stream_id, uint64_t epoch, StatusCallback done) {
  Do([this, stream_id, epoch, done] { done(store_->Release(stream_id, epoch)); });
}

void FakeBackend::Append(size_t shard, std::shared_ptr<const AppendBatch> batch,
                         Callback<std::vector<AppendResult>> done) {
  if (hold_appends) {
    // To the end of the queue, so that other calls pass by.
    Do([this, shard, batch, done] {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      Append(shard, batch, done);
    });
    return;
  }
  Do([this, batch, done] {
    if (append_delay_us > 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(append_delay_us));
    }
    if (store_->unavailable) return done(absl::UnavailableError("shard is away"));
    if (batch->entries.size() > batch_max) return done(absl::ResourceExhaustedError("too many"));
    std::vector<AppendResult> results;
    for (const AppendEntry& entry : batch->entries) results.push_back(store_->Append(entry));
    if (store_->lose_append_answers > 0) {
      --store_->lose_append_answers;
      return done(absl::UnavailableError("the answer was lost"));
    }
    done(std::move(results));
  });
}

void FakeBackend::ReadTokens(std::string stream_id, uint64_t from, uint64_t to,
                             Callback<std::vector<TokenRun>> done) {
  Do([this, stream_id, from, to, done] {
    if (!hold_reads) return done(store_->Read(stream_id, from, to));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ReadTokens(stream_id, from, to, done);
  });
}

void FakeBackend::PutSnapshot(PutSnapshotRequest request, Callback<SnapshotRecord> done) {
  Answer<SnapshotRecord>([this, request] { return store_->PutSnapshot(request); }, std::move(done));
}

struct FakeBackend::Download {
  std::string bytes;
  size_t at = 0;
  ByteSink sink;
  StatusCallback done;
};

void FakeBackend::GetSnapshot(std::string stream_id, std::string blob_id, ByteSink sink,
                              StatusCallback done) {
  Do([this, stream_id, blob_id, sink, done] {
    auto bytes = store_->GetSnapshot(stream_id, blob_id);
    if (!bytes.ok()) return done(bytes.status());
    Continue(std::make_shared<Download>(Download{*std::move(bytes), 0, sink, done}));
  });
}

void FakeBackend::Continue(std::shared_ptr<Download> download) {
  const auto all = std::as_bytes(std::span(download->bytes));
  absl::Status status;
  for (size_t& at = download->at; status.ok() && at < all.size(); at += 10'000) {
    if (hold_downloads && at > 0) {
      return Do([this, download] {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        Continue(download);
      });
    }
    status = download->sink(all.subspan(at, std::min<size_t>(10'000, all.size() - at)));
  }
  ++downloads;
  download->done(status.ok() ? status : absl::CancelledError("the receiver refused"));
}

}  // namespace lola::engine
