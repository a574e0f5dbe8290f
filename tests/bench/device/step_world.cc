#include "tests/bench/device/step_world.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/engine/weights.h"
#include "tests/bench/support/bench_timer.h"

namespace lola::bench {

StepWorld::StepWorld(const BenchOptions& options, std::shared_ptr<const engine::Model> model,
                     cuda::Device* device, size_t batch, size_t rows)
    : device_(device),
      model_(std::move(model)),
      layout_(model_->geometry(), BenchSettings(options, 768, memory::CacheSharing::kGroup)) {
  const bool full = batch == kFullBatch;
  if (full) {
    // Buffers are for what would fit if there were none; then what is left is counted. float8
    // weights take what int8 weights take.
    const bool byte = model_->dtype() == engine::WeightDtype::kFloat8;
    const uint64_t weights =
        engine::SizeOfWeights(model_->config(), byte ? engine::WeightDtype::kInt8 : model_->dtype())
            .bytes;
    const uint64_t free = device->info().free_bytes;
    batch = free > weights ? (free - weights) / layout_.stride_bytes() : 0;
    if (options.full_most > 0) batch = std::min(batch, options.full_most);
    if (batch == 0) Fail("full batch: the weights alone fill the device");
  }
  auto stepper = engine::DeviceStepper::Create(
      model_, device, nullptr,
      {.rows_max = std::max(rows, batch), .logits_rows_max = std::min<size_t>(batch, 256)});
  Need(stepper.status());
  stepper_ = *std::move(stepper);
  Need(stepper_->Reserve(layout_.settings()));
  if (full) batch = std::min(batch, StreamsThatFit());
  if (batch == 0) Fail("full batch: no stream fits beside weights and working memory");
  streams_ = std::make_unique<Streams>(device, layout_, batch, kStagings);
  stepper_->UseArena(streams_->arena.get());
  tokens_.assign(batch, 1);
}

// A 64th of the device's memory stays free for what is made on first use: workspaces of products,
// recordings, working memory of an event.
size_t StepWorld::StreamsThatFit() const {
  const cuda::DeviceInfo info = device_->info();
  const uint64_t reserve = info.memory_bytes / 64;
  if (info.free_bytes <= reserve) return 0;
  const size_t records = (info.free_bytes - reserve) / layout_.stride_bytes();
  // Beside the streams: stagings, the arena's spare record, the pristine one of Streams.
  const size_t others = kStagings + 2;
  return records > others ? records - others : 0;
}

double StepWorld::Decode() {
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

double StepWorld::Prefill(std::span<const int32_t> tokens) {
  engine::DeviceSegment segment;
  segment.slot = 0;
  segment.layout = &layout_;
  segment.tokens = tokens;
  const double start = Now(Clock::kWall);
  Need(stepper_->Step({&segment, 1}, nullptr));
  Need(segment.status);
  return Now(Clock::kWall) - start;
}

namespace {

double TableElements(const engine::Model& model) {
  return double(model.geometry().vocab) * model.geometry().hidden;
}

// Bytes of an element of the dense matrices; float8 and int8 take a byte.
double ElementBytes(const engine::Model& model) {
  const engine::WeightDtype dtype = model.dtype();
  if (dtype == engine::WeightDtype::kFloat32) return 4;
  return dtype == engine::WeightDtype::kBFloat16 ? 2 : 1;
}

double LayerElements(const engine::Model& model) {
  const double tables = model.config().tied_embeddings ? 1 : 2;
  return double(model.parameters()) - tables * TableElements(model);
}

}  // namespace

double DecodeWeightBytes(const engine::Model& model) {
  return (LayerElements(model) + TableElements(model)) * ElementBytes(model);
}
double DecodeFlops(const engine::Model& model) {
  return 2 * (LayerElements(model) + TableElements(model));
}
double PrefillWeightBytes(const engine::Model& model) {
  return LayerElements(model) * ElementBytes(model);
}
double PrefillFlops(const engine::Model& model) { return 2 * LayerElements(model); }

double StateBytesRead(const memory::StateLayout& layout) {
  const memory::ModelGeometry& g = layout.geometry();
  const memory::LolaSettings& s = layout.settings();
  const double window = g.kv_heads * (s.window + s.chunk / 2.0);
  const double row = 2.0 * layout.row_bytes();
  const double h = 4.0 * g.query_heads * g.feature_dim * (g.head_dim + 1);
  double bytes = 0;
  for (uint32_t layer = 0; layer < g.layers; ++layer) {
    bytes += row * (window + double(layout.caches()) * s.CachePairs(layer)) + h;
  }
  return bytes;
}

void AddSteps(BenchReport& report, const char* group, const std::string& name,
              std::vector<double> seconds, double floor_us, double tokens) {
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  const double p99 = seconds[std::min(seconds.size() - 1, seconds.size() * 99 / 100)];
  const double spread = (seconds[seconds.size() * 9 / 10] - seconds[seconds.size() / 10]) / median;
  report.Add(
      {group, name, 1e6 * median, spread, 1e6 * p99, floor_us, Rate(tokens / median, "tok")});
}

}  // namespace lola::bench
