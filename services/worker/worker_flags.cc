#include "services/worker/worker_flags.h"

#include <algorithm>
#include <chrono>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "kernels/core/cpu.h"

namespace lola::worker {
namespace {

constexpr std::chrono::milliseconds kStageDeadlineMin{100};

}  // namespace

void RegisterComputeFlags(rpc::OptionSet& set, ComputeOptions* options, std::string* instructions) {
  set.Add("backend", &options->backend, "what runs the model: auto | cpu | cuda");
  set.Add("device", &options->device, "which GPU, counted from 0");
  set.Add("batch-invariant", &options->batch_invariant,
          "GPU: the same state whatever else is in the batch; false: faster products, states may "
          "differ, and no reply says that a stream goes on bit for bit");
  set.Add("instructions", instructions,
          "CPU: auto, or the class that all machines of a cluster have (avx2), so that streams "
          "move between them bit for bit");
  set.Add("threads", &options->threads, "threads of the model; 0: all processors");
}

absl::Status ApplyInstructions(const std::string& instructions) {
  if (instructions == "auto") return absl::OkStatus();
  std::string known = "auto";
  for (const std::string_view name : kernels::InstructionClasses()) {
    known += ", " + std::string(name);
  }
  if (kernels::LimitInstructionClass(instructions)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("instructions: \"", instructions, "\" (this machine has: ", known, ")"));
}

void RegisterWorkerFlags(rpc::OptionSet& set, WorkerFlags* flags) {
  engine::EngineOptions& engine = flags->options.engine;
  set.Add("model", &flags->model,
          "model directory, or random:<geometry> (tiny, 100m, llama-3.2-1b, llama-3.1-8b) for "
          "benchmarks");
  set.Add("dtype", &flags->dtype, "of the weight matrices: float32 | bfloat16 | float8 | int8");
  RegisterComputeFlags(set, &flags->options.compute, &flags->instructions);
  set.Add("lease", &flags->options.lease,
          "how long a silent worker's streams stay its own, unless somebody takes over");
  set.Add("slots", &engine.slots, "stream states in memory at the same time");
  set.Add("slot-bytes", &flags->slot_bytes,
          "size of a slot; 0: what the model's default settings need");
  set.Add("open-streams", &engine.open_streams_max, "streams owned at the same time, at most");
  set.Add("idle-demote", &engine.idle_demote, "an idle state leaves its slot after this");
  set.Add("idle-release", &engine.idle_release,
          "an idle stream without clients is given back after this");
  set.Add("slot-slice", &engine.slot_slice,
          "a running stream makes room for a waiting one after this");
  set.Add(
      "step-rows", &engine.step_rows,
      "tokens in one pass of the model, at most; 0: 2048 on a GPU, 256 on a CPU or in a pipeline");
  set.Add("prefill-rows", &engine.prefill_rows_beside_decode,
          "of them for prefill while other streams decode; 0: an eighth, but at least 64");
  set.Add("checkpoint-interval", &engine.checkpoint_tokens,
          "tokens between automatic snapshots: what a recovery replays at most");
  set.Add("snapshot-buffers", &engine.snapshot_buffers, "state copies on their way to shards");
  set.Add("uncommitted-tokens", &engine.uncommitted_tokens_max,
          "sampled tokens of a stream that the log has not acknowledged, at most");
  set.Add("queued-operations", &engine.ops_per_stream_max, "operations of one stream, at most");
  set.Add("queued-tokens", &engine.queued_tokens_max, "waiting client tokens, at most");
  set.Add("shard-patience", &engine.unavailable_deadline,
          "streams wait so long for a shard that is away");
}

void RegisterPipelineFlags(rpc::OptionSet& set, WorkerFlags* flags) {
  set.Add("layers", &flags->layers,
          "first layers of the model, which run here: 0-15; the others run in --stages");
  set.Add("stages", &flags->stages,
          "host:port of the lola-stage processes with the other layers, in order");
  set.Add("stage-patience", &flags->options.stage_patience,
          "at start: stages that cannot be reached are waited for so long");
  set.Add("stage-deadline", &flags->stage_deadline,
          "a stage that is there but does not answer for so long is given up; longer than a step");
}

absl::Status CheckPipelineFlags(const WorkerFlags& flags) {
  if (flags.stage_deadline < kStageDeadlineMin) {
    return absl::InvalidArgumentError(
        absl::StrCat("--stage-deadline: ", flags.stage_deadline.count(), " ms, must be at least ",
                     kStageDeadlineMin.count()));
  }
  if (flags.layers.empty() == flags.stages.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      flags.layers.empty()
          ? "--stages needs --layers: the first layers, which run here"
          : "--layers: '" + flags.layers + "' needs --stages: where the other layers are");
}

WorkerOptions ToOptions(const WorkerFlags& flags) {
  WorkerOptions options = flags.options;
  options.engine.slot_bytes = flags.slot_bytes.value;
  options.engine.lease_renewal = std::max(std::chrono::milliseconds(20), options.lease / 4);
  return options;
}

}  // namespace lola::worker
