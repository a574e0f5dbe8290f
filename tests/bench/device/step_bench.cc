// Whole steps of a model with random weights: decode by batch, prefill, snapshots beside decoding,
// the price of batch invariance.
#include <numeric>

#include "absl/strings/str_cat.h"
#include "tests/bench/device/step_world.h"

namespace lola::bench {
namespace {

std::vector<double> Decodes(StepWorld& world, int steps) {
  for (int i = 0; i < 3; ++i) world.Decode();  // eager, recorded, replayed
  std::vector<double> seconds;
  for (int i = 0; i < steps; ++i) seconds.push_back(world.Decode());
  return seconds;
}

// One stream's state is copied out at a time, always one under way: far more than a server does.
std::vector<double> DecodesWithSnapshots(StepWorld& world, int steps) {
  const size_t bytes = world.layout().stride_bytes();
  engine::PinnedBuffer host;
  Need(host.Allocate(world.device(), bytes, "snapshot"));
  world.Decode();
  std::vector<double> seconds;
  for (int i = 0; i < steps; ++i) {
    auto copy = world.arena().CopyOut(0, {host.data(), bytes});
    Need(copy.status());
    seconds.push_back(world.Decode());
    Need(copy->Wait());
  }
  return seconds;
}

std::shared_ptr<const engine::Model> MakeModel(const BenchOptions& options,
                                               const std::string& shape,
                                               engine::WeightDtype dtype) {
  auto config = engine::NamedGeometry(shape);
  Need(config.status());
  if (options.layers > 0) config->geometry.layers = options.layers;
  auto model = engine::Model::Random(*config, 7, {.dtype = dtype});
  Need(model.status());
  return *std::move(model);
}

// Two whole chunks of steps, so that their mean has every stream's events in it.
void RunBatch(const BenchOptions& options, BenchReport& report, StepWorld& world,
              const std::string& name, bool snapshots) {
  const double batch = double(world.batch());
  const int steps = options.smoke ? 4 : 2 * int(world.layout().settings().chunk);
  const double floor_us =
      report.FloorUs(DecodeWeightBytes(world.model()) + batch * StateBytesRead(world.layout()),
                     DecodeFlops(world.model()) * batch);
  const std::vector<double> seconds = Decodes(world, steps);
  const double mean = std::accumulate(seconds.begin(), seconds.end(), 0.0) / steps;
  AddSteps(report, "decode step", name, seconds, floor_us, batch);
  report.Add({"mean step", name, 1e6 * mean, 0, 0, floor_us, Rate(batch / mean, "tok")});
  if (!snapshots) return;
  AddSteps(report, "with snapshots", name, DecodesWithSnapshots(world, steps / 2), floor_us, batch);
  // Below that a copy per 512 tokens is too rare for what is measured here.
  if (world.batch() < 64 && !options.smoke) return;
  RunSnapshotRate(options, world, report, name, floor_us);
}

void RunPrefill(const BenchOptions& options, BenchReport& report,
                const std::shared_ptr<const engine::Model>& model, cuda::Device* device,
                const std::string& what, bool dense) {
  const size_t rows = options.smoke ? 64 : 2048;
  const std::string name = absl::StrCat(what, ", ", rows, " tokens a step");
  const double floor_us = report.FloorUs(PrefillWeightBytes(*model), PrefillFlops(*model) * rows);
  {
    StepWorld world(options, model, device, 1, rows);
    std::vector<int32_t> tokens(rows);
    for (size_t i = 0; i < rows; ++i) tokens[i] = int32_t(i * 7919 % model->geometry().vocab);
    std::vector<double> seconds;
    for (int i = 0; i < (options.smoke ? 2 : 16); ++i) seconds.push_back(world.Prefill(tokens));
    AddSteps(report, "prefill", name, {seconds.begin() + 1, seconds.end()}, floor_us, double(rows));
  }
  if (!dense) return;
  const Timing timing = TimeDense(options, *model, device, rows);
  report.Add({"prefill, dense part", name, 1e6 * timing.median_s, timing.spread, 0, floor_us,
              Rate(double(rows) / timing.median_s, "tok")});
}

void RunShape(const BenchOptions& options, BenchReport& report, const std::string& shape,
              engine::WeightDtype dtype) {
  const std::shared_ptr<const engine::Model> model = MakeModel(options, shape, dtype);
  const bool plain = dtype == engine::WeightDtype::kBFloat16;
  for (const bool invariant : {true, false}) {
    if (!invariant && !plain) continue;  // the kernels for narrow weights are the same
    const std::shared_ptr<cuda::Device> device = OpenDevice(options, invariant);
    const std::string what =
        absl::StrCat(shape, ", ", model->geometry().layers, " layers, ", kernels::DtypeName(dtype),
                     " weights", invariant ? "" : ", not batch-invariant");
    for (const size_t batch : options.batches) {
      StepWorld world(options, model, device.get(), batch, 1);
      const std::string name =
          absl::StrCat(what, ", B ", world.batch(), batch == kFullBatch ? " (full)" : "");
      RunBatch(options, report, world, name, invariant && plain);
    }
    RunPrefill(options, report, model, device.get(), what, invariant);
  }
}

}  // namespace

void RunSteps(const BenchOptions& options, BenchReport& report) {
  using engine::WeightDtype;
  std::vector<std::string> shapes = {"llama-3.2-1b", "llama-3.1-8b"};
  if (options.smoke) shapes = {"tiny"};
  if (!options.smoke && !options.geometry.empty()) shapes = {options.geometry};
  for (const std::string& shape : shapes) {
    for (const WeightDtype dtype :
         {WeightDtype::kBFloat16, WeightDtype::kFloat8, WeightDtype::kInt8}) {
      if (!options.dtype.empty() && options.dtype != kernels::DtypeName(dtype)) continue;
      RunShape(options, report, shape, dtype);
    }
  }
}

}  // namespace lola::bench
