#include "services/engine/pipeline/layer_stage.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "memory/stream/stream_state.h"

namespace lola::engine {
namespace {

constexpr uint64_t kRowsMax = 1 << 16;

template <typename A, typename B>
absl::Status Differs(absl::string_view field, const A& asked, const B& here) {
  return absl::FailedPreconditionError(
      absl::StrCat(field, ": the front has ", asked, ", this stage has ", here));
}

}  // namespace

absl::Status CheckTerms(const Model& model, const std::string& instruction_class,
                        const StageTerms& terms) {
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
  if (terms.instruction_class != instruction_class) {
    return Differs("instruction_class", terms.instruction_class, instruction_class);
  }
  if (terms.rows_max == 0 || terms.rows_max > kRowsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows_max: ", terms.rows_max, ", must be 1 to ", kRowsMax));
  }
  return absl::OkStatus();
}

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

LayerStage::LayerStage(std::shared_ptr<const Model> model, const StageTerms& terms)
    : model_(std::move(model)),
      slot_bytes_(terms.slot_bytes),
      rows_max_(terms.rows_max),
      slots_(terms.slots) {}

absl::Status LayerStage::CheckSettings(const memory::LolaSettings& settings) const {
  if (absl::Status valid = model_->CheckSettings(settings); !valid.ok()) return valid;
  const memory::StateLayout whole(model_->geometry(), settings);
  const size_t bytes = memory::kPageBytes + PieceOf(whole, model_->layers()).bytes;
  if (bytes <= slot_bytes_) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("settings: state of layers ", model_->layers().ToString(), " has ", bytes,
                   " bytes, slots of their stage have ", slot_bytes_));
}

absl::Status LayerStage::CheckSlot(size_t slot) const {
  if (slot >= slots_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("slot: ", slot, ", must be below ", slots_.size()));
  }
  return absl::OkStatus();
}

absl::Status LayerStage::CheckRecord(size_t slot, std::span<std::byte> record) const {
  return memory::StreamState(&*slots_[slot].layout, record).Check(model_->fingerprint_bytes());
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
  absl::Status done = Prepare(slot, settings);
  return done.ok() ? Clear(slot) : done;
}

absl::Status LayerStage::BeginLoad(size_t slot, const memory::LolaSettings& settings,
                                   uint64_t position, size_t bytes) {
  if (absl::Status ready = Prepare(slot, settings); !ready.ok()) return ready;
  Slot& s = slots_[slot];
  const size_t sections = s.layout->stride_bytes() - memory::kPageBytes;
  absl::Status status;
  if (sections != bytes) {
    status = absl::InvalidArgumentError(
        absl::StrCat("sections: ", bytes, " bytes, these settings have ", sections));
  } else {
    status = Place(slot, position).status();
  }
  if (!status.ok()) s.layout.reset();
  s.loading = status.ok();
  return status;
}

absl::StatusOr<std::span<std::byte>> LayerStage::LoadSpace(size_t slot) {
  if (absl::Status valid = CheckSlot(slot); !valid.ok()) return valid;
  if (!slots_[slot].loading) {
    return absl::InvalidArgumentError(absl::StrCat("slot: ", slot, " is not being loaded"));
  }
  return Placed(slot).subspan(memory::kPageBytes);
}

absl::Status LayerStage::Loaded(size_t slot) {
  if (absl::Status loading = LoadSpace(slot).status(); !loading.ok()) return loading;
  slots_[slot].loading = false;
  const absl::Status taken = Take(slot);
  if (!taken.ok()) slots_[slot].layout.reset();
  return taken;
}

absl::StatusOr<size_t> LayerStage::RecordBytes(size_t slot) const {
  if (absl::Status valid = CheckSlot(slot); !valid.ok()) return valid;
  if (!holds_state(slot)) {
    return absl::InvalidArgumentError(absl::StrCat("slot: ", slot, " holds no state"));
  }
  return slots_[slot].layout->stride_bytes();
}

std::shared_ptr<std::byte[]> LayerStage::AllocateHost(size_t bytes) {
  const size_t whole = (bytes + memory::kPageBytes - 1) / memory::kPageBytes * memory::kPageBytes;
  auto* data = static_cast<std::byte*>(std::aligned_alloc(memory::kPageBytes, whole));
  LOLA_CHECK(data != nullptr) << "copy of " << bytes << " bytes";
  return {data, [](std::byte* p) { std::free(p); }};
}

LayerStage::Rows LayerStage::NextRows(const StageSegment& segment, std::span<const float>& hidden,
                                      std::span<float>& out) const {
  const memory::ModelGeometry& g = model_->geometry();
  const size_t values = size_t{segment.rows} * g.hidden;
  Rows rows;
  if (!model_->has_first_layer()) {
    rows.hidden_in = hidden.first(values);
    hidden = hidden.subspan(values);
  }
  if (model_->has_last_layer()) {
    rows.logits = segment.logits_rows > 0 ? out.data() : nullptr;
    out = out.subspan(size_t{segment.logits_rows} * g.vocab);
  } else {
    rows.hidden_out = out.first(values);
    out = out.subspan(values);
  }
  return rows;
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

absl::Status LayerStage::CheckPart(const StageSegment& part) const {
  if (absl::Status held = RecordBytes(part.slot).status(); !held.ok()) return held;
  if (slots_[part.slot].in_step) {
    return absl::InvalidArgumentError(absl::StrCat("slot: ", part.slot, " is there twice"));
  }
  if (position(part.slot) != part.position) {
    return absl::FailedPreconditionError(absl::StrCat(
        "slot ", part.slot, " position: front ", part.position, ", stage ", position(part.slot)));
  }
  if (part.rows == 0 || part.logits_rows > part.rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("slot ", part.slot, ": ", part.rows, " rows, ", part.logits_rows, " logits"));
  }
  if (part.sampling == nullptr) return absl::OkStatus();
  if (!samples() || !model_->has_last_layer() || part.logits_rows > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("slot ", part.slot, ": a token is asked for, ",
                     part.logits_rows > 0 ? "and logits too" : "but this stage does not sample"));
  }
  for (const int32_t id : part.recent) {
    if (id >= 0 && uint32_t(id) < model_->geometry().vocab) continue;
    return absl::InvalidArgumentError(absl::StrCat("slot ", part.slot, ": recent token ", id,
                                                   ", must be 0 to ",
                                                   model_->geometry().vocab - 1));
  }
  return part.sampling->Validate();
}

absl::Status LayerStage::CheckStep(std::span<const StageSegment> segments, size_t hidden_floats,
                                   size_t out_floats) {
  uint64_t rows = 0;
  absl::Status status;
  for (const StageSegment& part : segments) {
    status = CheckPart(part);
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

absl::Status LayerStage::Step(std::span<const StageSegment> segments, std::span<const float> hidden,
                              std::span<float> out, StageOutcome* outcome) {
  if (absl::Status valid = CheckStep(segments, hidden.size(), out.size()); !valid.ok()) {
    return valid;
  }
  outcome->segments.clear();
  outcome->stats = {};
  return Run(segments, hidden, out, outcome);
}

}  // namespace lola::engine
