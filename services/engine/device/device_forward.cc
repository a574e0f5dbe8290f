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
                    .spans = step_.single ? 0u : 1u},
                   b_->wave_rows.device + wave.first_row, wave.rows, weights_.activations,
                   b_->attended.data());
  if (!masses_) return;
  attend.sections = sections_;
  device_->Masses(attend, wave.tiles, step_.single);
}

void DeviceStepper::Layer(uint32_t layer, size_t rows) {
  const DeviceWeights::Layer& w = weights_.layers[layer];
  const size_t q_width = size_t{shape_.query_heads} * shape_.head_dim;
  const size_t kv_width = size_t{shape_.kv_heads} * shape_.head_dim;
  cuda::NormCall norm{.x = b_->x.data(),
                      .weight = w.input_norm.data(),
                      .epsilon = model_->config().rms_epsilon,
                      .hidden = shape_.hidden,
                      .rows = rows,
                      .type = weights_.activations,
                      .out = b_->normed.data()};
  device_->Norm(norm);
  Multiply(w.qkv, b_->normed.data(), rows, q_width + 2 * kv_width, shape_.hidden, b_->qkv.data(),
           false);
  const size_t maps = size_t{shape_.query_heads} * shape_.head_dim * (shape_.feature_dim / 2);
  device_->Queries({.rows = b_->rows.device,
                    .segments = b_->segments.device,
                    .qkv = b_->qkv.data(),
                    .absolute_cos = b_->cos.device,
                    .absolute_sin = b_->sin.device,
                    .map_q = weights_.map_q.data() + layer * maps,
                    .queries = b_->queries.data(),
                    .features = b_->features.data(),
                    .shape = shape_,
                    .variants = variants_},
                   rows);
  if (step_.waves.size() == 1) {
    // Padding included: a recorded step has as many tiles as rows.
    Wave all = step_.waves[0];
    if (step_.single) all.tiles = all.rows = uint32_t(rows);
    AttendWave(layer, all);
  } else {
    const uint32_t events = uint32_t(step_.events.size());
    for (const Wave& wave : step_.waves) {
      AttendWave(layer, wave);
      RunEvents(layer * events + wave.first_event, wave.events);
    }
  }
  Multiply(w.o, b_->attended.data(), rows, shape_.hidden, q_width, b_->x.data(), true);
  norm.weight = w.post_norm.data();
  device_->Norm(norm);
  Multiply(w.gate_up, b_->normed.data(), rows, 2 * size_t{shape_.ffn}, shape_.hidden,
           b_->gate_up.data(), false);
  device_->Swiglu(b_->gate_up.data(), rows, shape_.ffn, weights_.activations, b_->inner.data());
  Multiply(w.down, b_->inner.data(), rows, shape_.hidden, shape_.ffn, b_->x.data(), true);
}

void DeviceStepper::Forward(size_t rows) {
  if (model_->has_first_layer()) {  // else the rows were uploaded before
    const DeviceWeights::Matrix& table = weights_.table();
    device_->Embed(b_->rows.device, rows, table.values.data(), table.scales.data(), table.type,
                   shape_.hidden, b_->x.data());
  }
  for (uint32_t layer = 0; layer < shape_.layers; ++layer) Layer(layer, rows);
}

// Decode steps are recorded once per number of rows, rounded up to a power of two. The first step
// of a kind runs launch by launch: it loads kernels and picks products, which a recording may not
// do.
void DeviceStepper::RunForward() {
  const size_t rows = step_.rows.size();
  size_t padded = 1;
  while (padded < rows) padded *= 2;
  if (!options_.record_decode || !step_.single || step_.waves.size() != 1 ||
      padded > options_.rows_max) {
    return Forward(rows);
  }
  const GraphKey key{padded,    sections_.cache, sections_.window, sections_.linear,
                     variants_, masses_,         grouped_};
  const auto [graph, first] = graphs_.emplace(key, Recorded{});
  Recorded& recorded = graph->second;
  if (first || recorded.refused) return Forward(rows);
  if (recorded.id == 0) {
    if (device_->BeginRecording()) {
      Forward(padded);
      recorded.id = device_->EndRecording();
    }
    recorded.refused = recorded.id == 0;
    if (recorded.refused) {
      ++counters_.refused_recordings;
      return Forward(rows);
    }
    ++counters_.recordings;
  }
  ++counters_.replays;
  device_->Replay(recorded.id);
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
    device_->Norm({.x = b_->x.data(),
                   .pick = b_->picks.device + first,
                   .weight = weights_.norm.data(),
                   .epsilon = model_->config().rms_epsilon,
                   .hidden = shape_.hidden,
                   .rows = rows,
                   .type = weights_.activations,
                   .out = b_->head_in.data()});
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
