#include "services/engine/pipeline/pipeline_states.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "memory/stream/stream_state.h"

namespace lola::engine {
namespace {

// One of the copies that may be under way; given back when the last holder is done.
class CopyPermit {
 public:
  explicit CopyPermit(std::shared_ptr<std::atomic<size_t>> used) : used_(std::move(used)) {
    ++*used_;
  }
  ~CopyPermit() { --*used_; }
  CopyPermit(const CopyPermit&) = delete;
  CopyPermit& operator=(const CopyPermit&) = delete;

 private:
  const std::shared_ptr<std::atomic<size_t>> used_;
};

class PipelineStates : public ResidentStates {
 public:
  PipelineStates(LayerStage* front, std::span<const std::unique_ptr<StageLink>> stages,
                 size_t copies)
      : front_(*front), stages_(stages), copies_max_(copies), slots_(front->slots()) {}

  absl::StatusOr<size_t> Acquire() override {
    for (size_t slot = 0; slot < slots_.size(); ++slot) {
      if (slots_[slot].taken) continue;
      slots_[slot].taken = true;
      return slot;
    }
    return absl::ResourceExhaustedError(absl::StrCat("slots: all ", slots_.size(), " in use"));
  }
  void Release(size_t slot) override {
    LOLA_CHECK(slots_.at(slot).taken);
    slots_[slot] = {};
  }

  absl::Status Reset(size_t slot, const memory::StateLayout& layout,
                     const std::array<std::byte, 16>& model_fingerprint) override {
    LOLA_CHECK(model_fingerprint == front_.model().fingerprint_bytes());
    slots_.at(slot).layout.emplace(layout);
    absl::Status status = front_.Reset(slot, layout.settings());
    for (const auto& stage : stages_) {
      if (status.ok()) status = stage->Reset(slot, layout.settings());
    }
    return status;
  }

  // Memory beside the slots: the record is whole only here.
  Staging Stage(size_t, size_t bytes) override {
    std::byte* data = AllocateHost(bytes);
    LOLA_CHECK(data != nullptr) << "staging of " << bytes << " bytes";
    return {std::shared_ptr<void>(data, [](void* p) { std::free(p); }), std::span(data, bytes)};
  }

  absl::Status Adopt(size_t slot, const memory::StateLayout& layout,
                     const Staging& staging) override {
    LOLA_CHECK_EQ(staging.bytes.size(), layout.stride_bytes());
    slots_.at(slot).layout.emplace(layout);
    const uint64_t position = memory::StreamState(&layout, staging.bytes).position();
    const RecordPiece here = PieceOf(layout, front_.model().layers());
    auto sections = front_.BeginLoad(slot, layout.settings(), position, here.bytes);
    if (!sections.ok()) return sections.status();
    std::memcpy(sections->data(), staging.bytes.data() + here.offset, here.bytes);
    absl::Status status = front_.Loaded(slot);
    for (const auto& stage : stages_) {
      if (!status.ok()) return status;
      const RecordPiece piece = PieceOf(layout, stage->layers());
      status = stage->Load(slot, layout.settings(), position,
                           staging.bytes.subspan(piece.offset, piece.bytes));
    }
    return status;
  }

  absl::StatusOr<StateCopy> Copy(size_t slot, std::span<std::byte> to) override {
    const memory::StateLayout& layout = *slots_.at(slot).layout;
    LOLA_CHECK_EQ(to.size(), layout.stride_bytes());
    if (*copies_ >= copies_max_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("state copies: ", copies_->load(), " of ", copies_max_, " under way"));
    }
    auto permit = std::make_shared<CopyPermit>(copies_);
    const absl::StatusOr<std::span<const std::byte>> here = front_.Sections(slot);
    if (!here.ok()) return here.status();
    struct Part {
      PieceCopy arrived;
      std::span<std::byte> to;
    };
    std::vector<Part> parts;
    for (const auto& stage : stages_) {
      const RecordPiece piece = PieceOf(layout, stage->layers());
      absl::StatusOr<PieceCopy> copy = stage->Copy(slot, piece.bytes);
      if (!copy.ok()) return copy.status();
      parts.push_back({*std::move(copy), to.subspan(piece.offset, piece.bytes)});
    }
    std::copy(here->begin(), here->end(),
              to.begin() + PieceOf(layout, front_.model().layers()).offset);
    memory::StreamState(&layout, to)
        .WriteHeader(front_.model().fingerprint_bytes(), front_.position(slot));
    return StateCopy([parts = std::move(parts), permit] {
      absl::Status status;
      for (const Part& part : parts) status.Update(part.arrived(part.to));
      return status;
    });
  }

  std::byte* AllocateHost(size_t bytes) override {
    return static_cast<std::byte*>(std::aligned_alloc(memory::kPageBytes, bytes));
  }
  void FreeHost(std::byte* data) override { std::free(data); }
  std::span<std::byte> record(size_t, size_t) override { return {}; }

 private:
  struct Slot {
    bool taken = false;
    std::optional<memory::StateLayout> layout;  // of the whole record
  };

  LayerStage& front_;
  const std::span<const std::unique_ptr<StageLink>> stages_;
  const size_t copies_max_;
  std::vector<Slot> slots_;
  const std::shared_ptr<std::atomic<size_t>> copies_ = std::make_shared<std::atomic<size_t>>(0);
};

}  // namespace

std::unique_ptr<ResidentStates> MakePipelineStates(
    LayerStage* front, std::span<const std::unique_ptr<StageLink>> stages, size_t copies) {
  return std::make_unique<PipelineStates>(front, stages, copies);
}

}  // namespace lola::engine
