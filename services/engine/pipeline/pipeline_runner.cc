#include "services/engine/pipeline/pipeline_runner.h"

#include <algorithm>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/cpu.h"
#include "services/engine/pipeline/layer_stage.h"
#include "services/engine/pipeline/pipeline_states.h"

namespace lola::engine {
namespace {

using Links = std::vector<std::unique_ptr<StageLink>>;

absl::Status Away(const StageLink& stage, const absl::Status& why) {
  return absl::UnavailableError(absl::StrCat("stage ", stage.name(), " (layers ",
                                             stage.layers().ToString(), "): ", why.message()));
}

class PipelineRunner : public ModelRunner {
 public:
  PipelineRunner(std::shared_ptr<const Model> model, Links stages, const PipelineOptions& options)
      : model_(std::move(model)), stages_(std::move(stages)), options_(options) {}

  const Model& model() const override { return *model_; }
  size_t rows_max() const override { return options_.rows_max; }
  absl::Status Step(std::span<Segment> segments) override;
  absl::Status CheckSettings(const memory::LolaSettings& settings) const override;
  absl::StatusOr<std::unique_ptr<ResidentStates>> MakeStates(size_t slot_bytes, size_t slots,
                                                             size_t copies) override;
  absl::Status health() const override;
  absl::Status Recover() override;

 private:
  absl::Status OpenAll();
  absl::Status StepFront(std::span<Segment> segments);
  absl::Status StepStage(StageLink& stage, std::span<Segment> segments);
  void Note(const StageOutcome& outcome, std::span<Segment> segments);
  void TakeLogits(std::span<Segment> segments);
  absl::Status Lost(absl::Status status);

  const std::shared_ptr<const Model> model_;
  const Links stages_;
  const PipelineOptions options_;
  std::vector<StageTerms> terms_;  // of the stages
  std::unique_ptr<LayerStage> front_;
  mutable std::mutex mu_;
  absl::Status lost_;  // guarded by mu_; stays until Recover

  // Of the step at hand.
  std::vector<StageSegment> parts_;  // segments that take part
  std::vector<size_t> of_;           // which segment a part is of
  std::vector<float> hidden_, next_;
  StageOutcome outcome_;
  memory::MemoryStats stats_;
};

absl::StatusOr<std::unique_ptr<ResidentStates>> PipelineRunner::MakeStates(size_t slot_bytes,
                                                                           size_t slots,
                                                                           size_t copies) {
  const memory::ModelGeometry& g = model_->geometry();
  StageTerms terms{.front = options_.front,
                   .model_fingerprint = model_->fingerprint(),
                   .layers = model_->layers(),
                   .model_layers = g.layers,
                   .hidden = g.hidden,
                   .vocab = g.vocab,
                   .weight_dtype = std::string(kernels::DtypeName(model_->dtype())),
                   .instruction_class = instruction_class(),
                   .slot_bytes = StageSlotBytes(*model_, model_->layers(), slot_bytes),
                   .slots = slots,
                   .rows_max = options_.rows_max};
  auto front = LayerStage::Create(model_, terms, options_.threads);
  if (!front.ok()) return front.status();
  front_ = *std::move(front);
  for (const auto& stage : stages_) {
    terms.layers = stage->layers();
    terms.slot_bytes = StageSlotBytes(*model_, stage->layers(), slot_bytes);
    terms_.push_back(terms);
  }
  if (absl::Status opened = OpenAll(); !opened.ok()) return opened;
  return MakePipelineStates(front_.get(), stages_, copies);
}

absl::Status PipelineRunner::OpenAll() {
  const auto deadline = std::chrono::steady_clock::now() + options_.patience;
  for (size_t i = 0; i < stages_.size(); ++i) stages_[i]->Open(terms_[i]);
  for (const auto& stage : stages_) {
    absl::Status state = stage->state();
    while (absl::IsUnavailable(state) && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      state = stage->state();
    }
    if (!state.ok()) return absl::Status(state.code(), Away(*stage, state).message());
  }
  return absl::OkStatus();
}

absl::Status PipelineRunner::CheckSettings(const memory::LolaSettings& settings) const {
  if (absl::Status valid = model_->CheckSettings(settings); !valid.ok()) return valid;
  if (front_ == nullptr) return absl::OkStatus();  // slots are not known yet
  if (absl::Status fits = front_->CheckSettings(settings); !fits.ok()) return fits;
  const memory::StateLayout layout(model_->geometry(), settings);
  for (size_t i = 0; i < stages_.size(); ++i) {
    const size_t bytes = memory::kPageBytes + PieceOf(layout, stages_[i]->layers()).bytes;
    if (bytes <= terms_[i].slot_bytes) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "settings: state of layers ", stages_[i]->layers().ToString(), " has ", bytes,
        " bytes, slots of stage ", stages_[i]->name(), " have ", terms_[i].slot_bytes));
  }
  return absl::OkStatus();
}

absl::Status PipelineRunner::health() const {
  {
    std::lock_guard lock(mu_);
    if (!lost_.ok()) return lost_;
  }
  for (const auto& stage : stages_) {
    if (absl::Status state = stage->state(); !state.ok()) return Away(*stage, state);
  }
  return absl::OkStatus();
}

absl::Status PipelineRunner::Recover() {
  absl::Status status;
  for (size_t i = 0; i < stages_.size(); ++i) {
    stages_[i]->Open(terms_[i]);
    const absl::Status state = stages_[i]->state();
    if (status.ok() && !state.ok()) status = Away(*stages_[i], state);
  }
  std::lock_guard lock(mu_);
  lost_ = status;
  return status;
}

