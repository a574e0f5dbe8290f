#include "services/engine/pipeline/pipeline_runner.h"

#include <algorithm>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "services/engine/pipeline/host_stage.h"
#include "services/engine/pipeline/pipeline_states.h"

namespace lola::engine {
namespace {

using Links = std::vector<std::unique_ptr<StageLink>>;

absl::Status Away(const StageLink& stage, const absl::Status& why) {
  return absl::UnavailableError(absl::StrCat("stage ", stage.name(), " (layers ",
                                             stage.layers().ToString(), "): ", why.message()));
}

// One class where all layers have the same, else which layers have which. Cuts leave no trace.
std::string ClassOf(const LayerRange& here, const std::string& own, const Links& stages) {
  std::vector<std::pair<LayerRange, std::string>> runs = {{here, own}};
  for (const auto& stage : stages) {
    if (stage->instruction_class() == runs.back().second) {
      runs.back().first.end = stage->layers().end;
    } else {
      runs.emplace_back(stage->layers(), stage->instruction_class());
    }
  }
  if (runs.size() == 1) return own;
  std::string text;
  for (const auto& [layers, name] : runs) {
    absl::StrAppend(&text, text.empty() ? "" : ",", layers.ToString(), ":", name);
  }
  return text;
}

class PipelineRunner : public ModelRunner {
 public:
  PipelineRunner(std::shared_ptr<const Model> model, Links stages, const PipelineOptions& options)
      : model_(std::move(model)),
        stages_(std::move(stages)),
        options_(options),
        here_(options.here != nullptr ? options.here : MakeHostStages(1)),
        class_(ClassOf(model_->layers(), here_->instruction_class(), stages_)) {}

  const Model& model() const override { return *model_; }
  size_t rows_max() const override { return options_.rows_max; }
  bool samples() const override { return stages_.back()->samples(); }
  std::string instruction_class() const override { return class_; }
  RunnerCounters counters() const override { return here_->counters(); }
  absl::Status Step(std::span<Segment> segments) override;
  absl::Status CheckSettings(const memory::LolaSettings& settings) const override;
  absl::StatusOr<std::unique_ptr<ResidentStates>> MakeStates(size_t slot_bytes, size_t slots,
                                                             size_t copies) override;
  absl::Status health() const override;
  absl::Status Recover() override;

 private:
  // A part of a step that goes through the stages as a whole.
  struct Piece {
    std::vector<StageSegment> parts;
    std::vector<size_t> of;           // which segment of the step a part is of
    std::vector<float> values, next;  // rows on their way; at the end logits
    StageOutcome outcome;
    size_t rows = 0;
  };

  absl::Status OpenAll();
  size_t Admit(std::span<Segment> segments);
  void Cut(std::span<Segment> segments, size_t rows);
  Piece& PieceWithRoom(size_t piece_rows);
  absl::Status RunPieces(std::span<Segment> segments);
  absl::Status RunHere(Piece& piece, std::span<Segment> segments);
  absl::Status Start(size_t stage, const Piece& piece);
  absl::Status Finish(size_t stage, Piece& piece, std::span<Segment> segments);
  absl::Status Note(const Piece& piece, std::span<Segment> segments);
  void TakeLogits(std::span<Segment> segments);
  absl::Status Lost(absl::Status status);

  const std::shared_ptr<const Model> model_;
  const Links stages_;
  const PipelineOptions options_;
  const std::shared_ptr<StageMaker> here_;
  const std::string class_;
  std::vector<StageTerms> terms_;  // of the stages
  std::unique_ptr<LayerStage> front_;
  mutable std::mutex mu_;
  absl::Status lost_;  // guarded by mu_; stays until Recover

