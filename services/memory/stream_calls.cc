#include "services/memory/stream_calls.h"

#include <atomic>

#include "absl/strings/str_cat.h"
#include "memory/limits.h"

namespace lola::shard {
namespace {

// Messages in, one reply. Two messages take turns: while one is taken on a thread of ours, the next
// one comes in.
class PutSnapshotCall : public grpc::ServerReadReactor<v1::PutSnapshotRequest> {
 public:
  PutSnapshotCall(ShardCalls& calls, grpc::CallbackServerContext* context, v1::SnapshotInfo* reply)
      : calls_(calls), context_(context), reply_(reply) {
    if (absl::Status status = calls.AdmitAny(); !status.ok()) {
      End(status);
    } else {
      StartRead(&messages_[0]);
    }
  }

  void OnReadDone(bool ok) override {
    if (begun_) {
      more_ = ok;
      if (--under_way_ == 0) calls_.Continue([this] { Go(); });
    } else if (ok) {
      // The first message: from here on the call is admitted or refused.
      absl::Status status = CheckHeader();
      if (status.ok()) status = calls_.Start([this] { Begin(); });
      if (!status.ok()) End(status);
    } else {
      End(absl::InvalidArgumentError("part: the call ended before its header"));
    }
  }

  void OnDone() override { delete this; }

 private:
  absl::Status CheckHeader() const {
    if (!messages_[0].has_header()) {
      return absl::InvalidArgumentError("part: the first message carries no header");
    }
    return calls_.AdmitStream(messages_[0].header().stream_id());
  }

  void Begin() {
    auto upload = calls_.store().PutSnapshot(messages_[0].header());
    if (!upload.ok()) return End(upload.status());
    upload_ = *std::move(upload);
    begun_ = true;
    under_way_ = 1;
    StartRead(&messages_[0]);
  }

  // A message has come (or the end of all), the one before it was taken.
  void Go() {
    do {
      if (!more_) return Commit();
      const v1::PutSnapshotRequest& message = messages_[current_];
      current_ = 1 - current_;
      under_way_ = 2;
      StartRead(&messages_[current_]);
      // On an error the read is left alone: its end brings under_way_ to 1, and nothing follows.
      if (absl::Status status = Take(message); !status.ok()) return End(status);
    } while (--under_way_ == 0);
  }

  absl::Status Take(const v1::PutSnapshotRequest& message) {
    if (message.part_case() != v1::PutSnapshotRequest::kData) {
      return absl::InvalidArgumentError("part: a message behind the header carries no data");
    }
    if (message.data().size() > memory::kSnapshotChunkBytesMax) {
      return absl::InvalidArgumentError(absl::StrCat("data: a message has ", message.data().size(),
                                                     " bytes, at most ",
                                                     memory::kSnapshotChunkBytesMax));
    }
    return upload_->Write(message.data());
  }

  void Commit() {
    if (context_->IsCancelled()) return End(absl::CancelledError("the caller is gone"));
    auto info = upload_->Commit();
    if (info.ok()) *reply_ = *std::move(info);
    End(info.status());
  }

  // Last: this may be gone when it returns.
  void End(const absl::Status& status) {
    upload_.reset();  // removes what was staged before the caller can know
    Finish(calls_.End(status));
  }