absl::Status PipelineRunner::Lost(absl::Status status) {
  std::lock_guard lock(mu_);
  if (lost_.ok()) lost_ = std::move(status);
  return lost_;
}

absl::Status PipelineRunner::Step(std::span<Segment> segments) {
  LOLA_CHECK(front_ != nullptr) << "MakeStates comes first";
  if (absl::Status well = health(); !well.ok()) return Lost(well);
  stats_ = {};
  if (absl::Status stepped = StepFront(segments); !stepped.ok()) return stepped;
  for (const auto& stage : stages_) {
    if (parts_.empty()) break;
    const absl::Status stepped = StepStage(*stage, segments);
    if (!stepped.ok()) return Lost(Away(*stage, stepped));
  }
  TakeLogits(segments);
  // What is not finite is in the segment it belongs to; the counters are of all of them together.
  stats_.nonfinite_rows = stats_.nonfinite_scores = 0;
  if (!segments.empty() && segments[0].stats != nullptr) segments[0].stats->Merge(stats_);
  return absl::OkStatus();
}

// The layers that are here. Segments that are refused take no further part.
absl::Status PipelineRunner::StepFront(std::span<Segment> segments) {
  parts_.clear();
  of_.clear();
  for (size_t i = 0; i < segments.size(); ++i) {
    Segment& segment = segments[i];
    segment.status = absl::OkStatus();
    LOLA_CHECK(segment.logits_rows == 0 || segment.logits != nullptr);
    parts_.push_back({segment.slot, front_->position(segment.slot), uint32_t(segment.tokens.size()),
                      segment.logits_rows, segment.tokens});
    of_.push_back(i);
  }
  hidden_.resize(front_->OutputFloats(parts_));
  absl::Status stepped = front_->Step(parts_, {}, hidden_, &outcome_);
  if (!stepped.ok()) return stepped;
  Note(outcome_, segments);
  const size_t hidden = model_->geometry().hidden;
  size_t kept = 0, from = 0, to = 0;
  for (size_t i = 0; i < parts_.size(); ++i) {
    const size_t values = parts_[i].rows * hidden;
    if (outcome_.segments[i].advanced) {
      if (from != to) std::copy_n(hidden_.begin() + from, values, hidden_.begin() + to);
      to += values;
      of_[kept] = of_[i];
      parts_[kept++] = parts_[i];
    }
    from += values;
  }
  parts_.resize(kept);
  of_.resize(kept);
  hidden_.resize(to);
  return absl::OkStatus();
}

absl::Status PipelineRunner::StepStage(StageLink& stage, std::span<Segment> segments) {
  const memory::ModelGeometry& g = model_->geometry();
  const bool last = stage.layers().end == g.layers;
  size_t floats = 0;
  for (const StageSegment& part : parts_) {
    floats += last ? size_t{part.logits_rows} * g.vocab : size_t{part.rows} * g.hidden;
  }
  next_.resize(floats);
  absl::Status stepped = stage.Step(parts_, hidden_, next_, &outcome_);
  if (!stepped.ok()) return stepped;
  if (outcome_.segments.size() != parts_.size()) {
    return absl::InternalError(absl::StrCat("segments: asked for ", parts_.size(), ", answered ",
                                            outcome_.segments.size()));
  }
  // The front's layers took it: a stage that did not is out of step with them.
  for (const SegmentOutcome& one : outcome_.segments) {
    if (!one.advanced) return one.status;
  }
  Note(outcome_, segments);
  std::swap(hidden_, next_);
  return absl::OkStatus();
}

void PipelineRunner::Note(const StageOutcome& outcome, std::span<Segment> segments) {
  for (size_t i = 0; i < of_.size(); ++i)
    segments[of_[i]].status.Update(outcome.segments[i].status);
  stats_.Merge(outcome.stats);
}

void PipelineRunner::TakeLogits(std::span<Segment> segments) {
  const size_t vocab = model_->geometry().vocab;
  const float* row = hidden_.data();
  for (size_t i = 0; i < parts_.size(); ++i) {
    const size_t values = parts_[i].logits_rows * vocab;
    std::copy_n(row, values, segments[of_[i]].logits);
    row += values;
  }
}

}  // namespace

absl::Status CheckCut(uint32_t layers, const LayerRange& front,
                      std::span<const std::unique_ptr<StageLink>> stages) {
  std::string who = absl::StrCat("layers ", front.ToString(), " are here");
  for (const auto& stage : stages) {
    absl::StrAppend(&who, ", ", stage->layers().ToString(), " at ", stage->name());
  }
  const auto wrong = [&](absl::string_view what, uint32_t layer) {
    return absl::InvalidArgumentError(
        absl::StrCat("stages: layer ", layer, " of ", layers, " is ", what, ": ", who));
  };
  uint32_t next = 0;
  LayerRange range = front;
  for (size_t i = 0; i <= stages.size(); ++i) {
    if (i > 0) range = stages[i - 1]->layers();
    if (range.first > next) return wrong("nowhere", next);
    if (range.first < next) return wrong("out of order or there twice", range.first);
    next = range.end;
  }
  return next < layers ? wrong("nowhere", next) : absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ModelRunner>> MakePipelineRunner(
    std::shared_ptr<const Model> model, std::vector<std::unique_ptr<StageLink>> stages,
    const PipelineOptions& options) {
  absl::Status whole = CheckCut(model->geometry().layers, model->layers(), stages);
  if (!whole.ok()) return whole;
  if (stages.empty()) return absl::InvalidArgumentError("stages: none");
  return std::make_unique<PipelineRunner>(std::move(model), std::move(stages), options);
}

}  // namespace lola::engine
