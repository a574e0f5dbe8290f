// The step as a whole: admission, tables, results. The passes are in device_forward.cc.
#include "services/engine/device/device_stepper.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/rope/rope.h"
#include "services/engine/device/stepper_buffers.h"

namespace lola::engine {

using cuda::Queue;

namespace {

cuda::Sections Larger(const cuda::Sections& a, const cuda::Sections& b) {
  return {std::max(a.cache, b.cache), std::max(a.window, b.window), std::max(a.linear, b.linear)};
}

cuda::EventSizes Larger(const cuda::EventSizes& a, const cuda::EventSizes& b) {
  return {std::max(a.pairs_max, b.pairs_max), std::max(a.drops_max, b.drops_max),
          std::max(a.trial, b.trial)};
}

cuda::EventSizes EventSizesOf(const DevicePlan& plan) {
  if (plan.settings.mode != memory::Mode::kLola) return {};
  return {plan.pairs_max, plan.drops_max, plan.trial ? 1u : 0u};
}

StepperOptions ForModel(StepperOptions options, const Model& model) {
  options.hidden_rows = !model.whole();
  if (!model.has_last_layer()) options.logits_rows_max = 0;
  return options;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceStepper>> DeviceStepper::Create(
    std::shared_ptr<const Model> model, cuda::Device* device, DeviceArena* arena,
    const StepperOptions& options) {
  if (options.rows_max == 0 || options.logits_rows_max == 0) {
    return absl::InvalidArgumentError(absl::StrCat("rows_max: ", options.rows_max,
                                                   ", logits_rows_max: ", options.logits_rows_max,
                                                   ", must be at least 1"));
  }
  std::unique_ptr<DeviceStepper> stepper(
      new DeviceStepper(std::move(model), device, arena, options));
  absl::Status started = stepper->Start();
  if (!started.ok()) return started;
  return stepper;
}

DeviceStepper::DeviceStepper(std::shared_ptr<const Model> model, cuda::Device* device,
                             DeviceArena* arena, const StepperOptions& options)
    : model_(std::move(model)),
      device_(device),
      arena_(arena),
      options_(ForModel(options, *model_)),
      plans_(device, model_->rope_frequencies()),
      b_(std::make_unique<Buffers>()) {
  const memory::ModelGeometry& g = model_->layers_geometry();
  shape_ = {g.layers,   g.hidden,      g.query_heads, g.kv_heads,
            g.head_dim, g.feature_dim, g.ffn,         g.vocab};
}

DeviceStepper::~DeviceStepper() { ForgetGraphs(); }

void DeviceStepper::ForgetGraphs() {
  for (const auto& [key, recorded] : graphs_) device_->Forget(recorded.id);
  graphs_.clear();
}

absl::Status DeviceStepper::Start() {
  absl::Status status = weights_.Upload(*model_, device_);
  if (status.ok()) status = b_->Allocate(device_, shape_, options_, weights_);
  return status;
}

absl::Status DeviceStepper::Reserve(const memory::LolaSettings& settings) {
  const cuda::Sections sections =
      SectionsOf(CutSettings(settings, model_->layers()), model_->layers_geometry());
  return b_->Grow(device_, shape_, options_.rows_max, sections, VariantsOf(settings)).status();
}

absl::Status DeviceStepper::Check(const DeviceSegment& segment, size_t rows) {
  const absl::StatusOr<const DevicePlan*> plan = plans_.Find(*segment.layout);
  if (!plan.ok()) return plan.status();
  absl::Status room = MakeRoom((*plan)->sections, (*plan)->variants, EventSizesOf(**plan));
  if (!room.ok()) return room;
  for (size_t i = 0; i < segment.tokens.size(); ++i) {
    if (segment.tokens[i] >= 0 && uint32_t(segment.tokens[i]) < shape_.vocab) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("token ", i, ": id ", segment.tokens[i], ", must be 0 to ", shape_.vocab - 1));
  }
  const memory::LolaSettings& settings = segment.layout->settings();
  const uint64_t position = arena_->position(segment.slot);
  if (settings.mode == memory::Mode::kSoftmax && position + rows > settings.window) {
    return absl::ResourceExhaustedError(absl::StrCat("softmax window: ", position, " + ", rows,
                                                     " tokens, it holds ", settings.window));
  }
  return absl::OkStatus();
}

absl::Status DeviceStepper::Admit(std::span<DeviceSegment> segments) {
  active_.clear();
  active_plans_.clear();
  // Kinds of settings are few, unless somebody makes them up.
  constexpr size_t kPlansKept = 256;
  if (plans_.Trim(kPlansKept)) spare_plan_ = nullptr;
  parts_.clear();
  heads_.clear();
  sections_ = spans_ = {};
  variants_ = 1;
  sizes_ = {};
  masses_ = absolute_ = false;
  grouped_ = true;
  for (DeviceSegment& segment : segments) {
    LOLA_CHECK(segment.layout != nullptr);
    const size_t rows = RowsOf(segment);
    LOLA_CHECK(rows > 0);
    segment.status = Check(segment, rows);
    if (absl::IsUnavailable(segment.status)) return segment.status;
    if (!segment.status.ok()) continue;
    const absl::StatusOr<const DevicePlan*> plan = plans_.Find(*segment.layout);
    const memory::LolaSettings& settings = segment.layout->settings();
    const cuda::Sections sections = Larger(sections_, (*plan)->sections);
    const uint32_t variants = std::max(variants_, (*plan)->variants);
    const cuda::EventSizes sizes = Larger(sizes_, EventSizesOf(**plan));
    // Room for all of them together may be more. What does not fit is this segment's: others go on.
    segment.status = MakeRoom(sections, variants, sizes);
    if (absl::IsUnavailable(segment.status)) return segment.status;
    if (!segment.status.ok()) continue;
    sections_ = sections;
    variants_ = variants;
    sizes_ = sizes;
    const uint64_t position = arena_->position(segment.slot);
    if (segment.logits != nullptr || segment.sampling != nullptr) {
      heads_.push_back(uint32_t(active_.size()));
    }
    active_.push_back(&segment);
    active_plans_.push_back(*plan);
    parts_.push_back({&settings, position, uint32_t(rows)});
    spans_ = Larger(spans_, (*plan)->spans);
    grouped_ =
        grouped_ && settings.mode == memory::Mode::kLola && segment.layout->cache_heads() > 1;
    absolute_ = absolute_ || settings.mode == memory::Mode::kSoftmax ||
                settings.memory_positions == memory::MemoryPositions::kRotary;
    masses_ = masses_ ||
              (settings.mode == memory::Mode::kLola && settings.score == memory::Score::kAttention);
  }
  // Once more: an attempt that failed has left less than there was.
  return active_.empty() ? absl::OkStatus() : MakeRoom(sections_, variants_, sizes_);
}

absl::Status DeviceStepper::MakeRoom(const cuda::Sections& sections, uint32_t variants,
                                     const cuda::EventSizes& sizes) {
  // At least one event at a time must have room.
  const size_t event = shape_.query_heads * sizes.Bytes(shape_.feature_dim, shape_.head_dim);
  if (sizes.pairs_max > 0 && event > b_->event_work.size()) {
    // As many at a time as are wanted, also after an attempt for a larger one has failed.
    const size_t wanted = std::max(event, options_.event_work_bytes);
    absl::Status room = b_->event_work.Allocate(device_, wanted, "event work");
    if (absl::IsResourceExhausted(room) && event < wanted) {
      room = b_->event_work.Allocate(device_, event, "event work");
    }
    if (!room.ok()) return room;
  }
  const absl::StatusOr<bool> grown =
      b_->Grow(device_, shape_, options_.rows_max, sections, variants);
  if (!grown.ok() || *grown) ForgetGraphs();
  return grown.status();
}

// Decode steps: one row a stream, every stream in one piece.
bool DeviceStepper::Recordable() const {
  return options_.record_decode && step_.single && step_.waves.size() == 1 &&
         std::bit_ceil(step_.rows.size()) <= options_.rows_max;
}

// Tokens and angles of every row. Angles of absolute positions are taken in float64 on the host:
// 10^9 is as exact as 0.
void DeviceStepper::FillPieces() {
  const size_t half = shape_.head_dim / 2;
  for (const Piece& piece : step_.pieces) {
    const StepPart& part = parts_[piece.part];
    const std::span<const int32_t> tokens = active_[piece.part]->tokens;
    for (uint32_t r = 0; r < piece.rows && !tokens.empty(); ++r) {
      b_->rows.host[piece.first_row + r].token = tokens[piece.offset + r];
    }
    if (!absolute_) continue;
    kernels::FillRotationRows(model_->rope_frequencies(), part.position + piece.offset, piece.rows,
                              b_->cos.host + piece.first_row * half,
                              b_->sin.host + piece.first_row * half);
  }
}

// Rows beyond the real ones are padding: token 0 at position 0 of the spare record, by the settings
// of some stream of the step. What padding of other settings wrote there could be counts of pairs
// that do not exist to these, and kernels would read behind the record: then it is zeros again.
void DeviceStepper::FillPadding() {
  if (padded_ == step_.rows.size()) return;
  const size_t r = options_.rows_max, half = shape_.head_dim / 2;
  if (std::ranges::find(active_plans_, spare_plan_) == active_plans_.end()) {
    spare_plan_ = active_plans_[0];
    device_->Zero(Queue::kCompute, arena_->spare(), arena_->stride_bytes());
  }
  b_->segments.host[r] = {arena_->spare(), spare_plan_->plan};
  for (size_t i = step_.rows.size(); i < padded_; ++i) {
    b_->rows.host[i] = {0, 0, uint32_t(r)};
    b_->tiles.host[i] = {0, uint32_t(r), uint32_t(i), 1};
    if (!absolute_) continue;
    std::fill_n(b_->cos.host + i * half, half, 1.0f);
    std::fill_n(b_->sin.host + i * half, half, 0.0f);
  }
}

void DeviceStepper::FillTables() {
  std::copy(step_.rows.begin(), step_.rows.end(), b_->rows.host);
  std::copy(step_.tiles.begin(), step_.tiles.end(), b_->tiles.host);
  for (size_t i = 0; i < active_.size(); ++i) {
    b_->segments.host[i] = {arena_->record(active_[i]->slot), active_plans_[i]->plan};
  }
  FillPieces();
  FillPadding();
  size_t at = 0;
  for (uint32_t layer = 0; layer < shape_.layers; ++layer) {
    for (cuda::Event event : step_.events) {
      event.layer = layer;
      b_->events.host[at++] = event;
    }
  }
  FillHeads();
}

// The small tables as they are, of the large ones what the step has filled.
void DeviceStepper::UploadTables() {
  const auto upload = [this](void* to, const void* from, size_t bytes) {
    device_->Upload(Queue::kCompute, to, from, bytes);
  };
  upload(b_->in.device(), b_->in.host(), b_->in.bytes());
  const size_t angles = padded_ * (shape_.head_dim / 2) * sizeof(float);
  if (absolute_) {
    upload(b_->cos.device, b_->cos.host, angles);
    upload(b_->sin.device, b_->sin.host, angles);
  }
  upload(b_->events.device, b_->events.host,
         step_.events.size() * shape_.layers * sizeof(cuda::Event));
  upload(b_->recent.data(), b_->recent_host.data(), b_->recent_host.size() * sizeof(int32_t));
}

size_t DeviceStepper::RowsOf(const DeviceSegment& segment) const {
  return model_->has_first_layer() ? segment.tokens.size()
                                   : segment.hidden_in.size() / shape_.hidden;
}

// Rows that come from the stage before. Padding rows are zeros: their numbers stay finite.
void DeviceStepper::UploadHidden() {
  const size_t hidden = shape_.hidden;
  float* host = reinterpret_cast<float*>(b_->hidden.data());
  for (const Piece& piece : step_.pieces) {
    const float* from = active_[piece.part]->hidden_in.data() + piece.offset * hidden;
    std::copy_n(from, piece.rows * hidden, host + piece.first_row * hidden);
  }
  const size_t floats = step_.rows.size() * hidden;
  device_->Upload(Queue::kCompute, b_->x.data(), host, floats * sizeof(float));
  device_->Zero(Queue::kCompute, b_->x.data() + floats,
                (padded_ - step_.rows.size()) * hidden * sizeof(float));
}

// Which rows go through the head, and how their tokens are chosen.
void DeviceStepper::FillHeads() {
  std::vector<uint32_t> last_row(active_.size());
  for (const Piece& piece : step_.pieces) last_row[piece.part] = piece.first_row + piece.rows - 1;
  b_->recent_host.clear();
  for (size_t n = 0; n < heads_.size(); ++n) {
    const DeviceSegment& segment = *active_[heads_[n]];
    b_->picks.host[n] = last_row[heads_[n]];
    cuda::SampleRow& sample = b_->samples.host[n];
    sample = {0, 1, 1, 0, uint32_t(b_->recent_host.size()), 0, 0};
    if (segment.sampling == nullptr) continue;
    const SamplingParams& params = *segment.sampling;
    const uint64_t position = parts_[heads_[n]].position + parts_[heads_[n]].rows;
    sample = {params.temperature,
              params.top_p,
              params.repetition_penalty,
              params.top_k,
              uint32_t(b_->recent_host.size()),
              0,
              UniformAt(params.seed, position)};
    if (params.repetition_penalty == 1.0f) continue;
    const size_t count = std::min<size_t>(segment.recent.size(), params.repetition_window);
    std::vector<int32_t> ids(segment.recent.end() - count, segment.recent.end());
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    sample.recent_count = uint32_t(ids.size());
    b_->recent_host.insert(b_->recent_host.end(), ids.begin(), ids.end());
  }
}

absl::Status DeviceStepper::Step(std::span<DeviceSegment> segments, memory::MemoryStats* stats) {
  LOLA_CHECK(arena_ != nullptr) << "UseArena comes first";
  if (std::string error = device_->error(); !error.empty()) return absl::UnavailableError(error);
  size_t rows = 0;
  for (const DeviceSegment& segment : segments) rows += RowsOf(segment);
  if (rows == 0 || rows > options_.rows_max) {
    return absl::InvalidArgumentError(
        absl::StrCat("pass: ", rows, " rows, must be 1 to ", options_.rows_max));
  }
  absl::Status admitted = Admit(segments);
  if (!admitted.ok()) return admitted;
  if (active_.empty()) return absl::OkStatus();
  step_.Build(parts_);
  padded_ = Recordable() ? std::bit_ceil(step_.rows.size()) : step_.rows.size();
  FillTables();
  if (b_->recent.size() < b_->recent_host.size()) {
    absl::Status status = b_->recent.Allocate(device_, 2 * b_->recent_host.size(), "recent tokens");
    if (!status.ok()) return status;
  }
  UploadTables();
  if (!model_->has_first_layer()) UploadHidden();
  device_->Zero(Queue::kCompute, b_->out.device(), b_->out.bytes());
  RunForward();
  const cuda::Mark events = RunEventsBeside();
  Heads();
  if (!model_->has_last_layer()) {
    device_->Download(Queue::kCompute, b_->hidden.data(), b_->x.data(),
                      step_.rows.size() * shape_.hidden * sizeof(float));
  }
  device_->WaitFor(Queue::kCompute, events);
  device_->Download(Queue::kCompute, b_->out.host(), b_->out.device(), b_->out.bytes());
  device_->WaitOnHost(device_->Record(Queue::kCompute));
  if (const std::string error = device_->error(); !error.empty()) {
    return absl::UnavailableError(error);
  }
  Collect(stats);
  return absl::OkStatus();
}

void DeviceStepper::Collect(memory::MemoryStats* stats) {
  for (size_t i = 0; i < active_.size(); ++i) {
    arena_->SetPosition(active_[i]->slot, parts_[i].position + parts_[i].rows);
    if (b_->broken.host[i] != 0) {
      active_[i]->status = absl::InternalError("layer memory: numbers that are not finite");
    }
  }
  const size_t hidden = shape_.hidden;
  const float* rows = reinterpret_cast<const float*>(b_->hidden.data());
  for (const Piece& piece : step_.pieces) {
    const std::span<float> to = active_[piece.part]->hidden_out;
    if (to.empty()) continue;
    std::copy_n(rows + piece.first_row * hidden, piece.rows * hidden,
                to.begin() + piece.offset * hidden);
  }
  for (size_t n = 0; n < heads_.size(); ++n) {
    DeviceSegment& segment = *active_[heads_[n]];
    const cuda::SampledRow& sampled = b_->sampled.host[n];
    if (sampled.id < 0 && segment.status.ok()) {
      segment.status = absl::InternalError("logits: not finite");
    }
    segment.sampled = {sampled.id, sampled.logprob};
  }
  if (stats == nullptr) return;
  const cuda::StepCounters& c = *b_->counters.host;
  stats->tokens += step_.rows.size() * shape_.layers * shape_.kv_heads;
  stats->events += c.events;
  stats->admissions += c.admissions;
  stats->displacements += c.displacements;
  stats->absorptions += c.absorptions;
  stats->nonfinite_scores += c.nonfinite_scores;
  stats->nonfinite_rows += c.nonfinite_rows;
  stats->occupancy_sum += c.occupancy_sum;
  stats->occupancy_count += c.occupancy_count;
  for (size_t i = 0; i < memory::kRecallErrorBuckets; ++i) {
    stats->recall_error_histogram[i] += c.recall_errors[i];
    stats->recall_error_count += c.recall_errors[i];
  }
  stats->recall_error_sum += double(c.recall_error_sum) * 0x1p-20;
}

}  // namespace lola::engine