  ShardCalls& calls_;
  grpc::CallbackServerContext* const context_;
  v1::SnapshotInfo* const reply_;
  v1::PutSnapshotRequest messages_[2];
  bool begun_ = false;             // the header was taken
  std::atomic<int> under_way_{0};  // of: reading the next message, taking this one
  int current_ = 0;                // being read; it and upload_ belong to whoever runs Go
  bool more_ = false;
  std::unique_ptr<store::SnapshotUpload> upload_;
};

// One request, messages out. `Source` makes them: absl::Status Open(store), then
// absl::StatusOr<bool> Next(message*) until false. Two messages take turns: while one is written,
// the next one is made.
template <typename Message, typename Source>
class PullCall : public grpc::ServerWriteReactor<Message> {
 public:
  template <typename Request>
  PullCall(ShardCalls& calls, grpc::CallbackServerContext* context, const Request* request)
      : calls_(calls), context_(context) {
    absl::Status status = calls.Admit(request->stream_id());
    if (status.ok()) {
      status = calls.StartSending([this, request] {
        if (absl::Status opened = source_.Open(calls_.store(), *request); !opened.ok()) {
          return End(opened);
        }
        more_ = source_.Next(&messages_[0]);
        Go();
      });
    }
    sending_ = status.ok();
    if (!status.ok()) End(status);
  }
  ~PullCall() override {
    if (sending_) calls_.EndSending();
  }

  void OnWriteDone(bool ok) override {
    if (!ok) caller_gone_ = true;
    if (--under_way_ == 0) calls_.Continue([this] { Go(); });
  }

  void OnDone() override { delete this; }

 private:
  // A message is made (or there is none), the one before it was written.
  void Go() {
    do {
      if (caller_gone_ || context_->IsCancelled()) {
        return End(absl::CancelledError("the caller is gone"));
      }
      if (!more_.ok() || !*more_) return End(more_.status());
      under_way_ = 2;
      this->StartWrite(&messages_[current_]);
      current_ = 1 - current_;
      more_ = source_.Next(&messages_[current_]);
    } while (--under_way_ == 0);
  }

  void End(const absl::Status& status) { this->Finish(calls_.End(status)); }

  ShardCalls& calls_;
  grpc::CallbackServerContext* const context_;
  Source source_;
  Message messages_[2];
  std::atomic<int> under_way_{0};  // of: writing this message, making the next one
  std::atomic<bool> caller_gone_{false};
  bool sending_ = false;  // counted as open
  int current_ = 0;       // to be written; it and more_ belong to whoever runs Go
  absl::StatusOr<bool> more_ = false;
};

class SnapshotSource {
 public:
  absl::Status Open(store::StreamStore& store, const v1::GetSnapshotRequest& request) {
    auto download = store.GetSnapshot(request);
    if (!download.ok()) return download.status();
    download_ = *std::move(download);
    return absl::OkStatus();
  }
  absl::StatusOr<bool> Next(v1::SnapshotChunk* chunk) {
    absl::Status status = download_->Next(memory::kSnapshotChunkBytes, chunk->mutable_data());
    if (!status.ok()) return status;
    return !chunk->data().empty();
  }

 private:
  std::unique_ptr<store::SnapshotDownload> download_;
};

class TokenSource {
 public:
  absl::Status Open(store::StreamStore& store, const v1::ReadTokensRequest& request) {
    auto reader = store.ReadTokens(request);
    if (!reader.ok()) return reader.status();
    reader_ = *std::move(reader);
    return absl::OkStatus();
  }
  absl::StatusOr<bool> Next(v1::TokenRun* run) { return reader_->Next(run); }

 private:
  std::unique_ptr<store::TokenReader> reader_;
};

}  // namespace

grpc::ServerReadReactor<v1::PutSnapshotRequest>* NewPutSnapshotCall(
    ShardCalls& calls, grpc::CallbackServerContext* context, v1::SnapshotInfo* reply) {
  return new PutSnapshotCall(calls, context, reply);
}

grpc::ServerWriteReactor<v1::SnapshotChunk>* NewGetSnapshotCall(
    ShardCalls& calls, grpc::CallbackServerContext* context,
    const v1::GetSnapshotRequest* request) {
  return new PullCall<v1::SnapshotChunk, SnapshotSource>(calls, context, request);
}

grpc::ServerWriteReactor<v1::TokenRun>* NewReadTokensCall(ShardCalls& calls,
                                                          grpc::CallbackServerContext* context,
                                                          const v1::ReadTokensRequest* request) {
  return new PullCall<v1::TokenRun, TokenSource>(calls, context, request);
}

}  // namespace lola::shard
