#include "services/worker/shard_transfers.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "memory/limits.h"
#include "services/rpc/status_map.h"
#include "services/worker/convert.h"

namespace lola::worker {
namespace {

class ReadTokensCall final : public grpc::ClientReadReactor<v1::TokenRun> {
 public:
  ReadTokensCall(v1::Memory::Stub& stub, std::string stream_id, uint64_t from, uint64_t to,
                 std::chrono::milliseconds deadline,
                 engine::StreamBackend::Callback<std::vector<engine::TokenRun>> done)
      : next_(from), to_(to), done_(std::move(done)) {
    request_.set_stream_id(std::move(stream_id));
    request_.set_from(from);
    request_.set_to(to);
    context_.set_deadline(std::chrono::system_clock::now() + deadline);
    stub.async()->ReadTokens(&context_, &request_, this);
    StartRead(&message_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (hole_.ok() && message_.position() != next_) {
      hole_ = absl::DataLossError(
          absl::StrCat("log: tokens at position ", message_.position(), " came, expected ", next_));
    }
    next_ = message_.position() + uint64_t(message_.ids_size());
    runs_.push_back(FromProto(message_));
    StartRead(&message_);
  }

  void OnDone(const grpc::Status& status) override {
    absl::Status result = rpc::FromGrpc(status);
    if (result.ok()) result = hole_;
    if (result.ok() && next_ != to_) {
      result = absl::DataLossError(
          absl::StrCat("log: the answer ends at position ", next_, ", asked for up to ", to_));
    }
    if (result.ok()) {
      done_(std::move(runs_));
    } else {
      done_(result);
    }
    delete this;
  }

 private:
  grpc::ClientContext context_;
  v1::ReadTokensRequest request_;
  v1::TokenRun message_;
  uint64_t next_;
  const uint64_t to_;
  absl::Status hole_;
  std::vector<engine::TokenRun> runs_;
  engine::StreamBackend::Callback<std::vector<engine::TokenRun>> done_;
};

// Two messages take turns: while one is written, the next one is filled.
class PutSnapshotCall final : public grpc::ClientWriteReactor<v1::PutSnapshotRequest> {
 public:
  PutSnapshotCall(v1::Memory::Stub& stub, engine::PutSnapshotRequest request,
                  std::chrono::milliseconds deadline,
                  engine::StreamBackend::Callback<engine::SnapshotRecord> done)
      : request_(std::move(request)), done_(std::move(done)) {
    v1::PutSnapshotHeader& header = *messages_[0].mutable_header();
    header.set_stream_id(request_.stream_id);
    header.set_epoch(request_.epoch);
    header.set_position(request_.position);
    header.set_digest(request_.digest);
    header.set_size_bytes(request_.blob->size_bytes());
    header.set_name(request_.name);
    header.set_state_position(request_.state_position);
    header.mutable_instruction_classes()->Add(request_.computed_by.begin(),
                                              request_.computed_by.end());
    context_.set_deadline(std::chrono::system_clock::now() + deadline);
    stub.async()->PutSnapshot(&context_, &reply_, this);
    AddHold();  // until the last write: messages are filled outside of reactions too
    StartCall();
    Go();
  }

  void OnWriteDone(bool ok) override {
    if (!ok) refused_ = true;  // the shard has answered already: OnDone says what
    if (--under_way_ == 0) Go();
  }

  void OnDone(const grpc::Status& status) override {
    if (status.ok()) {
      done_(FromProto(reply_));
    } else {
      done_(rpc::FromGrpc(status));
    }
    delete this;
  }

 private:
  // A message is filled (or there is none), the one before it was written.
  void Go() {
    do {
      if (!refused_ && more_) {
        under_way_ = 2;
        StartWrite(&messages_[current_]);
        current_ = 1 - current_;
        more_ = Fill(messages_[current_]);
      } else {
        if (!refused_) StartWritesDone();
        return RemoveHold();  // last: this may be gone when it returns
      }
    } while (--under_way_ == 0);
  }

