// Single operations: ceilings of the device, decode attention, chunk events. A layer's operations
// are recorded and replayed, so that launches from the host are not what is measured.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "services/engine/device/plan_cache.h"
#include "services/engine/device/step_plan.h"
#include "tests/bench/device/bench_world.h"

namespace lola::bench {
namespace {

using cuda::Queue;
using engine::DeviceArray;

// One layer of one of the known shapes.
memory::ModelGeometry OneLayer(const char* name) {
  memory::ModelGeometry geometry = engine::NamedGeometry(name)->geometry;
  geometry.layers = 1;
  return geometry;
}

// Tables and buffers for attention and events of one layer: a row per stream, or with `rows` more
// the first rows of a chunk.
class LayerOps {
 public:
  LayerOps(cuda::Device* device, const memory::StateLayout& layout, Streams& streams,
           uint32_t rows = 1)
      : device_(device),
        geometry_(layout.geometry()),
        frequencies_(geometry_.head_dim / 2, 0.01),
        plans_(device, frequencies_) {
    const auto plan = plans_.Find(layout);
    Need(plan.status());
    plan_ = *plan;
    const memory::ModelGeometry& g = geometry_;
    shape_ = {g.layers,   g.hidden,      g.query_heads, g.kv_heads,
              g.head_dim, g.feature_dim, g.ffn,         g.vocab};
    std::vector<engine::StepPart> parts(streams.count);
    std::vector<cuda::SegmentEntry> segments;
    for (size_t i = 0; i < streams.count; ++i) {
      const uint64_t inside = streams.position % layout.settings().chunk;
      parts[i] = {&layout.settings(), streams.position - (rows > 1 ? inside : 0), rows};
      segments.push_back({streams.arena->record(i), plan_->plan});
    }
    engine::StepPlan step;
    step.Build(parts);
    rows_ = Uploaded(device, step.rows);
    tiles_ = Uploaded(device, step.tiles);
    segments_ = Uploaded(device, segments);
    const size_t n = streams.count, heads = step.rows.size() * g.query_heads;
    single_ = step.single;
    tile_count_ = uint32_t(step.tiles.size());
    row_count_ = uint32_t(step.rows.size());
    queries_ = Uploaded(device, Randoms(heads * plan_->variants * g.head_dim, -1, 1));
    features_ = Uploaded(device, Randoms(heads * g.feature_dim, 0, 0.02f));
    gate_ = Uploaded(device, std::vector<float>(g.query_heads, 0.5f));
    map_ = Uploaded(device, Randoms(g.query_heads * g.head_dim * g.map_dim(), -0.2f, 0.2f));
    parts_ = single_ ? plan_->sections : plan_->spans;
    const cuda::Sections& s = parts_;
    Need(partials_.Allocate(
        device, heads * (s.cache + s.window + s.linear) * cuda::PartialFloats(g.head_dim),
        "partials"));
    Need(shares_.Allocate(device, heads * 2, "denominators"));
    Need(out_.Allocate(device, heads * g.head_dim * 2, "attention"));
    Need(counters_.Allocate(device, 1, "counters"));
    Need(broken_.Allocate(device, n, "broken"));
    device->Zero(Queue::kCompute, counters_.data(), counters_.bytes());
    std::vector<cuda::Event> events;
    const uint64_t first = streams.position / layout.settings().chunk * layout.settings().chunk -
                           layout.settings().window;
    for (uint32_t i = 0; i < n; ++i) events.push_back({first, i, 0});
    events_ = Uploaded(device, events);
    grouped_ = layout.cache_heads() > 1 ? 1 : 0;
    sizes_ = {plan_->pairs_max, plan_->drops_max, plan_->trial ? 1u : 0u};
    Need(work_.Allocate(device, n * size_t{g.query_heads} * sizes_.Bytes(g.feature_dim, g.head_dim),
                        "events"));
  }

  void Attend() {
    device_->Attend({.tiles = tiles_.data(),
                     .segments = segments_.data(),
                     .queries = queries_.data(),
                     .features = features_.data(),
                     .partials = partials_.data(),
                     .shares = shares_.data(),
                     .shape = shape_,
                     .sections = parts_,
                     .variants = plan_->variants,
                     .layer = 0,
                     .tile_count = tile_count_,
                     .grouped = grouped_,
                     .scale = 1.0f / std::sqrt(float(geometry_.head_dim))},
                    tile_count_, single_);
    device_->Combine({.rows = rows_.data(),
                      .segments = segments_.data(),
                      .partials = partials_.data(),
                      .gate = gate_.data(),
                      .shares = shares_.data(),
                      .counters = counters_.data(),
                      .broken = broken_.data(),
                      .shape = shape_,
                      .sections = parts_,
                      .layer = 0,
                      .first_row = 0,
                      .spans = single_ ? 0u : 1u},
                     row_count_, cuda::MatrixType::kBFloat16, out_.data());
  }

