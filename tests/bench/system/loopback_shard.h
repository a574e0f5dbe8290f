// A shard that listens on a loopback socket, and a worker's client of it, in this process. For
// benchmarks: whatever fails ends the program.
#ifndef LOLA_TESTS_BENCH_SYSTEM_LOOPBACK_SHARD_H_
#define LOLA_TESTS_BENCH_SYSTEM_LOOPBACK_SHARD_H_

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "services/memory/shard_service.h"
#include "services/rpc/channel.h"
#include "services/rpc/server_runner.h"
#include "services/worker/shard_backend.h"

namespace lola::bench {

[[noreturn]] inline void Fail(const std::string& what) {
  std::fprintf(stderr, "FAILED %s\n", what.c_str());
  std::exit(1);
}
inline void Check(const absl::Status& status) {
  if (!status.ok()) Fail(status.ToString());
}
template <typename T>
T Check(absl::StatusOr<T> value) {
  Check(value.status());
  return *std::move(value);
}

// Waits for the answer of a call that takes a callback.
template <typename T>
T Await(const std::function<void(std::function<void(absl::StatusOr<T>)>)>& call) {
  std::promise<absl::StatusOr<T>> promise;
  call([&](absl::StatusOr<T> result) { promise.set_value(std::move(result)); });
  return Check(promise.get_future().get());
}

class LoopbackShard {
 public:
  explicit LoopbackShard(const std::string& folder) {
    shard::ShardOptions options;
    options.store.directory = folder;
    shard_ = Check(shard::ShardService::Create(options));
    server_ = Check(rpc::Server::Start({.bind = "127.0.0.1:0"}, {shard_->service()}));
    worker::ShardBackendOptions client;
    client.shards["shard-0"] = Check(rpc::MakeChannel(server_->address()));
    client.instance = "benchmark";
    client.lease = std::chrono::minutes(10);
    backend_ = Check(worker::ShardBackend::Create(client));
    backend_->SetAddress("127.0.0.1:1");
  }
  ~LoopbackShard() {
    server_->Shutdown(std::chrono::milliseconds(100));
    shard_->Stop();
  }
  LoopbackShard(const LoopbackShard&) = delete;
  LoopbackShard& operator=(const LoopbackShard&) = delete;

  const std::shared_ptr<worker::ShardBackend>& client() { return backend_; }

 private:
  std::unique_ptr<shard::ShardService> shard_;
  std::unique_ptr<rpc::Server> server_;
  std::shared_ptr<worker::ShardBackend> backend_;
};

}  // namespace lola::bench

#endif  // LOLA_TESTS_BENCH_SYSTEM_LOOPBACK_SHARD_H_
