// The whole system in one process: memory shards, workers and a gateway, the same code as the
// separate processes, joined by in-process channels, over one folder on disk.
//
//   auto system = Standalone::Create(options, served);
//   Server::Start(server_options, (*system)->services());
//   ...
//   (*system)->Drain(deadline); server->Shutdown(grace);   // then destroy
//
// Create, Drain and destruction from one thread; the rest from any.
#ifndef LOLA_SERVICES_STANDALONE_STANDALONE_H_
#define LOLA_SERVICES_STANDALONE_STANDALONE_H_

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/gateway/gateway_service.h"
#include "services/memory/shard_service.h"
#include "services/metrics/exporter.h"
#include "services/worker/worker_service.h"

namespace lola::standalone {

struct StandaloneOptions {
  std::string data;  // folder of everything; made when missing, one process at a time
  uint32_t workers = 1;
  uint32_t shards = 1;  // fixed when the folder is made
  uint32_t partitions = memory::kPartitionsDefault;
  worker::WorkerOptions worker;     // `map` and `shards` are filled here
  gateway::GatewayOptions gateway;  // as above
  shard::ShardOptions shard;        // as above; `store.directory` too
};

class Standalone {
 public:
  // FAILED_PRECONDITION when the folder was made with another number of shards; the errors of the
  // three services otherwise.
  static absl::StatusOr<std::unique_ptr<Standalone>> Create(const StandaloneOptions& options,
                                                            const worker::ServedModel& served);
  ~Standalone();

  // Inference and Cluster.
  std::vector<grpc::Service*> services();
  // Series of all parts, labelled with worker and shard.
  void WriteSeries(metrics::Page& page) const;
  gateway::GatewayStats GatewayCounters() const;
  // OK, or why the folder must be opened anew: the disk failed a shard. Any thread.
  absl::Status Health() const;
  // Calls end, streams are released with a snapshot.
  void Drain(std::chrono::milliseconds deadline);

 private:
  struct Impl;
  explicit Standalone(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lola::standalone

#endif  // LOLA_SERVICES_STANDALONE_STANDALONE_H_
