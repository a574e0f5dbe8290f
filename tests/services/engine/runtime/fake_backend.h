// Memory shards in the test's own memory, with the promises of the real ones: epochs checked at
// every write, appends repeatable, snapshots verified before they are visible. The store outlives
// engines, as shards outlive workers. Things can be broken on purpose.
// Thread-safe.
#ifndef LOLA_TESTS_SERVICES_ENGINE_RUNTIME_FAKE_BACKEND_H_
#define LOLA_TESTS_SERVICES_ENGINE_RUNTIME_FAKE_BACKEND_H_

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "services/engine/runtime/stream_backend.h"

namespace lola::engine {

class FakeStore {
 public:
  static constexpr size_t kShards = 2;

  absl::StatusOr<StreamRecord> Create(const CreateRequest& request);
  absl::StatusOr<StreamRecord> Describe(const std::string& id);
  absl::StatusOr<AcquiredStream> Acquire(const AcquireRequest& request, const std::string& worker);
  absl::Status Release(const std::string& id, uint64_t epoch);
  AppendResult Append(const AppendEntry& entry);
  absl::StatusOr<std::vector<TokenRun>> Read(const std::string& id, uint64_t from, uint64_t to);
  absl::StatusOr<SnapshotRecord> PutSnapshot(const PutSnapshotRequest& request);
  absl::StatusOr<std::string> GetSnapshot(const std::string& id, const std::string& blob);

  // What tests look at and break.
  std::vector<int32_t> Tokens(const std::string& id);
  StreamRecord Record(const std::string& id);
  // Flips one byte in the newest `count` snapshots.
  void CorruptSnapshots(const std::string& id, size_t count);
  // Another worker takes the stream.
  void Steal(const std::string& id);
  // As a rewind at the shard: forgets tokens and snapshots beyond `position`, epoch + 1, no owner.
  void Rewind(const std::string& id, uint64_t position);
  void Trim(const std::string& id, uint64_t before);
  // As a record of a release that did not know who computed what.
  void ForgetClasses(const std::string& id);
  uint64_t appends() const { return appends_; }

  std::atomic<bool> unavailable{false};
  std::atomic<int> lose_append_answers{0};  // so many appends are done but answered UNAVAILABLE
  std::atomic<bool> refuse_snapshots{false};

 private:
  struct Entry {
    StreamRecord record;
    std::vector<std::pair<int32_t, TokenAuthor>> tokens;
    uint64_t trimmed = 0;
    std::map<std::string, std::string> blobs;
  };
  absl::StatusOr<Entry*> Find(const std::string& id);

  std::mutex mu_;
  std::map<std::string, Entry> streams_;  // guarded by mu_
  uint64_t next_blob_ = 1;                // guarded by mu_
  std::atomic<uint64_t> appends_{0};
};

// One worker's view of a store. Calls are answered in order by a thread of its own.
class FakeBackend : public StreamBackend {
 public:
  FakeBackend(std::shared_ptr<FakeStore> store, std::string worker);
  ~FakeBackend() override;

  size_t shards() const override { return FakeStore::kShards; }
  size_t ShardOf(std::string_view stream_id) const override;
  void Create(CreateRequest request, Callback<StreamRecord> done) override;
  void Describe(std::string stream_id, Callback<StreamRecord> done) override;
  void Acquire(AcquireRequest request, Callback<AcquiredStream> done) override;
  void Renew(StatusCallback done) override;
  void Release(std::string stream_id, uint64_t epoch, StatusCallback done) override;
  void Append(size_t shard, std::shared_ptr<const AppendBatch> batch,
              Callback<std::vector<AppendResult>> done) override;
  void ReadTokens(std::string stream_id, uint64_t from, uint64_t to,
                  Callback<std::vector<TokenRun>> done) override;
  void PutSnapshot(PutSnapshotRequest request, Callback<SnapshotRecord> done) override;
  void GetSnapshot(std::string stream_id, std::string blob_id, ByteSink sink,
                   StatusCallback done) override;

  std::atomic<bool> hold_appends{false};  // they wait until this is false again
  std::atomic<int> append_delay_us{0};
  std::atomic<bool> hold_downloads{false};  // the same, of all but a snapshot's first pieces
  std::atomic<bool> hold_reads{false};      // the same, of ReadTokens
  std::atomic<int> downloads{0};            // that have ended
  std::atomic<bool> mute_renewals{false};   // they are never answered
  std::atomic<int> renewals{0};             // that were asked for
  std::atomic<size_t> batch_max{SIZE_MAX};  // batches of more streams are refused, as by a shard

 private:
  struct Download;
  void Continue(std::shared_ptr<Download> download);
  void Do(std::function<void()> task);
  template <typename T>
  void Answer(std::function<absl::StatusOr<T>()> work, Callback<T> done);

  const std::shared_ptr<FakeStore> store_;
  const std::string worker_;
  // The thread's own too: an answer that runs on it may drop the last reference to the backend.
  struct Mailbox {
    std::mutex mu;
    std::condition_variable wake;
    std::deque<std::function<void()>> tasks;  // guarded by mu
    bool stopping = false;                    // guarded by mu
  };
  const std::shared_ptr<Mailbox> mailbox_ = std::make_shared<Mailbox>();
  std::thread thread_;
};

}  // namespace lola::engine

#endif  // LOLA_TESTS_SERVICES_ENGINE_RUNTIME_FAKE_BACKEND_H_