  // Of the step at hand.
  std::vector<StageSegment> admitted_;  // one per segment; without rows when it is refused
  std::vector<Piece> pieces_;
  size_t used_ = 0;  // pieces_ in use
  std::vector<StageSegment> parts_here_;
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
                   .instruction_class = here_->instruction_class(),
                   .slot_bytes = StageSlotBytes(*model_, model_->layers(), slot_bytes),
                   .slots = slots,
                   .rows_max = options_.rows_max};
  auto front = here_->Make(model_, terms);
  if (!front.ok()) return front.status();
  front_ = *std::move(front);
  for (const auto& stage : stages_) {
    terms.layers = stage->layers();
    terms.instruction_class = stage->instruction_class();
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
  if (absl::Status here = here_->health(); !here.ok()) return here;
  for (const auto& stage : stages_) {
    if (absl::Status state = stage->state(); !state.ok()) return Away(*stage, state);
  }
  return absl::OkStatus();
}

absl::Status PipelineRunner::Recover() {
  absl::Status status = here_->health();
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
  Cut(segments, Admit(segments));
  if (absl::Status run = RunPieces(segments); !run.ok()) return run;
  TakeLogits(segments);
  // What is not finite is in the segment it belongs to; the counters are of all of them together.
  stats_.nonfinite_rows = stats_.nonfinite_scores = 0;
  if (!segments.empty() && segments[0].stats != nullptr) segments[0].stats->Merge(stats_);
  return absl::OkStatus();
}

// A segment is refused as a whole, before any row of it went anywhere. Returns the rows of others.
size_t PipelineRunner::Admit(std::span<Segment> segments) {
  size_t rows = 0;
  admitted_.assign(segments.size(), {});
  for (size_t i = 0; i < segments.size(); ++i) {
    Segment& segment = segments[i];
    const bool sample = segment.sampling != nullptr;
    LOLA_CHECK(segment.logits_rows == 0 || segment.logits != nullptr || sample);
    StageSegment whole{.slot = segment.slot,
                       .rows = uint32_t(segment.tokens.size()),
                       .logits_rows = sample ? 0 : segment.logits_rows,
                       .tokens = segment.tokens,
                       .sampling = segment.sampling,
                       .recent = segment.recent};
    segment.status = front_->Check(whole);
    if (!segment.status.ok()) continue;
    whole.position = front_->position(segment.slot);
    admitted_[i] = whole;
    rows += whole.rows;
  }
  return rows;
}

PipelineRunner::Piece& PipelineRunner::PieceWithRoom(size_t piece_rows) {
  if (used_ > 0 && pieces_[used_ - 1].rows < piece_rows) return pieces_[used_ - 1];
  if (++used_ > pieces_.size()) pieces_.emplace_back();
  Piece& fresh = pieces_[used_ - 1];
  fresh.parts.clear();
  fresh.of.clear();
  fresh.rows = 0;
  return fresh;
}

// Pieces of about equal length: runs of rows in order, over the ends of segments.
void PipelineRunner::Cut(std::span<Segment> segments, size_t rows) {
  const size_t count = std::max<size_t>(1, rows / std::max<size_t>(1, options_.piece_rows));
  const size_t piece_rows = (rows + count - 1) / count;
  used_ = 0;
  for (size_t i = 0; i < segments.size(); ++i) {
    const StageSegment& whole = admitted_[i];
    for (uint32_t at = 0; at < whole.rows;) {
      Piece& piece = PieceWithRoom(piece_rows);
      const uint32_t take = std::min(whole.rows - at, uint32_t(piece_rows - piece.rows));
      // Wanted are the last rows of the segment: of a part its last ones, or none.
      const uint32_t wanted_from = std::max(whole.rows - whole.logits_rows, at);
      const uint32_t wanted = at + take - std::min(at + take, wanted_from);
      const bool last = at + take == whole.rows;  // a token is picked after it
      piece.parts.push_back({whole.slot, whole.position + at, take, wanted,
                             whole.tokens.subspan(at, take), last ? whole.sampling : nullptr,
                             last ? whole.recent : std::span<const int32_t>()});
      piece.of.push_back(i);
      piece.rows += take;
      at += take;
    }
  }
}

// In round r piece p is at stage r - p, where stage 0 is here: all of them work at the same time.
absl::Status PipelineRunner::RunPieces(std::span<Segment> segments) {
  const size_t stages = stages_.size();
  for (size_t round = 0; used_ > 0 && round < used_ + stages; ++round) {
    const auto at = [&](size_t stage) -> Piece* {  // the piece at stages_[stage] in this round
      const bool there = round > stage && round - stage - 1 < used_;
      return there ? &pieces_[round - stage - 1] : nullptr;
    };
    absl::Status status;
    size_t started = 0;
    for (; started < stages && status.ok(); ++started) {
      if (const Piece* piece = at(started)) status = Start(started, *piece);
    }
    const size_t finish = status.ok() ? started : started - 1;
    if (status.ok() && round < used_) status = RunHere(pieces_[round], segments);
    // Whatever was started is waited for, so that no answer is left for a later question.
    for (size_t stage = 0; stage < finish; ++stage) {
      if (Piece* piece = at(stage)) status.Update(Finish(stage, *piece, segments));
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status PipelineRunner::RunHere(Piece& piece, std::span<Segment> segments) {
  piece.values.resize(front_->OutputFloats(piece.parts));
  parts_here_ = piece.parts;
  for (StageSegment& part : parts_here_) part.sampling = nullptr;  // the last stage's business
  absl::Status stepped = front_->Step(parts_here_, {}, piece.values, &piece.outcome);
  if (absl::IsUnavailable(stepped)) return Lost(stepped);
  return stepped.ok() ? Note(piece, segments) : stepped;
}

absl::Status PipelineRunner::Start(size_t stage, const Piece& piece) {
  std::span<const StageSegment> parts = piece.parts;
  if (stage + 1 < stages_.size()) {
    parts_here_ = piece.parts;
    for (StageSegment& part : parts_here_) part.sampling = nullptr;
    parts = parts_here_;
  }
  const absl::Status started = stages_[stage]->StartStep(parts, piece.values);
  return started.ok() ? started : Lost(Away(*stages_[stage], started));
}

absl::Status PipelineRunner::Finish(size_t stage, Piece& piece, std::span<Segment> segments) {
  const memory::ModelGeometry& g = model_->geometry();
  const bool last = stages_[stage]->layers().end == g.layers;
  size_t floats = 0;
  for (const StageSegment& part : piece.parts) {
    floats += last ? size_t{part.logits_rows} * g.vocab : size_t{part.rows} * g.hidden;
  }
  piece.next.resize(floats);
  absl::Status status = stages_[stage]->FinishStep(piece.next, &piece.outcome);
  if (status.ok()) status = Note(piece, segments);
  if (!status.ok()) return Lost(Away(*stages_[stage], status));
  std::swap(piece.values, piece.next);
  return absl::OkStatus();
}

// Every stage takes what was admitted here: one that does not is out of step.
absl::Status PipelineRunner::Note(const Piece& piece, std::span<Segment> segments) {
  if (piece.outcome.segments.size() != piece.parts.size()) {
    return absl::InternalError(absl::StrCat("segments: asked for ", piece.parts.size(),
                                            ", answered ", piece.outcome.segments.size()));
  }
  for (size_t i = 0; i < piece.of.size(); ++i) {
    const SegmentOutcome& outcome = piece.outcome.segments[i];
    if (!outcome.advanced)
      return absl::InternalError(absl::StrCat("refused: ", outcome.status.message()));
    segments[piece.of[i]].status.Update(outcome.status);
    if (piece.parts[i].sampling != nullptr) segments[piece.of[i]].sampled = outcome.sampled;
  }
  stats_.Merge(piece.outcome.stats);
  return absl::OkStatus();
}

void PipelineRunner::TakeLogits(std::span<Segment> segments) {
  const size_t vocab = model_->geometry().vocab;
  std::vector<size_t> taken(segments.size());
  for (size_t p = 0; p < used_; ++p) {
    const Piece& piece = pieces_[p];
    const float* row = piece.values.data();
    for (size_t i = 0; i < piece.parts.size(); ++i) {
      const size_t values = piece.parts[i].logits_rows * vocab;
      if (values == 0) continue;
      std::copy_n(row, values, segments[piece.of[i]].logits + taken[piece.of[i]]);
      taken[piece.of[i]] += values;
      row += values;
    }
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
