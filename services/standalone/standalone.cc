#include "services/standalone/standalone.h"

#include <grpcpp/channel.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <thread>
#include <utility>

#include "services/metrics/gateway_series.h"
#include "services/metrics/shard_series.h"
#include "services/rpc/logging.h"
#include "services/rpc/server_runner.h"
#include "services/worker/worker_series.h"

namespace lola::standalone {
namespace {

std::string ShardId(uint32_t index) { return "shard-" + std::to_string(index); }
// Written into stream records; the same after a restart.
std::string WorkerAddress(uint32_t index) { return "in-process-worker-" + std::to_string(index); }

absl::StatusOr<memory::PartitionMap> MakeMap(const StandaloneOptions& options) {
  std::vector<memory::ShardPlace> places;
  for (uint32_t i = 0; i < options.shards; ++i) {
    memory::ShardPlace place{ShardId(i), "in-process-" + ShardId(i), {}};
    for (uint32_t p = options.partitions * i / options.shards;
         p < options.partitions * (i + 1) / options.shards; ++p) {
      place.partitions.push_back(p);
    }
    places.push_back(std::move(place));
  }
  return memory::PartitionMap::FromShards(options.partitions, std::move(places));
}

// The folder remembers its layout: other numbers would hide streams that are there.
absl::Status CheckLayout(const StandaloneOptions& options) {
  std::error_code error;
  std::filesystem::create_directories(options.data, error);
  if (error) {
    return absl::UnavailableError("--data: cannot make '" + options.data + "': " + error.message());
  }
  const std::string path = options.data + "/layout";
  uint32_t shards = 0, partitions = 0;
  if (std::ifstream file(path); file >> shards >> partitions) {
    if (shards == options.shards && partitions == options.partitions) return absl::OkStatus();
    return absl::FailedPreconditionError(
        "--shards, --partitions: " + std::to_string(options.shards) + ", " +
        std::to_string(options.partitions) + "; folder '" + options.data + "' was made with " +
        std::to_string(shards) + ", " + std::to_string(partitions));
  }
  std::ofstream file(path + ".new");
  file << options.shards << " " << options.partitions << "\n";
  file.close();
  std::filesystem::rename(path + ".new", path, error);
  if (!file || error) return absl::UnavailableError("--data: cannot write '" + path + "'");
  return absl::OkStatus();
}

}  // namespace

struct Standalone::Impl {
  struct Shard {
    std::unique_ptr<shard::ShardService> service;
    std::unique_ptr<rpc::Server> server;
  };
  struct Worker {
    std::unique_ptr<worker::WorkerService> service;
    std::unique_ptr<rpc::Server> server;
  };
  // Destroyed in reverse: gateway, workers, shards.
  std::vector<Shard> shards;
  std::vector<Worker> workers;
  std::unique_ptr<gateway::GatewayService> gateway;

  ~Impl() {
    gateway.reset();
    for (Worker& worker : workers) worker.server->Shutdown(std::chrono::milliseconds(0));
    workers.clear();
    for (Shard& shard : shards) {
      shard.service->Drain();
      shard.server->Shutdown(std::chrono::milliseconds(0));
      shard.service->Stop();
    }
  }

  absl::Status StartShards(const StandaloneOptions& options, const memory::PartitionMap& map) {
    for (uint32_t i = 0; i < options.shards; ++i) {
      shard::ShardOptions own = options.shard;
      own.shard_id = ShardId(i);
      own.map = map;
      own.store.directory = options.data + "/" + own.shard_id;
      auto service = shard::ShardService::Create(own);
      if (!service.ok()) return service.status();
      auto server = rpc::Server::StartInProcess({(*service)->service()});
      if (!server.ok()) return server.status();
      (*server)->SetServing(true);
      shards.push_back({*std::move(service), *std::move(server)});
    }
    return absl::OkStatus();
  }

