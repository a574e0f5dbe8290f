#include "tests/bench/system/raw_stream.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>

#include "lola/v1/memory.grpc.pb.h"
#include "services/rpc/channel.h"
#include "services/rpc/server_runner.h"

namespace lola::bench {
namespace {

using grpc::ByteBuffer;

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "FAILED raw stream: %s\n", what.c_str());
  std::exit(1);
}

// Hands out a block of memory as messages that point into it.
class Pieces {
 public:
  Pieces(std::span<const char> bytes, size_t chunk) : rest_(bytes), chunk_(chunk) {}
  // False at the end.
  bool Next(ByteBuffer* message) {
    if (rest_.empty()) return false;
    const auto piece = rest_.first(std::min(chunk_, rest_.size()));
    rest_ = rest_.subspan(piece.size());
    const grpc::Slice slice(piece.data(), piece.size(), grpc::Slice::STATIC_SLICE);
    *message = ByteBuffer(&slice, 1);
    return true;
  }

 private:
  std::span<const char> rest_;
  const size_t chunk_;
};

class Receiver final : public grpc::ServerReadReactor<ByteBuffer> {
 public:
  explicit Receiver(size_t* received) : received_(received) { StartRead(&message_); }
  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    *received_ += message_.Length();
    StartRead(&message_);
  }
  void OnDone() override { delete this; }

 private:
  size_t* const received_;
  ByteBuffer message_;
};

class Sender final : public grpc::ServerWriteReactor<ByteBuffer> {
 public:
  explicit Sender(Pieces pieces) : pieces_(pieces) { OnWriteDone(true); }
  void OnWriteDone(bool ok) override {
    if (ok && pieces_.Next(&message_)) return StartWrite(&message_);
    Finish(grpc::Status::OK);
  }
  void OnDone() override { delete this; }

 private:
  Pieces pieces_;
  ByteBuffer message_;
};

using RawMethods = v1::Memory::WithRawCallbackMethod_PutSnapshot<
    v1::Memory::WithRawCallbackMethod_GetSnapshot<v1::Memory::Service>>;

class RawService final : public RawMethods {
 public:
  explicit RawService(size_t chunk) : chunk_(chunk) {}
  grpc::ServerReadReactor<ByteBuffer>* PutSnapshot(grpc::CallbackServerContext*,
                                                   ByteBuffer* reply) override {
    const grpc::Slice empty;
    *reply = ByteBuffer(&empty, 1);
    return new Receiver(&received);
  }
  grpc::ServerWriteReactor<ByteBuffer>* GetSnapshot(grpc::CallbackServerContext*,
                                                    const ByteBuffer*) override {
    return new Sender(Pieces(to_send, chunk_));
  }

  size_t received = 0;
  std::span<const char> to_send;

 private:
  const size_t chunk_;
};

// One call of the client: writes `pieces`, says that it is done, reads to the end.
class Transfer final : public grpc::ClientBidiReactor<ByteBuffer, ByteBuffer> {
 public:
  Transfer(grpc::TemplatedGenericStub<ByteBuffer, ByteBuffer>& stub, const char* method,
           Pieces pieces)
      : pieces_(pieces) {
    stub.PrepareBidiStreamingCall(&context_, method, {}, this);
    StartRead(&incoming_);
    OnWriteDone(true);
    StartCall();
  }
  size_t Wait() {
    const grpc::Status status = ended_.get_future().get();
    if (!status.ok()) Fail(status.error_message());
    return received_;
  }

 private:
  void OnWriteDone(bool ok) override {
    if (ok && !said_all_ && pieces_.Next(&outgoing_)) return StartWrite(&outgoing_);
    if (!said_all_) StartWritesDone();
    said_all_ = true;
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    received_ += incoming_.Length();
    StartRead(&incoming_);
  }
  void OnDone(const grpc::Status& status) override { ended_.set_value(status); }

  grpc::ClientContext context_;
  Pieces pieces_;
  ByteBuffer outgoing_, incoming_;
  bool said_all_ = false;
  size_t received_ = 0;
  std::promise<grpc::Status> ended_;
};

template <typename T>
T Get(absl::StatusOr<T> value) {
  if (!value.ok()) Fail(value.status().ToString());
  return *std::move(value);
}

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

struct RawStream::Impl {
  explicit Impl(size_t chunk_bytes)
      : chunk(chunk_bytes),
        service(chunk_bytes),
        server(Get(rpc::Server::Start({.bind = "127.0.0.1:0"}, {&service}))),
        stub(Get(rpc::MakeChannel(server->address()))) {}

  const size_t chunk;
  RawService service;
  std::unique_ptr<rpc::Server> server;
  grpc::TemplatedGenericStub<ByteBuffer, ByteBuffer> stub;
};

RawStream::RawStream(size_t chunk_bytes) : impl_(std::make_unique<Impl>(chunk_bytes)) {}
RawStream::~RawStream() = default;

double RawStream::Upload(std::span<const char> bytes) {
  impl_->service.received = 0;
  const auto start = std::chrono::steady_clock::now();
  Transfer transfer(impl_->stub, "/lola.v1.Memory/PutSnapshot", Pieces(bytes, impl_->chunk));
  transfer.Wait();
  const double seconds = SecondsSince(start);
  if (impl_->service.received != bytes.size()) Fail("bytes were lost on the way up");
  return seconds;
}

double RawStream::Download(std::span<const char> bytes) {
  impl_->service.to_send = bytes;
  static constexpr char kRequest[] = {0};  // one message, whatever is in it
  const auto start = std::chrono::steady_clock::now();
  Transfer transfer(impl_->stub, "/lola.v1.Memory/GetSnapshot",
                    Pieces(std::span(kRequest), impl_->chunk));
  if (transfer.Wait() != bytes.size()) Fail("bytes were lost on the way down");
  return SecondsSince(start);
}

}  // namespace lola::bench
