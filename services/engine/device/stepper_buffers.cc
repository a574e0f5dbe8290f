#include "services/engine/device/stepper_buffers.h"

#include <algorithm>

namespace lola::engine {

absl::Status DeviceStepper::Buffers::Allocate(cuda::Device* device, const cuda::Shape& shape,
                                              const StepperOptions& options,
                                              const DeviceWeights& weights) {
  const size_t r = options.rows_max, s = options.logits_rows_max;
  const size_t half = shape.head_dim / 2, element = cuda::MatrixBytes(weights.activations);
  const size_t q_width = size_t{shape.query_heads} * shape.head_dim;
  const size_t at_rows = in.Reserve(r * sizeof(cuda::Row));
  const size_t at_segments = in.Reserve((r + 1) * sizeof(cuda::SegmentEntry));
  const size_t at_tiles = in.Reserve(r * sizeof(cuda::Tile));
  const size_t at_picks = in.Reserve(r * sizeof(uint32_t));
  const size_t at_samples = in.Reserve(r * sizeof(cuda::SampleRow));
  const size_t at_cos = large.Reserve(r * half * sizeof(float));
  const size_t at_sin = large.Reserve(r * half * sizeof(float));
  const size_t at_events = large.Reserve(r * shape.layers * sizeof(cuda::Event));
  const size_t at_counters = out.Reserve(sizeof(cuda::StepCounters));
  const size_t at_broken = out.Reserve((r + 1) * sizeof(uint32_t));
  const size_t at_sampled = out.Reserve(r * sizeof(cuda::SampledRow));

  absl::Status status = in.Allocate(device, "step tables");
  const auto then = [&status](auto allocate) {
    if (status.ok()) status = allocate();
  };
  const auto array = [&](auto& to, size_t count, const char* what) {
    then([&] { return to.Allocate(device, count, what); });
  };
  then([&] { return large.Allocate(device, "step tables"); });
  then([&] { return out.Allocate(device, "step results"); });
  if (options.hidden_rows) {
    then([&] {
      return hidden.Allocate(device, r * shape.hidden * sizeof(float), "rows on their way");
    });
  }
  array(x, r * shape.hidden, "activations");
  array(normed, r * shape.hidden * element, "activations");
  array(qkv, r * (q_width + 2 * size_t{shape.kv_heads} * shape.head_dim), "qkv");
  array(features, r * shape.query_heads * shape.feature_dim, "query features");
  array(shares, r * shape.query_heads * 2, "denominators");
  array(attended, r * q_width * element, "attention output");
  array(gate_up, r * 2 * shape.ffn, "gate and up");
  array(inner, r * shape.ffn * element, "inner activations");
  array(head_in, s * shape.hidden * element, "head input");
  array(logits, s * shape.vocab, "logits");
  array(adjusted, s * shape.vocab, "adjusted logits");
  if (weights.layers[0].qkv.type == cuda::MatrixType::kInt8) {
    const size_t widest = std::max({size_t{shape.hidden}, q_width, size_t{shape.ffn}});
    array(quantized, cuda::QuantizedBytes(std::max(r, s), widest), "quantised inputs");
  }
  array(event_work, options.event_work_bytes, "event work");
  if (!status.ok()) return status;
  rows = in.At<cuda::Row>(at_rows);
  segments = in.At<cuda::SegmentEntry>(at_segments);
  tiles = in.At<cuda::Tile>(at_tiles);
  picks = in.At<uint32_t>(at_picks);
  samples = in.At<cuda::SampleRow>(at_samples);
  cos = large.At<float>(at_cos);
  sin = large.At<float>(at_sin);
  events = large.At<cuda::Event>(at_events);
  counters = out.At<cuda::StepCounters>(at_counters);
  broken = out.At<uint32_t>(at_broken);
  sampled = out.At<cuda::SampledRow>(at_sampled);
  return absl::OkStatus();
}

absl::StatusOr<bool> DeviceStepper::Buffers::Grow(cuda::Device* device, const cuda::Shape& shape,
                                                  size_t rows_max, const cuda::Sections& sections,
                                                  uint32_t variants) {
  const size_t heads = rows_max * shape.query_heads;
  const size_t query_floats = heads * variants * shape.head_dim;
  const size_t partial_floats = heads * (sections.cache + sections.window + sections.linear) *
                                cuda::PartialFloats(shape.head_dim);
  bool grown = false;
  if (query_floats > queries.size()) {
    absl::Status status = queries.Allocate(device, query_floats, "queries");
    if (!status.ok()) return status;
    grown = true;
  }
  if (partial_floats > partials.size()) {
    absl::Status status = partials.Allocate(device, partial_floats, "attention partials");
    if (!status.ok()) return status;
    grown = true;
  }
  return grown;
}

}  // namespace lola::engine
