// lola-stage: wiring only.
#include "services/metrics/serve.h"
#include "services/rpc/logging.h"
#include "services/rpc/options.h"
#include "services/rpc/server_runner.h"
#include "services/worker/stage_service.h"
#include "services/worker/worker_flags.h"
#include "services/worker/worker_series.h"
#include "services/worker/worker_service.h"

namespace {

constexpr char kProgram[] = "lola-stage";

struct Flags {
  lola::rpc::ServerOptions server;
  lola::rpc::LogOptions log;
  std::string metrics_bind = "127.0.0.1:9431";
  std::string model = "models/passkey-1m";
  std::string dtype = "float32";
  std::string layers;
  lola::worker::ComputeOptions compute;
  std::string instructions = "auto";
};

void Register(lola::rpc::OptionSet& set, Flags& flags) {
  flags.server.bind = "127.0.0.1:50081";
  lola::rpc::RegisterServerOptions(set, &flags.server);
  lola::rpc::RegisterLogOptions(set, &flags.log);
  set.Add("metrics-bind", &flags.metrics_bind, "host:port of /metrics; empty: off");
  set.Add("model", &flags.model,
          "model directory, or random:<geometry> (tiny, 100m, llama-3.2-1b, llama-3.1-8b)");
  set.Add("dtype", &flags.dtype, "of the weight matrices: float32 | bfloat16 | float8 | int8");
  set.Add("layers", &flags.layers, "which layers of the model: 16-31, counted from 0; required");
  lola::worker::RegisterComputeFlags(set, &flags.compute, &flags.instructions);
  set.SetExamples(
      "Example: a model of 32 layers in two processes, of which the gateway knows the worker\n"
      "  lola-stage --bind 127.0.0.1:50081 --layers 16-31 --model DIR\n"
      "  lola-worker --layers 0-15 --stages 127.0.0.1:50081 --map map.json --model DIR");
}

}  // namespace

int main(int argc, char** argv) {
  lola::rpc::PrepareProcess();
  Flags flags;
  lola::rpc::OptionSet set(kProgram, "Runs some layers of a model for a lola-worker.");
  Register(set, flags);
  auto outcome = set.Parse(argc, argv);
  if (!outcome.ok()) return lola::rpc::ReportFatal(kProgram, outcome.status());
  if (*outcome == lola::rpc::OptionSet::Outcome::kHelpShown) return 0;
  absl::Status status = lola::rpc::InitLogging(flags.log, kProgram);
  if (status.ok()) status = lola::rpc::CheckBind(flags.server);
  if (status.ok() && flags.layers.empty()) {
    status = absl::InvalidArgumentError("--layers: is required");
  }
  if (status.ok()) status = lola::worker::ApplyInstructions(flags.instructions);
  if (!status.ok()) return lola::rpc::ReportFatal(kProgram, status);
  auto named = lola::worker::LoadNamedModel(flags.model, flags.dtype, flags.layers);
  if (!named.ok()) return lola::rpc::ReportFatal(kProgram, named.status());
  auto maker = lola::worker::MakeStages(flags.compute, *named->model);
  if (!maker.ok()) return lola::rpc::ReportFatal(kProgram, maker.status());
  auto stage = lola::worker::StageService::Create({named->name, *maker}, named->model);
  if (!stage.ok()) return lola::rpc::ReportFatal(kProgram, stage.status());
  return lola::metrics::Serve({
      .program = kProgram,
      .server = flags.server,
      .metrics_bind = flags.metrics_bind,
      .services = {(*stage)->service()},
      .series = [&](auto& page) { lola::worker::WriteStage((*stage)->Stats(), page); },
      .health = [&] { return (*stage)->Health(); },
      .drain = [&](std::chrono::milliseconds) { (*stage)->Stop(); },
  });
}
