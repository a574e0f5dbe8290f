// The passes of a step: layers, chunk events, heads.
#include <algorithm>
#include <cmath>

#include "services/engine/device/device_stepper.h"
#include "services/engine/device/stepper_buffers.h"

namespace lola::engine {

using cuda::Queue;

void DeviceStepper::Multiply(const DeviceWeights::Matrix& weights, const void* input, size_t rows,
                             size_t out, size_t in, float* output, bool accumulate) {
  device_->Gemm({.type = weights.type,
                 .weights = weights.values.data(),
                 .scales = weights.scales.data(),
                 .work = b_->quantized.data(),
                 .input = input,
                 .output = output,
                 .rows = rows,
                 .out = out,
                 .in = in,
                 .accumulate = accumulate});
}

void DeviceStepper::Norm(const float* x, const uint32_t* pick, const DeviceArray<float>& weight,
                         size_t rows, void* out) {
  device_->Norm({.x = x,
                 .pick = pick,
                 .weight = weight.data(),
                 .epsilon = model_->config().rms_epsilon,
                 .hidden = shape_.hidden,
                 .rows = rows,
                 .type = weights_.activations,
                 .out = out});
}

void DeviceStepper::AttendWave(uint32_t layer, const Wave& wave) {
  device_->Push({.tiles = b_->tiles.device + wave.first_tile,
                 .segments = b_->segments.device,
                 .qkv = b_->qkv.data(),
                 .absolute_cos = b_->cos.device,
                 .absolute_sin = b_->sin.device,
                 .shape = shape_,
                 .layer = layer},
                wave.tiles);
  // Many rows to a tile: partial results are of spans.
  const cuda::Sections& parts = step_.single ? sections_ : spans_;
  cuda::AttendParams attend{.tiles = b_->tiles.device + wave.first_tile,
                            .segments = b_->segments.device,
                            .queries = b_->queries.data(),
                            .features = b_->features.data(),
                            .partials = b_->partials.data(),
                            .shares = b_->shares.data(),
                            .shape = shape_,
                            .sections = parts,
                            .variants = variants_,
                            .layer = layer,
                            .tile_count = wave.tiles,
                            .grouped = grouped_ ? 1u : 0u,
                            .scale = 1.0f / std::sqrt(float(shape_.head_dim))};
  device_->Attend(attend, wave.tiles, step_.single);
  device_->Combine({.rows = b_->rows.device,
                    .segments = b_->segments.device,
                    .partials = b_->partials.data(),
                    .gate = weights_.gate.data() + size_t{layer} * shape_.query_heads,
                    .shares = b_->shares.data(),
                    .counters = b_->counters.device,
                    .broken = b_->broken.device,
                    .shape = shape_,
                    .sections = parts,
                    .layer = layer,
                    .first_row = wave.first_row,
                    .spans = step_.single ? 0u : 1u},
                   wave.rows, weights_.activations, b_->attended.data());
  if (!masses_) return;
  attend.sections = sections_;
  device_->Masses(attend, wave.tiles, step_.single);
}

// Norm, q k v, rotated queries and their features.
void DeviceStepper::BeforeMemory(uint32_t layer, size_t first_row, size_t rows) {
  const DeviceWeights::Layer& w = weights_.layers[layer];
  const size_t heads = shape_.query_heads, d = shape_.head_dim, half = d / 2;
  const size_t width = (heads + 2 * size_t{shape_.kv_heads}) * d;
  float* qkv = b_->qkv.data() + first_row * width;
  Norm(b_->x.data() + first_row * shape_.hidden, nullptr, w.input_norm, rows, b_->normed.data());
  Multiply(w.qkv, b_->normed.data(), rows, width, shape_.hidden, qkv, false);
  const size_t map = heads * d * (shape_.feature_dim / 2);
  device_->Queries({.rows = b_->rows.device + first_row,
                    .segments = b_->segments.device,
                    .qkv = qkv,
                    .absolute_cos = b_->cos.device + first_row * half,
                    .absolute_sin = b_->sin.device + first_row * half,
                    .map_q = weights_.map_q.data() + layer * map,
                    .queries = b_->queries.data() + first_row * heads * variants_ * d,
                    .features = b_->features.data() + first_row * heads * shape_.feature_dim,
                    .shape = shape_,
                    .variants = variants_,
                    .row_count = uint32_t(rows)},
                   rows);
}

// Everything that depends on the order of chunks: wave after wave.
void DeviceStepper::Memory(uint32_t layer, std::span<const Wave> waves, bool events) {
  const uint32_t of_layer = layer * uint32_t(step_.events.size());
  for (const Wave& wave : waves) {
    AttendWave(layer, wave);
    if (events) RunEvents(of_layer + wave.first_event, wave.events);
  }
}

// Output projection, norm, SwiGLU.
void DeviceStepper::AfterMemory(uint32_t layer, size_t first_row, size_t rows) {
  const DeviceWeights::Layer& w = weights_.layers[layer];
  const size_t width = size_t{shape_.query_heads} * shape_.head_dim;
  const std::byte* attended =
      b_->attended.data() + first_row * width * cuda::MatrixBytes(weights_.activations);
  float* x = b_->x.data() + first_row * shape_.hidden;
  Multiply(w.o, attended, rows, shape_.hidden, width, x, true);
  Norm(x, nullptr, w.post_norm, rows, b_->normed.data());
  Multiply(w.gate_up, b_->normed.data(), rows, 2 * size_t{shape_.ffn}, shape_.hidden,
           b_->gate_up.data(), false);
  device_->Swiglu(b_->gate_up.data(), rows, shape_.ffn, weights_.activations, b_->inner.data());
  Multiply(w.down, b_->inner.data(), rows, shape_.hidden, shape_.ffn, x, true);
}

// All layers, on the compute queue. Chunk events of a step of one wave come later, for all layers
// at once.
void DeviceStepper::Forward(size_t rows) {
  std::vector<Wave> waves = step_.waves;
  // Padding included: a recorded step has as many tiles as rows.
  if (waves.size() == 1 && step_.single) waves[0].tiles = waves[0].rows = uint32_t(rows);
  for (uint32_t layer = 0; layer < shape_.layers; ++layer) {
    BeforeMemory(layer, 0, rows);
    Memory(layer, waves, waves.size() > 1);
    AfterMemory(layer, 0, rows);
  }
}

// The same in lanes. Products follow each other on the compute queue, lane after lane; waves on the
// scan queue, in the order that states need: while one lane's waves run, the other's rows are
// multiplied. Lanes have their own rows of everything that both queues touch.
void DeviceStepper::ForwardLanes(std::span<const Lane> lanes) {
  std::vector<cuda::Mark> scanned(lanes.size());
  const auto finish = [&](uint32_t layer, size_t lane) {
    device_->WaitFor(Queue::kCompute, scanned[lane]);
    AfterMemory(layer, lanes[lane].first_row, lanes[lane].rows);
  };
  for (uint32_t layer = 0; layer < shape_.layers; ++layer) {
    for (size_t i = 0; i < lanes.size(); ++i) {
      if (layer > 0) finish(layer - 1, i);
      BeforeMemory(layer, lanes[i].first_row, lanes[i].rows);
      device_->WaitFor(Queue::kScan, device_->Record(Queue::kCompute));
      device_->RunOn(Queue::kScan);
      Memory(layer, std::span(step_.waves).subspan(lanes[i].first_wave, lanes[i].waves), true);
      scanned[i] = device_->Record(Queue::kScan);
      device_->RunOn(Queue::kCompute);
    }
  }
  for (size_t i = 0; i < lanes.size(); ++i) finish(shape_.layers - 1, i);
}

// Decode steps are recorded once per number of rows, rounded up to a power of two. The first step
// of a kind runs launch by launch: it loads kernels and picks products, which a recording may not
// do.
void DeviceStepper::RunForward() {
  if (model_->has_first_layer()) {  // else the rows were uploaded before
    const DeviceWeights::Matrix& table = weights_.table();
    device_->Embed(b_->rows.device, padded_, table.values.data(), table.scales.data(), table.type,
                   shape_.hidden, b_->x.data());
  }
  const std::vector<Lane> lanes = step_.Lanes(options_.lane_rows_min);
  if (lanes.size() > 1) return ForwardLanes(lanes);
  if (!Recordable()) return Forward(padded_);
  const GraphKey key{padded_,   sections_.cache, sections_.window, sections_.linear,
                     variants_, masses_,         grouped_};
  if (graphs_.size() >= options_.recordings_max && !graphs_.contains(key)) ForgetGraphs();
  const auto [graph, first] = graphs_.emplace(key, Recorded{});
  Recorded& recorded = graph->second;
  if (first || recorded.refused) return Forward(padded_);
  if (recorded.id == 0) {
    if (device_->BeginRecording()) {
      Forward(padded_);
      recorded.id = device_->EndRecording();
    }
    recorded.refused = recorded.id == 0;
    if (recorded.refused) {
      ++counters_.refused_recordings;
      return Forward(padded_);
    }
    ++counters_.recordings;
  }
  ++counters_.replays;
  device_->Replay(recorded.id);
}

// The events of a step of one wave: nothing in the step sees what they do, so they run beside the
// head. Gives their end.
cuda::Mark DeviceStepper::RunEventsBeside() {
  if (step_.waves.size() > 1 || step_.events.empty()) return 0;
  device_->WaitFor(Queue::kScan, device_->Record(Queue::kCompute));
  device_->RunOn(Queue::kScan);
  RunEvents(0, uint32_t(step_.events.size()) * shape_.layers);
  device_->RunOn(Queue::kCompute);
  return device_->Record(Queue::kScan);
}

// `count` entries of the event table from `first` on, as many at a time as the working memory
// takes.
void DeviceStepper::RunEvents(uint32_t first, uint32_t count) {
  if (count == 0) return;
  const size_t each = shape_.query_heads * sizes_.Bytes(shape_.feature_dim, shape_.head_dim);
  const uint32_t at_once =
      uint32_t(std::max<size_t>(1, std::min<size_t>(count, b_->event_work.size() / each)));
  for (uint32_t at = 0; at < count; at += at_once) {
    device_->RunEvents({.events = b_->events.device + first + at,
                        .segments = b_->segments.device,
                        .map_k = weights_.map_k.data(),
                        .work = b_->event_work.data(),
                        .counters = b_->counters.device,
                        .broken = b_->broken.device,
                        .shape = shape_,
                        .sizes = sizes_},
                       std::min(at_once, count - at));
  }
}

// Final norm, head and sampling for the segments that want them.
void DeviceStepper::Heads() {
  const size_t s = options_.logits_rows_max;
  for (size_t first = 0; first < heads_.size(); first += s) {
    const size_t rows = std::min(s, heads_.size() - first);
    Norm(b_->x.data(), b_->picks.device + first, weights_.norm, rows, b_->head_in.data());
    Multiply(weights_.head, b_->head_in.data(), rows, shape_.vocab, shape_.hidden,
             b_->logits.data(), false);
    device_->Sample({.logits = b_->logits.data(),
                     .adjusted = b_->adjusted.data(),
                     .rows = b_->samples.device + first,
                     .recent = b_->recent.data(),
                     .out = b_->sampled.device + first,
                     .vocab = shape_.vocab},
                    rows);
    for (size_t n = 0; n < rows; ++n) {
      float* to = active_[heads_[first + n]]->logits;
      if (to == nullptr) continue;
      device_->Download(Queue::kCompute, to, b_->logits.data() + n * shape_.vocab,
                        shape_.vocab * sizeof(float));
    }
  }
}

}  // namespace lola::engine
