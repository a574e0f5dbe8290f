// One pass of the model over rows of many streams.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/norm/rms_norm.h"
#include "kernels/swiglu/swiglu.h"
#include "memory/stream/stream_state.h"
#include "services/engine/model.h"
#include "services/engine/model_impl.h"

namespace lola::engine {
namespace {

using kernels::ThreadPool;

// Adds the time since the last call to a counter.
class Stopwatch {
 public:
  void Lap(uint64_t& counter) {
    const Clock::time_point now = Clock::now();
    counter += std::chrono::duration_cast<std::chrono::nanoseconds>(now - last_).count();
    last_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point last_ = Clock::now();
};

// Of any model: whole, or a range that reads rows of the residual stream.
size_t RowsOf(const Segment& segment, const Model::Impl& model) {
  if (model.layers.first == 0) return segment.tokens.size();
  return segment.hidden_in.size() / model.config.geometry.hidden;
}

absl::Status CheckTokens(const Segment& segment, uint32_t vocab) {
  for (size_t i = 0; i < segment.tokens.size(); ++i) {
    const int32_t token = segment.tokens[i];
    if (token < 0 || static_cast<uint32_t>(token) >= vocab) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", i, ": id ", token, ", must be 0 to ", vocab - 1));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckAdmission(const Segment& segment, const Model::Impl& model) {
  const bool first = model.layers.first == 0;
  absl::Status status =
      first ? CheckTokens(segment, model.config.geometry.vocab) : absl::OkStatus();
  if (!status.ok()) return status;
  return memory::StreamState(segment.layout, segment.record).CheckRoom(RowsOf(segment, model));
}

bool AllFinite(const float* values, size_t count) {
  // The exponent bits are all ones exactly for infinities and NaN; this loop vectorises.
  uint32_t bad = 0;
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    bad |= (bits & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
  }
  return bad == 0;
}

// The pass itself; lives for one call of Model::Step.
class Pass {
 public:
  Pass(const Model::Impl& model, StepWorkspace::Buffers& buffers, ThreadPool& pool)
      : model_(model),
        g_(model.config.geometry),
        first_(model.layers.first == 0),
        last_(model.layers.end == g_.layers),
        b_(buffers),
        pool_(pool) {}

  void Admit(std::span<Segment> segments);
  void Run();

 private:
  void CheckShapes(const Segment& segment) const;
  void Embed();
  void HandOn();
  void FillRotations();
  void Layer(uint32_t index);
  void RunTask(uint32_t layer, MemoryTask& task, int worker);
  void Multiply(const kernels::PackedMatrix& weights, const float* input, size_t rows,
                float* output, bool accumulate);
  void Heads();
  void HeadRows(std::span<const std::pair<size_t, size_t>> wanted);
  void Finish();
  float* LogitsRow(size_t segment, size_t row) const;

  const Model::Impl& model_;
  const memory::ModelGeometry& g_;  // of the whole model
  const bool first_, last_;         // layer 0 is here, the last layer is here
  StepWorkspace::Buffers& b_;
  ThreadPool& pool_;
  Stopwatch watch_;
  size_t rows_ = 0;
};

// What callers may not get wrong.
void Pass::CheckShapes(const Segment& segment) const {
  LOLA_CHECK(segment.layout != nullptr && segment.settings != nullptr);
  LOLA_CHECK(segment.layout->geometry() == model_.layers_geometry &&
             segment.layout->settings() == *segment.settings);
  const size_t rows = RowsOf(segment, model_);
  LOLA_CHECK(first_ || segment.hidden_in.size() == rows * g_.hidden);
  LOLA_CHECK(last_ || segment.hidden_out.size() == rows * g_.hidden);
  const size_t logits_rows = last_ ? segment.logits_rows : 0;
  LOLA_CHECK(logits_rows <= rows);
  LOLA_CHECK(logits_rows == 0 || segment.logits != nullptr);
}

// Checks every segment and lists those that take part.
void Pass::Admit(std::span<Segment> segments) {
  b_.active.clear();
  b_.tasks.clear();
  rows_ = 0;
  for (Segment& segment : segments) {
    CheckShapes(segment);
    const size_t rows = RowsOf(segment, model_);
    segment.status = CheckAdmission(segment, model_);
    if (!segment.status.ok()) continue;
    const memory::StreamState state(segment.layout, segment.record);
    ActiveSegment active{};
    active.segment = &segment;
    active.plan = b_.FindPlan(*segment.layout);
    active.position = state.position();
    active.first_row = rows_;
    active.rows = rows;
    rows_ += active.rows;
    b_.active.push_back(active);
  }
  // Long pieces first, so that threads finish together.
  for (uint32_t i = 0; i < b_.active.size(); ++i) {
    for (uint32_t head = 0; head < g_.kv_heads; ++head) b_.tasks.push_back({i, head, {}});
  }
  std::stable_sort(b_.tasks.begin(), b_.tasks.end(), [this](const auto& a, const auto& b) {
    return b_.active[a.segment].rows > b_.active[b.segment].rows;
  });
}

void Pass::Embed() {
  for (const ActiveSegment& active : b_.active) {
    float* row = b_.x.data() + active.first_row * g_.hidden;
    if (!first_) {
      std::copy_n(active.segment->hidden_in.data(), active.rows * g_.hidden, row);
      continue;
    }
    for (size_t i = 0; i < active.rows; ++i) {
      model_.weights.Embed(active.segment->tokens[i], row + i * g_.hidden);
    }
  }
}

// The residual stream as the next range of layers takes it up: nothing is lost on the way.
void Pass::HandOn() {
  for (const ActiveSegment& active : b_.active) {
    std::copy_n(b_.x.data() + active.first_row * g_.hidden, active.rows * g_.hidden,
                active.segment->hidden_out.data());
  }
}

void Pass::FillRotations() {
  const size_t half = g_.head_dim / 2;
  for (ActiveSegment& active : b_.active) {
    const memory::LolaSettings& settings = active.plan->settings;
    if (settings.mode == memory::Mode::kLola &&
        settings.memory_positions == memory::MemoryPositions::kConstant) {
      active.rope.distance_cos = active.plan->distances.cos.data();
      active.rope.distance_sin = active.plan->distances.sin.data();
      active.rope.memory_cos = active.plan->memory.cos.data();
      active.rope.memory_sin = active.plan->memory.sin.data();
      continue;
    }
    float* cos = b_.cos.data() + active.first_row * half;
    float* sin = b_.sin.data() + active.first_row * half;
    kernels::FillRotationRows(model_.frequencies, active.position, active.rows, cos, sin);
    active.rope.absolute_cos = cos;
    active.rope.absolute_sin = sin;
  }
}

void Pass::Multiply(const kernels::PackedMatrix& weights, const float* input, size_t rows,
                    float* output, bool accumulate) {
  kernels::Gemm({.weights = &weights,
                 .input = input,
                 .input_stride = weights.in(),
                 .output = output,
                 .output_stride = weights.out(),
                 .rows = rows,
                 .accumulate = accumulate},
                pool_);
}

void Pass::RunTask(uint32_t layer, MemoryTask& task, int worker) {
  const ActiveSegment& active = b_.active[task.segment];
  const LayerWeights& weights = model_.weights.layers[layer];
  const size_t d = g_.head_dim, group = g_.group(), first_head = task.kv_head * group;
  const size_t q_width = g_.query_heads * d, kv_width = g_.kv_heads * d;
  const size_t stride = q_width + 2 * kv_width;
  const float* row = b_.qkv.data() + active.first_row * stride;
  memory::AdvanceParams params;
  params.position = active.position;
  params.rows = active.rows;
  params.q = row + first_head * d;
  params.k = row + q_width + task.kv_head * d;
  params.v = row + q_width + kv_width + task.kv_head * d;
  params.q_stride = params.k_stride = params.v_stride = stride;
  params.out = b_.attended.data() + active.first_row * q_width + first_head * d;
  params.out_stride = q_width;
  params.rope = &active.rope;
  if (active.plan->settings.mode == memory::Mode::kLola) {
    const size_t map = d * g_.map_dim();
    params.weights.map_q = weights.map_q.data() + first_head * map;
    params.weights.map_k = weights.map_k.data() + first_head * map;
    params.weights.gate = weights.gate.data() + first_head;
  }
  params.scratch = b_.scratch[worker].get();
  params.stats = &task.stats;
  memory::LayerMemory(active.segment->layout, active.segment->record.data(), layer)
      .Advance(task.kv_head, params);
}

void Pass::Layer(uint32_t index) {
  const LayerWeights& weights = model_.weights.layers[index];
  StepTimes& times = b_.times;
  const float eps = model_.config.rms_epsilon;
  kernels::RmsNormRows(b_.x.data(), weights.input_norm.data(), eps, rows_, g_.hidden,
                       b_.normed.data(), pool_);
  watch_.Lap(times.norm_ns);
  Multiply(weights.qkv, b_.normed.data(), rows_, b_.qkv.data(), false);
  watch_.Lap(times.gemm_ns);
  pool_.ParallelFor(b_.tasks.size(), [this, index](size_t task, int worker) {
    RunTask(index, b_.tasks[task], worker);
  });
  watch_.Lap(times.memory_ns);
  Multiply(weights.o, b_.attended.data(), rows_, b_.x.data(), true);
  watch_.Lap(times.gemm_ns);
  kernels::RmsNormRows(b_.x.data(), weights.post_norm.data(), eps, rows_, g_.hidden,
                       b_.normed.data(), pool_);
  watch_.Lap(times.norm_ns);
  Multiply(weights.gate_up, b_.normed.data(), rows_, b_.gate_up.data(), false);
  watch_.Lap(times.gemm_ns);
  const size_t stride = 2 * size_t{g_.ffn};
  // In place: the product of both halves replaces the first one.
  kernels::Swiglu({.gate = b_.gate_up.data(),
                   .gate_stride = stride,
                   .up = b_.gate_up.data() + g_.ffn,
                   .up_stride = stride,
                   .output = b_.gate_up.data(),
                   .output_stride = stride,
                   .rows = rows_,
                   .n = g_.ffn},
                  pool_);
  watch_.Lap(times.norm_ns);
  kernels::Gemm({.weights = &weights.down,
                 .input = b_.gate_up.data(),
                 .input_stride = stride,
                 .output = b_.x.data(),
                 .output_stride = g_.hidden,
                 .rows = rows_,
                 .accumulate = true},
                pool_);
  watch_.Lap(times.gemm_ns);
}

float* Pass::LogitsRow(size_t segment, size_t row) const {
  return b_.active[segment].segment->logits + row * g_.vocab;
}

// Final norm and head for up to kHeadRows rows, given as (active segment, wanted row of it).
void Pass::HeadRows(std::span<const std::pair<size_t, size_t>> wanted) {
  for (size_t i = 0; i < wanted.size(); ++i) {
    const ActiveSegment& active = b_.active[wanted[i].first];
    const size_t row =
        active.first_row + active.rows - active.segment->logits_rows + wanted[i].second;
    std::copy_n(b_.x.data() + row * g_.hidden, g_.hidden, b_.head_in.data() + i * g_.hidden);
  }
  kernels::RmsNormRows(b_.head_in.data(), model_.weights.norm.data(), model_.config.rms_epsilon,
                       wanted.size(), g_.hidden, b_.head_in.data(), pool_);
  Multiply(model_.weights.head, b_.head_in.data(), wanted.size(), b_.head_out.data(), false);
  for (size_t i = 0; i < wanted.size(); ++i) {
    const float* logits = b_.head_out.data() + i * g_.vocab;
    std::copy_n(logits, g_.vocab, LogitsRow(wanted[i].first, wanted[i].second));
    Segment& segment = *b_.active[wanted[i].first].segment;
    if (segment.status.ok() && !AllFinite(logits, g_.vocab)) {
      segment.status = absl::InternalError("logits: not finite");
    }
  }
}

void Pass::Heads() {
  std::pair<size_t, size_t> wanted[kHeadRows];
  size_t count = 0;
  for (size_t i = 0; i < b_.active.size(); ++i) {
    for (size_t row = 0; row < b_.active[i].segment->logits_rows; ++row) {
      wanted[count++] = {i, row};
      if (count < kHeadRows) continue;
      HeadRows({wanted, count});
      count = 0;
    }
  }
  if (count > 0) HeadRows({wanted, count});
}

// Moves positions, adds counters, and flags segments whose numbers broke.
void Pass::Finish() {
  for (const MemoryTask& task : b_.tasks) {
    Segment& segment = *b_.active[task.segment].segment;
    if (segment.stats != nullptr) segment.stats->Merge(task.stats);
    if (segment.status.ok() && task.stats.nonfinite() > 0) {
      segment.status = absl::InternalError(
          absl::StrCat("layer memory, kv head ", task.kv_head, ": ", task.stats.nonfinite_rows,
                       " rows and ", task.stats.nonfinite_scores, " scores are not finite"));
    }
  }
  for (const ActiveSegment& active : b_.active) {
    Segment& segment = *active.segment;
    memory::StreamState(segment.layout, segment.record).SetPosition(active.position + active.rows);
    if (segment.status.ok() &&
        !AllFinite(b_.x.data() + active.first_row * g_.hidden, active.rows * g_.hidden)) {
      segment.status = absl::InternalError("activations: not finite");
    }
  }
}

void Pass::Run() {
  Embed();
  FillRotations();
  watch_.Lap(b_.times.norm_ns);
  for (uint32_t i = 0; i < model_.layers.count(); ++i) Layer(i);
  if (last_) {
    Heads();
    watch_.Lap(b_.times.head_ns);
  } else {
    HandOn();
  }
  Finish();
}

}  // namespace

absl::Status Model::CheckSegment(const Segment& segment) const {
  return CheckAdmission(segment, *impl_);
}

absl::Status Model::Step(std::span<Segment> segments, StepWorkspace& workspace,
                         ThreadPool& pool) const {
  StepWorkspace::Buffers& buffers = *workspace.buffers_;
  LOLA_CHECK(&buffers.model == this && pool.threads() <= buffers.threads);
  size_t rows = 0;
  for (const Segment& segment : segments) {
    const size_t of_segment = RowsOf(segment, *impl_);
    if (of_segment == 0) return absl::InvalidArgumentError("segment: no tokens");
    rows += of_segment;
  }
  if (rows == 0 || rows > buffers.max_rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("pass: ", rows, " rows, must be 1 to ", buffers.max_rows));
  }
  Stopwatch total;
  ++buffers.clock;
  Pass pass(*impl_, buffers, pool);
  pass.Admit(segments);
  if (!buffers.active.empty()) pass.Run();
  total.Lap(buffers.times.total_ns);
  ++buffers.times.passes;
  buffers.times.rows += rows;
  return absl::OkStatus();
}

}  // namespace lola::engine
