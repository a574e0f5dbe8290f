#include "services/memory/stream_calls.h"

#include "absl/strings/str_cat.h"
#include "memory/limits.h"

namespace lola::shard {
namespace {

// Messages in, one reply. Steps: read a message, take it on a thread of ours, read the next.
class PutSnapshotCall : public grpc::ServerReadReactor<v1::PutSnapshotRequest> {
 public:
  PutSnapshotCall(ShardCalls& calls, grpc::CallbackServerContext* context, v1::SnapshotInfo* reply)
      : calls_(calls), context_(context), reply_(reply) {
    if (absl::Status status = calls.AdmitAny(); !status.ok()) {
      End(status);
    } else {
      StartRead(&message_);
    }
  }

  void OnReadDone(bool ok) override {
    if (ok && upload_ == nullptr) {
      // The first message: from here on the call is admitted or refused.
      absl::Status status = CheckHeader();
      if (status.ok()) status = calls_.Start([this] { Begin(); });
      if (!status.ok()) End(status);
    } else if (ok) {
      calls_.Continue([this] { Take(); });
    } else {
      calls_.Continue([this] { Commit(); });
    }
  }

  void OnDone() override { delete this; }

 private:
  absl::Status CheckHeader() const {
    if (!message_.has_header()) {
      return absl::InvalidArgumentError("part: the first message carries no header");
    }
    return calls_.AdmitStream(message_.header().stream_id());
  }

  void Begin() {
    auto upload = calls_.store().PutSnapshot(message_.header());
    if (!upload.ok()) return End(upload.status());
    upload_ = *std::move(upload);
    StartRead(&message_);
  }

  void Take() {
    absl::Status status = absl::OkStatus();
    if (message_.part_case() != v1::PutSnapshotRequest::kData) {
      status = absl::InvalidArgumentError("part: a message behind the header carries no data");
    } else if (message_.data().size() > memory::kSnapshotChunkBytesMax) {
      status = absl::InvalidArgumentError(absl::StrCat("data: a message has ",
                                                       message_.data().size(), " bytes, at most ",
                                                       memory::kSnapshotChunkBytesMax));
    } else {
      status = upload_->Write(message_.data());
    }
    if (!status.ok()) return End(status);
    StartRead(&message_);
  }

  void Commit() {
    if (context_->IsCancelled()) return End(absl::CancelledError("the caller is gone"));
    if (upload_ == nullptr) {
      return End(absl::InvalidArgumentError("part: the call ended before its header"));
    }
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
  v1::PutSnapshotRequest message_;
  std::unique_ptr<store::SnapshotUpload> upload_;
};

// One request, messages out. `Source` makes them: absl::Status Open(store), then
// absl::StatusOr<bool> Next(message*) until false.
template <typename Message, typename Source>
class PullCall : public grpc::ServerWriteReactor<Message> {
 public:
  template <typename Request>
  PullCall(ShardCalls& calls, grpc::CallbackServerContext* context, const Request* request)
      : calls_(calls), context_(context) {
    absl::Status status = calls.Admit(request->stream_id());
    if (status.ok()) {
      status = calls.Start([this, request] {
        if (absl::Status opened = source_.Open(calls_.store(), *request); !opened.ok()) {
          return End(opened);
        }
        Step();
      });
    }
    if (!status.ok()) End(status);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("the caller is gone"));
    calls_.Continue([this] { Step(); });
  }

  void OnDone() override { delete this; }

 private:
  void Step() {
    if (context_->IsCancelled()) return End(absl::CancelledError("the caller is gone"));
    auto more = source_.Next(&message_);
    if (!more.ok() || !*more) return End(more.status());
    this->StartWrite(&message_);
  }

  void End(const absl::Status& status) { this->Finish(calls_.End(status)); }

  ShardCalls& calls_;
  grpc::CallbackServerContext* const context_;
  Source source_;
  Message message_;
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
    auto piece = download_->Next(memory::kSnapshotChunkBytes);
    if (!piece.ok()) return piece.status();
    chunk->mutable_data()->assign(piece->data(), piece->size());  // keeps its buffer
    return !piece->empty();
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
