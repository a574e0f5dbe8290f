#include "services/engine/pipeline/layer_stage.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/cpu.h"
#include "memory/stream/stream_state.h"

namespace lola::engine {
namespace {

constexpr uint64_t kRowsMax = 1 << 16;

template <typename A, typename B>
absl::Status Differs(absl::string_view field, const A& asked, const B& here) {
  return absl::FailedPreconditionError(
      absl::StrCat(field, ": the front has ", asked, ", this stage has ", here));
}

absl::Status CheckTerms(const Model& model, const StageTerms& terms) {
  const memory::ModelGeometry& g = model.geometry();
  if (terms.model_fingerprint != model.fingerprint()) {
    return Differs("model_fingerprint", terms.model_fingerprint, model.fingerprint());
  }
  const std::string dtype(kernels::DtypeName(model.dtype()));
  if (terms.weight_dtype != dtype) return Differs("weight_dtype", terms.weight_dtype, dtype);
  if (terms.layers != model.layers()) {
    return Differs("layers", terms.layers.ToString(), model.layers().ToString());
  }
  if (terms.model_layers != g.layers) return Differs("model_layers", terms.model_layers, g.layers);
  if (terms.hidden != g.hidden) return Differs("hidden", terms.hidden, g.hidden);
  if (terms.vocab != g.vocab) return Differs("vocab", terms.vocab, g.vocab);
  const std::string instructions(kernels::InstructionClass());
  if (terms.instruction_class != instructions) {
    return Differs("instruction_class", terms.instruction_class, instructions);
  }
  if (terms.rows_max == 0 || terms.rows_max > kRowsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows_max: ", terms.rows_max, ", must be 1 to ", kRowsMax));
  }
  return absl::OkStatus();
}

}  // namespace

size_t StageSlotBytes(const Model& model, const LayerRange& layers, size_t slot_bytes) {
  const memory::StateLayout whole(model.geometry(), model.default_settings());
  const size_t layers_bytes = whole.stride_bytes() - memory::kPageBytes;
  const size_t piece = PieceOf(whole, layers).bytes;
  const double share = static_cast<double>(piece) / static_cast<double>(layers_bytes);
  const size_t room = slot_bytes - std::min(slot_bytes, memory::kPageBytes);
  size_t bytes = static_cast<size_t>(static_cast<double>(room) * share);
  if (room == layers_bytes) bytes = piece;  // no rounding where none is needed
  return memory::kPageBytes +
         (bytes + memory::kPageBytes - 1) / memory::kPageBytes * memory::kPageBytes;
}

absl::StatusOr<std::unique_ptr<LayerStage>> LayerStage::Create(std::shared_ptr<const Model> model,
                                                               const StageTerms& terms,
                                                               int threads) {
  if (absl::Status valid = CheckTerms(*model, terms); !valid.ok()) return valid;
  auto arena = memory::StreamArena::Create(terms.slot_bytes, terms.slots);
  if (!arena.ok()) return arena.status();
  return std::unique_ptr<LayerStage>(
      new LayerStage(std::move(model), terms, threads, *std::move(arena)));
}

LayerStage::LayerStage(std::shared_ptr<const Model> model, const StageTerms& terms, int threads,
                       std::unique_ptr<memory::StreamArena> arena)
    : model_(std::move(model)),
      arena_(std::move(arena)),
      slots_(terms.slots),
      pool_(threads),
      workspace_(*model_, terms.rows_max, threads) {}

absl::Status LayerStage::CheckSettings(const memory::LolaSettings& settings) const {
  if (absl::Status valid = model_->CheckSettings(settings); !valid.ok()) return valid;
  const memory::StateLayout whole(model_->geometry(), settings);
  const size_t bytes = memory::kPageBytes + PieceOf(whole, model_->layers()).bytes;
  if (bytes <= arena_->stride_bytes()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("settings: state of layers ", model_->layers().ToString(), " has ", bytes,
                   " bytes, slots of their stage have ", arena_->stride_bytes()));
}

absl::Status LayerStage::CheckSlot(size_t slot) const {
  if (slot >= slots_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("slot: ", slot, ", must be below ", slots_.size()));
  }
  return absl::OkStatus();
}

std::span<std::byte> LayerStage::Record(size_t slot) const {
  return arena_->record(slot).first(slots_[slot].layout->stride_bytes());
}

absl::Status LayerStage::Prepare(size_t slot, const memory::LolaSettings& settings) {
  if (absl::Status valid = CheckSlot(slot); !valid.ok()) return valid;
  Slot& s = slots_[slot];
  s.layout.reset();
  s.loading = false;
  if (absl::Status valid = CheckSettings(settings); !valid.ok()) return valid;
  s.settings = CutSettings(settings, model_->layers());
  s.layout.emplace(model_->layers_geometry(), s.settings);
  return absl::OkStatus();
}

absl::Status LayerStage::Reset(size_t slot, const memory::LolaSettings& settings) {
  if (absl::Status ready = Prepare(slot, settings); !ready.ok()) return ready;
  memory::StreamState(&*slots_[slot].layout, Record(slot)).Reset(model_->fingerprint_bytes());
  return absl::OkStatus();
}

absl::StatusOr<std::span<std::byte>> LayerStage::BeginLoad(size_t slot,
                                                           const memory::LolaSettings& settings,
                                                           uint64_t position, size_t bytes) {
  if (absl::Status ready = Prepare(slot, settings); !ready.ok()) return ready;
  const std::span<std::byte> sections = Record(slot).subspan(memory::kPageBytes);
  if (sections.size() != bytes) {
    slots_[slot].layout.reset();
    return absl::InvalidArgumentError(
        absl::StrCat("sections: ", bytes, " bytes, these settings have ", sections.size()));
  }
  slots_[slot].loading = true;
  memory::StreamState(&*slots_[slot].layout, Record(slot))
      .WriteHeader(model_->fingerprint_bytes(), position);
  return sections;
}

