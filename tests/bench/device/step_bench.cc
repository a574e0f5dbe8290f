// Whole steps of a model with random weights: decode by batch, prefill, snapshots beside decoding,
// the price of batch invariance.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/engine/model.h"
#include "services/engine/weights.h"
#include "tests/bench/device/bench_world.h"
#include "tests/bench/support/bench_timer.h"

namespace lola::bench {
namespace {

constexpr size_t kStagings = 2;

// A stepper and its streams; one decode step advances all of them by the tokens they sample.
class StepWorld {
 public:
  StepWorld(const BenchOptions& options, std::shared_ptr<const engine::Model> model,
            cuda::Device* device, size_t batch, size_t rows)
      : model_(std::move(model)),
        layout_(model_->geometry(), BenchSettings(options, 768, memory::CacheSharing::kGroup)),
        streams_(device, layout_, batch, kStagings),
        tokens_(batch, 1) {
    auto stepper = engine::DeviceStepper::Create(
        model_, device, streams_.arena.get(),
        {.rows_max = std::max(rows, batch), .logits_rows_max = std::min<size_t>(batch, 256)});
    Need(stepper.status());
    stepper_ = *std::move(stepper);
  }

  // Seconds of one decode step, from the call to the tokens.
  double Decode() {
    std::vector<engine::DeviceSegment> segments(tokens_.size());
    for (size_t i = 0; i < segments.size(); ++i) {
      segments[i].slot = i;
      segments[i].layout = &layout_;
      segments[i].tokens = {&tokens_[i], 1};
      segments[i].sampling = &greedy_;
    }
    const double start = Now(Clock::kWall);
    Need(stepper_->Step(segments, nullptr));
    const double seconds = Now(Clock::kWall) - start;
    for (size_t i = 0; i < segments.size(); ++i) {
      Need(segments[i].status);
      tokens_[i] = segments[i].sampled.id;
    }
    return seconds;
  }

  double Prefill(std::span<const int32_t> tokens) {
    engine::DeviceSegment segment;
    segment.slot = 0;
    segment.layout = &layout_;
    segment.tokens = tokens;
    const double start = Now(Clock::kWall);
    Need(stepper_->Step({&segment, 1}, nullptr));
    Need(segment.status);
    return Now(Clock::kWall) - start;
  }

  const memory::StateLayout& layout() const { return layout_; }
  engine::DeviceArena& arena() { return *streams_.arena; }

 private:
  const std::shared_ptr<const engine::Model> model_;
  const memory::StateLayout layout_;
  Streams streams_;
  std::vector<int32_t> tokens_;
  const engine::SamplingParams greedy_;
  std::unique_ptr<engine::DeviceStepper> stepper_;
};

// Bytes of the weights on a device. float8 takes what int8 takes: a byte and a scale per output.
double DeviceWeightBytes(const engine::Model& model) {
  const bool byte = model.dtype() == engine::WeightDtype::kFloat8;
  return double(
      engine::SizeOfWeights(model.config(), byte ? engine::WeightDtype::kInt8 : model.dtype())
          .bytes);
}

// Bytes and operations a decode step of `batch` streams must do.
double StepFloorUs(const BenchReport& report, const engine::Model& model, const StepWorld& world,
                   size_t batch) {
  const double weights = DeviceWeightBytes(model);
  return report.FloorUs(weights + double(batch) * world.layout().stride_bytes(),
                        2.0 * double(model.parameters()) * batch);
}

void Add(BenchReport& report, const char* group, const std::string& name,
         std::vector<double> seconds, double floor_us, double tokens) {
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  const double p99 = seconds[std::min(seconds.size() - 1, seconds.size() * 99 / 100)];
  const double spread = (seconds[seconds.size() * 9 / 10] - seconds[seconds.size() / 10]) / median;
  report.Add(
      {group, name, 1e6 * median, spread, 1e6 * p99, floor_us, Rate(tokens / median, "tok")});
}

std::vector<double> Decodes(StepWorld& world, int steps) {
  for (int i = 0; i < 3; ++i) world.Decode();  // eager, recorded, replayed
  std::vector<double> seconds;
  for (int i = 0; i < steps; ++i) seconds.push_back(world.Decode());
  return seconds;
}

// One stream's state is copied out at a time, always one under way.
std::vector<double> DecodesWithSnapshots(StepWorld& world, int steps, cuda::Device* device) {
  const size_t bytes = world.layout().stride_bytes();
  engine::PinnedBuffer host;
  Need(host.Allocate(device, bytes, "snapshot"));
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

void RunShape(const BenchOptions& options, BenchReport& report, const std::string& shape,
              engine::WeightDtype dtype) {
  const std::shared_ptr<const engine::Model> model = MakeModel(options, shape, dtype);
  const bool plain = dtype == engine::WeightDtype::kBFloat16;
  const int steps = options.smoke ? 4 : 300;  // more than two chunks: events are in it
  const size_t rows = options.smoke ? 64 : 2048;
  for (const bool invariant : {true, false}) {
    if (!invariant && !plain) continue;  // the kernels for narrow weights are the same
    const std::shared_ptr<cuda::Device> device = OpenDevice(options, invariant);
    const std::string what =
        absl::StrCat(shape, ", ", model->geometry().layers, " layers, ", kernels::DtypeName(dtype),
                     " weights", invariant ? "" : ", not batch-invariant");
    for (const size_t batch : options.batches) {
      StepWorld world(options, model, device.get(), batch, batch);
      const std::string name = absl::StrCat(what, ", B ", batch);
      const double floor_us = StepFloorUs(report, *model, world, batch);
      Add(report, "decode step", name, Decodes(world, steps), floor_us, double(batch));
      if (!invariant || !plain) continue;
      Add(report, "with snapshots", name, DecodesWithSnapshots(world, steps / 2, device.get()),
          floor_us, double(batch));
    }
    StepWorld world(options, model, device.get(), 1, rows);
    std::vector<int32_t> tokens(rows);
    for (size_t i = 0; i < rows; ++i) tokens[i] = int32_t(i * 7919 % model->geometry().vocab);
    std::vector<double> seconds;
    for (int i = 0; i < (options.smoke ? 2 : 8); ++i) seconds.push_back(world.Prefill(tokens));
    const double flops = 2.0 * double(model->parameters()) * rows;
    Add(report, "prefill", absl::StrCat(what, ", ", rows, " tokens a step"),
        {seconds.begin() + 1, seconds.end()}, report.FloorUs(DeviceWeightBytes(*model), flops),
        double(rows));
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
