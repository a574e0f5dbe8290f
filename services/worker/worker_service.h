// lola.v1.Worker: an engine behind gRPC, over memory shards reached by channels. Usable in a
// process of its own (main.cc) or inside another one.
//
//   auto served = LoadServedModel("models/passkey-1m", dtype);
//   auto worker = WorkerService::Create(options, *served);
//   auto server = Server::Start(server_options, {(*worker)->service()});
//   (*worker)->SetAddress((*server)->address());          // before clients come
//   ...
//   (*worker)->Drain(deadline); server->Shutdown(grace);   // then destroy
//
// Every method may be called from any thread. Destroying the service without Drain loses nothing
// that was acknowledged: it is what kill -9 does. The server must be shut down before.
#ifndef LOLA_SERVICES_WORKER_WORKER_SERVICE_H_
#define LOLA_SERVICES_WORKER_WORKER_SERVICE_H_

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "memory/cluster/partition_map.h"
#include "services/engine/runtime/options.h"
#include "services/engine/runtime/statistics.h"
#include "services/worker/stage_client.h"

namespace grpc {
class Channel;
class Service;
}  // namespace grpc

namespace lola::engine {
class Model;
class Tokenizer;
}  // namespace lola::engine

namespace lola::worker {

// What computes, and how: of a worker, or of a stage.
struct ComputeOptions {
  std::string backend = "auto";  // "cpu", "cuda", "auto": cuda where it can be had
  int device = 0;                // index of the GPU
  bool batch_invariant = true;   // GPU: states do not depend on the batch (P2), see kernels/cuda
  int threads = 0;  // of the model's passes on the CPU; 0 = as many as the machine has processors
};

struct WorkerOptions {
  engine::EngineOptions engine;
  ComputeOptions compute;
  std::chrono::milliseconds lease{5'000};
  memory::PartitionMap map = memory::PartitionMap::SingleShard("shard-0", "");
  std::map<std::string, std::shared_ptr<grpc::Channel>> shards;  // by shard id
  // A pipeline: where the layers that the served model does not hold are, in order.
  std::vector<StageEndpoint> stages;
  std::string front = "worker";                      // our name for the stages
  std::chrono::milliseconds stage_patience{30'000};  // at start
};

// Weights and tokenizer; several workers of one process may share them.
struct ServedModel {
  std::string name;
  std::shared_ptr<const engine::Model> model;
  std::shared_ptr<const engine::Tokenizer> tokenizer;
};

// A model alone, for what never sees text.
struct NamedModel {
  std::string name;
  std::shared_ptr<const engine::Model> model;
};

// `source`: a model directory, or "random:<geometry>" (tiny, 100m, llama-3.2-1b, llama-3.1-8b).
// `dtype`: "float32", "bfloat16", "float8" or "int8". `layers`: the weights of these only, "4-7";
// empty = of all. Errors name the file or field and the value.
absl::StatusOr<NamedModel> LoadNamedModel(const std::string& source, const std::string& dtype,
                                          std::string_view layers = "");
absl::StatusOr<ServedModel> LoadServedModel(const std::string& source, const std::string& dtype,
                                            std::string_view layers = "");

class WorkerService {
 public:
  // INVALID_ARGUMENT for bad options or a shard without a channel; RESOURCE_EXHAUSTED when the
  // slots do not fit into memory; FAILED_PRECONDITION or UNAVAILABLE naming a stage that refused or
  // could not be reached.
  static absl::StatusOr<std::unique_ptr<WorkerService>> Create(const WorkerOptions& options,
                                                               const ServedModel& served);
  virtual ~WorkerService() = default;

  // To be registered on a server builder; owned by this object, which must outlive the server.
  virtual grpc::Service* service() = 0;
  // Where clients are sent to and what stream records name as owner.
  virtual void SetAddress(const std::string& address) = 0;
  virtual engine::EngineStatistics Stats() const = 0;
  virtual std::vector<StageLinkStats> StageStats() const = 0;  // of a pipeline, in order
  // OK while streams can be served. UNAVAILABLE while what runs the model is lost.
  virtual absl::Status Health() const = 0;
  // Releases all streams and accepts nothing new; returns when empty or a little after the
  // deadline. The number of streams released.
  virtual uint32_t Drain(std::chrono::milliseconds deadline) = 0;
};

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_WORKER_SERVICE_H_
