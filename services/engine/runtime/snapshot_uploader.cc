#include "services/engine/runtime/snapshot_uploader.h"

#include <cstring>
#include <utility>

#include "kernels/core/check.h"

namespace lola::engine {

// Equal page-aligned buffers, free ones in a list.
class SnapshotBuffers {
 public:
  SnapshotBuffers(std::shared_ptr<ResidentStates> states, size_t count, size_t bytes)
      : states_(std::move(states)), bytes_(bytes) {
    for (size_t i = 0; i < count; ++i) {
      std::byte* data = states_->AllocateHost(bytes);
      LOLA_CHECK(data != nullptr) << "snapshot buffer of " << bytes << " bytes";
      std::memset(data, 0, bytes);  // first touch of fresh memory is slow: not in a checkpoint
      free_.push_back(data);
      all_.push_back(data);
    }
  }
  ~SnapshotBuffers() {
    for (std::byte* data : all_) states_->FreeHost(data);
  }
  std::byte* Take() {
    std::lock_guard lock(mu_);
    if (free_.empty()) return nullptr;
    std::byte* data = free_.back();
    free_.pop_back();
    return data;
  }
  void Give(std::byte* data) {
    std::lock_guard lock(mu_);
    free_.push_back(data);
  }
  bool any_free() const {
    std::lock_guard lock(mu_);
    return !free_.empty();
  }
  size_t bytes() const { return bytes_; }

 private:
  const std::shared_ptr<ResidentStates> states_;
  const size_t bytes_;
  std::vector<std::byte*> all_;
  mutable std::mutex mu_;
  std::vector<std::byte*> free_;  // guarded by mu_
};

namespace {

// Pieces of a writer, kept alive together with the job that owns the record copy.
class JobBlob : public SnapshotBlob {
 public:
  explicit JobBlob(std::shared_ptr<SnapshotJob> job) : job_(std::move(job)) {}
  uint64_t size_bytes() const override { return job_->writer->size_bytes(); }
  std::span<const std::byte> Piece(uint64_t offset, size_t max_bytes) const override {
    return job_->writer->Piece(offset, max_bytes);
  }

 private:
  const std::shared_ptr<SnapshotJob> job_;
};

}  // namespace

SnapshotJob::~SnapshotJob() {
  if (buffers != nullptr && !record.empty()) buffers->Give(record.data());
}

SnapshotUploader::SnapshotUploader(std::shared_ptr<StreamBackend> backend,
                                   std::shared_ptr<ResidentStates> states, size_t buffers,
                                   size_t record_bytes_max)
    : backend_(std::move(backend)),
      buffers_(std::make_shared<SnapshotBuffers>(std::move(states), buffers, record_bytes_max)),
      thread_([this] { Loop(); }) {}

SnapshotUploader::~SnapshotUploader() {
  {
    std::lock_guard lock(mu_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

std::shared_ptr<SnapshotJob> SnapshotUploader::Take(size_t record_bytes) {
  LOLA_CHECK_LE(record_bytes, buffers_->bytes());
  std::byte* data = buffers_->Take();
  if (data == nullptr) return nullptr;
  auto job = std::make_shared<SnapshotJob>();
  job->buffers = buffers_;
  job->record = std::span(data, record_bytes);
  return job;
}

bool SnapshotUploader::HasBuffer() const { return buffers_->any_free(); }

void SnapshotUploader::Submit(std::shared_ptr<SnapshotJob> job) {
  {
    std::lock_guard lock(mu_);
    queue_.push_back(std::move(job));
  }
  wake_.notify_one();
}

void SnapshotUploader::Loop() {
  while (true) {
    std::shared_ptr<SnapshotJob> job;
    {
      std::unique_lock lock(mu_);
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      job = std::move(queue_.front());
      queue_.pop_front();
    }
    Upload(job);
  }
}

void SnapshotUploader::Upload(const std::shared_ptr<SnapshotJob>& job) {
  if (job->arrived) job->copied = std::exchange(job->arrived, nullptr)();
  if (!job->copied.ok()) return job->done(job->copied);
  if (!job->writer) {
    auto writer = memory::SnapshotWriter::Create(job->identity, *job->layout, job->record);
    if (!writer.ok()) return job->done(writer.status());
    job->writer.emplace(std::move(*writer));
  }
  PutSnapshotRequest request;
  request.stream_id = job->stream_id;
  request.epoch = job->epoch;
  request.position = job->position;
  const memory::Hash128& digest = job->writer->digest();
  request.digest.assign(reinterpret_cast<const char*>(digest.data()), digest.size());
  request.name = job->name;
  request.state_position = job->state_position;
  request.computed_by = job->computed_by;
  request.blob = std::make_shared<JobBlob>(job);
  backend_->PutSnapshot(std::move(request), job->done);
}

}  // namespace lola::engine
