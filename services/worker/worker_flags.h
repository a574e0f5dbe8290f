// The worker's own options, shared by lola-worker and lola-standalone. Used from main only.
#ifndef LOLA_SERVICES_WORKER_WORKER_FLAGS_H_
#define LOLA_SERVICES_WORKER_WORKER_FLAGS_H_

#include <string>

#include "services/rpc/options.h"
#include "services/worker/worker_service.h"

namespace lola::worker {

struct WorkerFlags {
  std::string model = "models/passkey-1m";
  std::string dtype = "float32";
  WorkerOptions options;  // `map` and `shards` are not flags of this set
  rpc::Bytes slot_bytes{0};
};

// --model --dtype --backend --device --batch-invariant --threads --lease --slots --slot-bytes
// --open-streams --idle-demote
// --idle-release --slot-slice --step-rows --prefill-rows --checkpoint-interval --snapshot-buffers
// --uncommitted-tokens --queued-operations --queued-tokens --shard-patience.
void RegisterWorkerFlags(rpc::OptionSet& set, WorkerFlags* flags);
WorkerOptions ToOptions(const WorkerFlags& flags);

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_WORKER_FLAGS_H_