  absl::Status StartWorkers(const StandaloneOptions& options, const memory::PartitionMap& map,
                            const worker::ServedModel& served) {
    for (uint32_t i = 0; i < options.workers; ++i) {
      worker::WorkerOptions own = options.worker;
      own.map = map;
      if (own.compute.threads == 0) {
        own.compute.threads =
            std::max(1, static_cast<int>(std::thread::hardware_concurrency() / options.workers));
      }
      for (uint32_t s = 0; s < options.shards; ++s) {
        own.shards[ShardId(s)] = shards[s].server->InProcessChannel();
      }
      auto service = worker::WorkerService::Create(own, served);
      if (!service.ok()) return service.status();
      (*service)->SetAddress(WorkerAddress(i));
      auto server = rpc::Server::StartInProcess({(*service)->service()});
      if (!server.ok()) return server.status();
      (*server)->SetServing(true);
      workers.push_back({*std::move(service), *std::move(server)});
    }
    return absl::OkStatus();
  }

  absl::Status StartGateway(const StandaloneOptions& options, const memory::PartitionMap& map) {
    gateway::GatewayOptions own = options.gateway;
    own.map = map;
    for (uint32_t s = 0; s < options.shards; ++s) {
      own.shards[ShardId(s)] = shards[s].server->InProcessChannel();
    }
    for (uint32_t i = 0; i < options.workers; ++i) {
      own.workers.emplace_back(WorkerAddress(i), workers[i].server->InProcessChannel());
    }
    auto service = gateway::GatewayService::Create(own);
    if (service.ok()) gateway = *std::move(service);
    return service.status();
  }
};

absl::StatusOr<std::unique_ptr<Standalone>> Standalone::Create(const StandaloneOptions& options,
                                                               const worker::ServedModel& served) {
  if (options.data.empty()) return absl::InvalidArgumentError("--data: is required");
  if (options.workers == 0 || options.workers > 64) {
    return absl::InvalidArgumentError("--workers: " + std::to_string(options.workers) +
                                      " is outside [1, 64]");
  }
  if (options.shards == 0 || options.shards > options.partitions) {
    return absl::InvalidArgumentError("--shards: " + std::to_string(options.shards) +
                                      " is outside [1, " + std::to_string(options.partitions) +
                                      "], the number of partitions");
  }
  auto map = MakeMap(options);
  if (!map.ok()) return map.status();
  auto impl = std::make_unique<Impl>();
  absl::Status status = CheckLayout(options);
  if (status.ok()) status = impl->StartShards(options, *map);
  if (status.ok()) status = impl->StartWorkers(options, *map, served);
  if (status.ok()) status = impl->StartGateway(options, *map);
  if (!status.ok()) return status;
  return std::unique_ptr<Standalone>(new Standalone(std::move(impl)));
}

Standalone::Standalone(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Standalone::~Standalone() = default;

std::vector<grpc::Service*> Standalone::services() { return impl_->gateway->services(); }

gateway::GatewayStats Standalone::GatewayCounters() const { return impl_->gateway->Stats(); }

absl::Status Standalone::Health() const {
  for (const Impl::Shard& shard : impl_->shards) {
    if (absl::Status status = shard.service->Health(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

void Standalone::WriteSeries(metrics::Page& page) const {
  metrics::WriteGateway(impl_->gateway->Stats(), {}, page);
  for (size_t i = 0; i < impl_->workers.size(); ++i) {
    worker::WriteWorker(impl_->workers[i].service->Stats(),
                        {{"worker", WorkerAddress(static_cast<uint32_t>(i))}}, page);
  }
  for (size_t i = 0; i < impl_->shards.size(); ++i) {
    metrics::WriteShard(impl_->shards[i].service->Stats(),
                        {{"shard", ShardId(static_cast<uint32_t>(i))}}, page);
  }
}

void Standalone::Drain(std::chrono::milliseconds deadline) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  impl_->gateway->Drain(deadline / 2);
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
  // All at once: each has its snapshots to write.
  std::atomic<uint32_t> released{0};
  std::vector<std::thread> drains;
  for (Impl::Worker& worker : impl_->workers) {
    drains.emplace_back(
        [&] { released += worker.service->Drain(std::max(left, std::chrono::milliseconds(100))); });
  }
  for (std::thread& drain : drains) drain.join();
  rpc::LogInfo("drained", {{"streams", released.load()}});
}

}  // namespace lola::standalone