absl::Status LayerStage::Loaded(size_t slot) {
  Slot& s = slots_[slot];
  LOLA_CHECK(s.loading);
  s.loading = false;
  const absl::Status valid =
      memory::StreamState(&*s.layout, Record(slot)).Check(model_->fingerprint_bytes());
  if (!valid.ok()) s.layout.reset();
  return valid;
}

absl::StatusOr<std::span<const std::byte>> LayerStage::Sections(size_t slot) const {
  if (absl::Status valid = CheckSlot(slot); !valid.ok()) return valid;
  if (!slots_[slot].layout || slots_[slot].loading) {
    return absl::InvalidArgumentError(absl::StrCat("slot: ", slot, " holds no state"));
  }
  return Record(slot).subspan(memory::kPageBytes);
}

uint64_t LayerStage::position(size_t slot) const {
  LOLA_CHECK(slots_[slot].layout.has_value());
  return memory::StreamState(&*slots_[slot].layout, Record(slot)).position();
}

size_t LayerStage::OutputFloats(std::span<const StageSegment> segments) const {
  const memory::ModelGeometry& g = model_->geometry();
  size_t floats = 0;
  for (const StageSegment& part : segments) {
    floats += model_->has_last_layer() ? size_t{part.logits_rows} * g.vocab
                                       : size_t{part.rows} * g.hidden;
  }
  return floats;
}

absl::Status LayerStage::CheckStep(std::span<const StageSegment> segments, size_t hidden_floats,
                                   size_t out_floats) {
  uint64_t rows = 0;
  absl::Status status;
  for (const StageSegment& part : segments) {
    const absl::StatusOr<std::span<const std::byte>> sections = Sections(part.slot);
    if (!sections.ok()) status = sections.status();
    if (!status.ok()) break;
    if (slots_[part.slot].in_step) {
      status = absl::InvalidArgumentError(absl::StrCat("slot: ", part.slot, " is there twice"));
    } else if (position(part.slot) != part.position) {
      status = absl::FailedPreconditionError(absl::StrCat(
          "slot ", part.slot, " position: front ", part.position, ", stage ", position(part.slot)));
    } else if (part.rows == 0 || part.logits_rows > part.rows) {
      status = absl::InvalidArgumentError(absl::StrCat("slot ", part.slot, ": ", part.rows,
                                                       " rows, ", part.logits_rows, " logits"));
    }
    if (!status.ok()) break;
    slots_[part.slot].in_step = true;
    rows += part.rows;
  }
  for (const StageSegment& part : segments) {
    if (part.slot < slots_.size()) slots_[part.slot].in_step = false;
  }
  if (!status.ok()) return status;
  if (rows == 0 || rows > rows_max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("step: ", rows, " rows, must be 1 to ", rows_max()));
  }
  const size_t expected = model_->has_first_layer() ? 0 : rows * model_->geometry().hidden;
  if (hidden_floats != expected || out_floats != OutputFloats(segments)) {
    return absl::InvalidArgumentError(absl::StrCat("step: ", hidden_floats, " values for ",
                                                   expected, ", room for ", out_floats, " of ",
                                                   OutputFloats(segments)));
  }
  return absl::OkStatus();
}

Segment LayerStage::MakeSegment(const StageSegment& part) {
  const Slot& s = slots_[part.slot];
  Segment segment;
  segment.record = Record(part.slot);
  segment.layout = &*s.layout;
  segment.settings = &s.settings;
  segment.tokens = part.tokens;
  segment.logits_rows = model_->has_last_layer() ? part.logits_rows : 0;
  return segment;
}

absl::Status LayerStage::Check(const StageSegment& segment) {
  if (auto in_use = Sections(segment.slot); !in_use.ok()) return in_use.status();
  return model_->CheckSegment(MakeSegment(segment));
}

absl::Status LayerStage::Step(std::span<const StageSegment> segments, std::span<const float> hidden,
                              std::span<float> out, StageOutcome* outcome) {
  if (absl::Status valid = CheckStep(segments, hidden.size(), out.size()); !valid.ok()) {
    return valid;
  }
  const memory::ModelGeometry& g = model_->geometry();
  segments_.clear();
  stats_.assign(segments.size(), {});
  for (size_t i = 0; i < segments.size(); ++i) {
    const StageSegment& part = segments[i];
    Segment segment = MakeSegment(part);
    segment.stats = &stats_[i];
    const size_t values = size_t{part.rows} * g.hidden;
    if (!model_->has_first_layer()) {
      segment.hidden_in = hidden.first(values);
      hidden = hidden.subspan(values);
    }
    if (model_->has_last_layer()) {
      segment.logits = part.logits_rows > 0 ? out.data() : nullptr;
      out = out.subspan(size_t{part.logits_rows} * g.vocab);
    } else {
      segment.hidden_out = out.first(values);
      out = out.subspan(values);
    }
    segments_.push_back(segment);
  }
  if (absl::Status stepped = model_->Step(segments_, workspace_, pool_); !stepped.ok()) {
    return stepped;
  }
  outcome->segments.clear();
  outcome->stats = {};
  for (size_t i = 0; i < segments.size(); ++i) {
    const bool advanced = position(segments[i].slot) != segments[i].position;
    outcome->segments.push_back({advanced, segments_[i].status});
    outcome->stats.Merge(stats_[i]);
  }
  return absl::OkStatus();
}

}  // namespace lola::engine
