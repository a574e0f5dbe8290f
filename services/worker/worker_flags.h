// The worker's own options, shared by lola-worker and lola-standalone. Used from main only.
#ifndef LOLA_SERVICES_WORKER_WORKER_FLAGS_H_
#define LOLA_SERVICES_WORKER_WORKER_FLAGS_H_

#include <chrono>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/rpc/options.h"
#include "services/worker/runner.h"
#include "services/worker/worker_service.h"

namespace lola::worker {

struct WorkerFlags {
  std::string model = "models/passkey-1m";
  std::string dtype = "float32";
  WorkerOptions options;  // `map` and `shards` are not flags of this set
  rpc::Bytes slot_bytes{0};
  std::string instructions = "auto";
  // A pipeline: see RegisterPipelineFlags.
  std::string layers;
  std::vector<std::string> stages;
  std::chrono::milliseconds stage_deadline{60'000};
};

// --model --dtype --backend --device --batch-invariant --instructions --threads --lease --slots
// --slot-bytes
// --open-streams --idle-demote
// --idle-release --slot-slice --step-rows --prefill-rows --checkpoint-interval --snapshot-buffers
// --uncommitted-tokens --queued-operations --queued-tokens --shard-patience.
void RegisterWorkerFlags(rpc::OptionSet& set, WorkerFlags* flags);
// --layers --stages --stage-patience --stage-deadline: lola-worker only, one front per stage.
void RegisterPipelineFlags(rpc::OptionSet& set, WorkerFlags* flags);
// --backend --device --batch-invariant --instructions --threads, of a worker or a stage.
void RegisterComputeFlags(rpc::OptionSet& set, ComputeOptions* options, std::string* instructions);
// Makes --instructions hold for this process. INVALID_ARGUMENT naming what the machine has.
// REQUIRES: before a model is loaded.
absl::Status ApplyInstructions(const std::string& instructions);
// INVALID_ARGUMENT when one of --layers and --stages is given without the other, or for a deadline
// that no step can keep.
absl::Status CheckPipelineFlags(const WorkerFlags& flags);
WorkerOptions ToOptions(const WorkerFlags& flags);

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_WORKER_FLAGS_H_