  void Events(size_t streams) {
    device_->RunEvents({.events = events_.data(),
                        .segments = segments_.data(),
                        .map_k = map_.data(),
                        .work = work_.data(),
                        .counters = counters_.data(),
                        .broken = broken_.data(),
                        .shape = shape_,
                        .sizes = sizes_},
                       streams);
  }

 private:
  cuda::Device* device_;
  const memory::ModelGeometry& geometry_;
  const std::vector<double> frequencies_;
  engine::PlanCache plans_;
  const engine::DevicePlan* plan_ = nullptr;
  cuda::Shape shape_;
  cuda::EventSizes sizes_{};
  uint32_t grouped_ = 0, tile_count_ = 0, row_count_ = 0;
  bool single_ = true;
  cuda::Sections parts_{};  // of the partial results
  DeviceArray<cuda::Row> rows_;
  DeviceArray<cuda::Tile> tiles_;
  DeviceArray<cuda::SegmentEntry> segments_;
  DeviceArray<uint32_t> broken_;
  DeviceArray<cuda::Event> events_;
  DeviceArray<float> queries_, features_, gate_, map_, partials_, shares_;
  DeviceArray<unsigned char> out_, work_;
  DeviceArray<cuda::StepCounters> counters_;
};

// Bytes and operations of one layer's decode attention for one stream; kernels/cuda/PERFORMANCE.md.
struct Work {
  double bytes, flops;
};
Work AttentionWork(const memory::StateLayout& layout) {
  const memory::ModelGeometry& g = layout.geometry();
  const memory::LolaSettings& s = layout.settings();
  const double pairs = 1.5 * s.window, d = g.head_dim, row = 2.0 * layout.row_bytes();
  const double h = 4.0 * g.query_heads * g.feature_dim * (d + 1);
  return {row * (g.kv_heads * pairs + layout.caches() * double(s.cache_pairs)) + h,
          g.query_heads * (4 * d * (s.cache_pairs + pairs) + 2 * g.feature_dim * d)};
}
Work EventWork(const memory::StateLayout& layout) {
  const memory::ModelGeometry& g = layout.geometry();
  const memory::LolaSettings& s = layout.settings();
  const double all = s.cache_pairs + s.chunk, d = g.head_dim, f = g.feature_dim;
  const double rows =
      2.0 * layout.row_bytes() * (layout.caches() * all + 2.0 * g.kv_heads * s.chunk);
  const double features = g.query_heads * all * d * f;  // f / 2 columns of the map, two operations
  const double products = 2.0 * g.query_heads * (all + s.chunk) * f * d;
  const double near = s.redundancy_threshold > 0 ? 2.0 * layout.caches() * all * all * d : 0;
  return {rows + 8.0 * g.query_heads * f * (d + 1), features + products + near};
}

// A layer's attention, recorded and replayed.
Timing TimeAttention(const BenchOptions& options, cuda::Device* device, LayerOps& ops, int runs) {
  ops.Attend();
  Wait(device);
  const cuda::GraphId graph = device->BeginRecording() ? (ops.Attend(), device->EndRecording()) : 0;
  if (graph == 0) Fail("attention could not be recorded");
  const Timing timing = TimeQueued(
      options.repetitions, runs, [&] { device->Replay(graph); }, [&] { Wait(device); });
  device->Forget(graph);
  return timing;
}

// One stream's whole chunk.
void AddPrefill(const BenchOptions& options, cuda::Device* device, BenchReport& report,
                const memory::StateLayout& layout, const std::string& what) {
  Streams streams(device, layout, 1, 1);
  const uint32_t rows = layout.settings().chunk;
  LayerOps ops(device, layout, streams, rows);
  const Timing timing = TimeAttention(options, device, ops, options.smoke ? 1 : 100);
  const Work work = AttentionWork(layout);
  report.Add({"prefill attention", absl::StrCat(what, ", ", rows, " rows"), 1e6 * timing.median_s,
              timing.spread, 0, report.FloorUs(work.bytes, rows * work.flops),
              Rate(rows * work.flops / timing.median_s, "FLOP")});
}

void RunLayer(const BenchOptions& options, cuda::Device* device, BenchReport& report,
              const char* shape, uint32_t lambda, memory::CacheSharing sharing) {
  if (options.smoke) shape = "tiny";
  const memory::ModelGeometry geometry = OneLayer(shape);
  const memory::StateLayout layout(geometry, BenchSettings(options, lambda, sharing));
  const std::string what =
      absl::StrCat(shape, " layer, lambda ", layout.settings().cache_pairs, ", caches per ",
                   sharing == memory::CacheSharing::kHead ? "head" : "group");
  AddPrefill(options, device, report, layout, what);
  for (const size_t batch : options.attention_batches) {
    Streams streams(device, layout, batch, 1);
    LayerOps ops(device, layout, streams);
    const int runs = options.smoke ? 1 : int(std::clamp<size_t>(4096 / batch, 8, 400));
    const std::string name = absl::StrCat(what, ", B ", batch);
    const Timing timing = TimeAttention(options, device, ops, runs);
    const Work work = AttentionWork(layout);
    report.Add({"decode attention", name, 1e6 * timing.median_s, timing.spread, 0,
                report.FloorUs(batch * work.bytes, batch * work.flops),
                Rate(batch * work.bytes / timing.median_s, "B")});
    const auto restore = [&] { streams.Restore(); };
    const auto wait = [&] { Wait(device); };
    const Timing copy = TimeQueued(options.repetitions, 1, restore, wait);
    const Timing both = TimeQueued(
        options.repetitions, 1, [&] { restore(), ops.Events(batch); }, wait);
    const double seconds = std::max(both.median_s - copy.median_s, 1e-9);
    const Work event = EventWork(layout);
    report.Add({"chunk event", name, 1e6 * seconds, both.spread, 0,
                report.FloorUs(batch * event.bytes, batch * event.flops),
                Rate(batch * event.flops / seconds, "FLOP")});
  }
}

}  // namespace

void RunCeilings(const BenchOptions& options, cuda::Device* device, BenchReport& report) {
  const size_t bytes = options.smoke ? size_t{1} << 16 : size_t{2} << 30;
  const size_t n = options.smoke ? 32 : 8192;
  {
    DeviceArray<unsigned char> from = Uploaded(device, std::vector<unsigned char>(bytes, 0x5a));
    DeviceArray<unsigned char> to;
    Need(to.Allocate(device, bytes, "copy"));
    const Timing timing = TimeQueued(
        options.repetitions, options.smoke ? 1 : 20,
        [&] { device->CopyWithin(Queue::kCompute, to.data(), from.data(), bytes); },
        [&] { Wait(device); });
    report.bytes_per_s = 2.0 * bytes / timing.median_s;
    report.Add({"ceilings", "copy within the device, read plus written", 1e6 * timing.median_s,
                timing.spread, 0, 0, Rate(report.bytes_per_s, "B")});
  }
  std::vector<float> random = Randoms(n * n, -1, 1);
  std::vector<kernels::BFloat16> rounded(n * n);
  for (size_t i = 0; i < n * n; ++i) rounded[i] = kernels::ToBFloat16(random[i]);
  DeviceArray<kernels::BFloat16> a = Uploaded(device, rounded), b = Uploaded(device, rounded);
  DeviceArray<float> c;
  Need(c.Allocate(device, n * n, "product"));
  const Timing timing = TimeQueued(
      options.repetitions, options.smoke ? 1 : 10,
      [&] {
        device->Gemm({.weights = a.data(),
                      .input = b.data(),
                      .output = c.data(),
                      .rows = n,
                      .out = n,
                      .in = n});
      },
      [&] { Wait(device); });
  report.flops_per_s = 2.0 * n * n * n / timing.median_s;
  report.Add({"ceilings", absl::StrCat("bf16 product ", n, "^3, float32 out, batch-invariant"),
              1e6 * timing.median_s, timing.spread, 0, 0, Rate(report.flops_per_s, "FLOP")});
}

void RunOps(const BenchOptions& options, cuda::Device* device, BenchReport& report) {
  using memory::CacheSharing;
  RunLayer(options, device, report, "llama-3.1-8b", 768, CacheSharing::kGroup);
  if (options.smoke) return;
  RunLayer(options, device, report, "llama-3.1-8b", 256, CacheSharing::kGroup);
  RunLayer(options, device, report, "llama-3.1-8b", 768, CacheSharing::kHead);
  RunLayer(options, device, report, "llama-3.2-1b", 768, CacheSharing::kGroup);
}

}  // namespace lola::bench