  bool Fill(v1::PutSnapshotRequest& message) {
    const auto piece = request_.blob->Piece(offset_, memory::kSnapshotChunkBytes);
    offset_ += piece.size();
    message.mutable_data()->assign(reinterpret_cast<const char*>(piece.data()), piece.size());
    return !piece.empty();
  }

  grpc::ClientContext context_;
  const engine::PutSnapshotRequest request_;
  v1::PutSnapshotRequest messages_[2];
  v1::SnapshotInfo reply_;
  std::atomic<int> under_way_{0};  // of: writing this message, filling the next one
  std::atomic<bool> refused_{false};
  int current_ = 0;  // to be written; it and what follows belong to whoever runs Go
  bool more_ = true;
  uint64_t offset_ = 0;
  engine::StreamBackend::Callback<engine::SnapshotRecord> done_;
};

// Two messages take turns: while one is taken, the next one comes in.
class GetSnapshotCall final : public grpc::ClientReadReactor<v1::SnapshotChunk> {
 public:
  GetSnapshotCall(v1::Memory::Stub& stub, std::string stream_id, std::string blob_id,
                  std::chrono::milliseconds deadline, engine::StreamBackend::ByteSink sink,
                  engine::StreamBackend::StatusCallback done)
      : sink_(std::move(sink)), done_(std::move(done)) {
    request_.set_stream_id(std::move(stream_id));
    request_.set_blob_id(std::move(blob_id));
    context_.set_deadline(std::chrono::system_clock::now() + deadline);
    stub.async()->GetSnapshot(&context_, &request_, this);
    StartRead(&messages_[0]);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    more_ = ok;
    if (--under_way_ == 0) Go();
  }

  void OnDone(const grpc::Status& status) override {
    done_(rpc::FromGrpc(status));
    delete this;
  }

 private:
  // A message has come (or the end of all), the one before it was taken. Runs in the reaction that
  // brought the message, or in the one before it that is still under way: OnDone waits for both.
  void Go() {
    do {
      if (!more_) return;
      const v1::SnapshotChunk& message = messages_[current_];
      current_ = 1 - current_;
      under_way_ = 2;
      StartRead(&messages_[current_]);
      // The read then fails, brings under_way_ to 1, and nothing follows.
      if (!sink_(std::as_bytes(std::span(message.data()))).ok()) return context_.TryCancel();
    } while (--under_way_ == 0);
  }

  grpc::ClientContext context_;
  v1::GetSnapshotRequest request_;
  v1::SnapshotChunk messages_[2];
  std::atomic<int> under_way_{1};  // of: reading the next message, taking this one
  int current_ = 0;                // being read; it belongs to whoever runs Go
  bool more_ = false;
  engine::StreamBackend::ByteSink sink_;
  engine::StreamBackend::StatusCallback done_;
};

}  // namespace

void StartReadTokens(v1::Memory::Stub& stub, std::string stream_id, uint64_t from, uint64_t to,
                     std::chrono::milliseconds deadline,
                     engine::StreamBackend::Callback<std::vector<engine::TokenRun>> done) {
  new ReadTokensCall(stub, std::move(stream_id), from, to, deadline, std::move(done));
}

void StartPutSnapshot(v1::Memory::Stub& stub, engine::PutSnapshotRequest request,
                      std::chrono::milliseconds deadline,
                      engine::StreamBackend::Callback<engine::SnapshotRecord> done) {
  new PutSnapshotCall(stub, std::move(request), deadline, std::move(done));
}

void StartGetSnapshot(v1::Memory::Stub& stub, std::string stream_id, std::string blob_id,
                      std::chrono::milliseconds deadline, engine::StreamBackend::ByteSink sink,
                      engine::StreamBackend::StatusCallback done) {
  new GetSnapshotCall(stub, std::move(stream_id), std::move(blob_id), deadline, std::move(sink),
                      std::move(done));
}

}  // namespace lola::worker
