#include "services/engine/pipeline/host_stage.h"

#include <cstring>
#include <utility>

#include "kernels/core/cpu.h"
#include "kernels/core/thread_pool.h"
#include "memory/stream/arena.h"
#include "memory/stream/stream_state.h"

namespace lola::engine {
namespace {

class HostStage : public LayerStage {
 public:
  HostStage(std::shared_ptr<const Model> model, const StageTerms& terms, int threads,
            std::unique_ptr<memory::StreamArena> arena)
      : LayerStage(std::move(model), terms),
        arena_(std::move(arena)),
        pool_(threads),
        workspace_(*shared_model(), terms.rows_max, threads) {}

  absl::Status Check(const StageSegment& segment) override {
    if (absl::Status held = RecordBytes(segment.slot).status(); !held.ok()) return held;
    return model().CheckSegment(MakeSegment(segment));
  }
  absl::StatusOr<StateCopy> Copy(size_t slot, std::span<std::byte> to) override {
    std::memcpy(to.data(), Record(slot).data(), to.size());
    return StateCopy([] { return absl::OkStatus(); });
  }
  absl::Status CountCached(std::span<const size_t> slots, std::span<uint64_t> cached) override {
    for (size_t i = 0; i < slots.size(); ++i) {
      cached[i] =
          holds_state(slots[i]) ? CachedPairsOf(*slot(slots[i]).layout, Record(slots[i])) : 0;
    }
    return absl::OkStatus();
  }
  uint64_t position(size_t index) const override {
    return memory::StreamState(&*slot(index).layout, Record(index)).position();
  }

 protected:
  absl::Status Clear(size_t index) override {
    memory::StreamState(&*slot(index).layout, Record(index)).Reset(model().fingerprint_bytes());
    return absl::OkStatus();
  }
  absl::StatusOr<std::span<std::byte>> Place(size_t index, uint64_t position) override {
    memory::StreamState(&*slot(index).layout, Record(index))
        .WriteHeader(model().fingerprint_bytes(), position);
    return Record(index);
  }
  std::span<std::byte> Placed(size_t index) override { return Record(index); }
  absl::Status Take(size_t index) override { return CheckRecord(index, Record(index)); }
  absl::Status Run(std::span<const StageSegment> segments, std::span<const float> hidden,
                   std::span<float> out, StageOutcome* outcome) override;

 private:
  std::span<std::byte> Record(size_t index) const {
    return arena_->record(index).first(slot(index).layout->stride_bytes());
  }
  Segment MakeSegment(const StageSegment& part) const {
    Segment segment;
    segment.record = Record(part.slot);
    segment.layout = &*slot(part.slot).layout;
    segment.settings = &slot(part.slot).settings;
    segment.tokens = part.tokens;
    segment.logits_rows = model().has_last_layer() ? part.logits_rows : 0;
    return segment;
  }

  const std::unique_ptr<memory::StreamArena> arena_;
  kernels::ThreadPool pool_;
  StepWorkspace workspace_;
  std::vector<Segment> segments_;  // of the step at hand
  std::vector<memory::MemoryStats> stats_;
};

absl::Status HostStage::Run(std::span<const StageSegment> segments, std::span<const float> hidden,
                            std::span<float> out, StageOutcome* outcome) {
  segments_.clear();
  stats_.assign(segments.size(), {});
  for (size_t i = 0; i < segments.size(); ++i) {
    const StageSegment& part = segments[i];
    Segment segment = MakeSegment(part);
    segment.stats = &stats_[i];
    const Rows rows = NextRows(part, hidden, out);
    segment.hidden_in = rows.hidden_in;
    segment.hidden_out = rows.hidden_out;
    segment.logits = rows.logits;
    segments_.push_back(segment);
  }
  if (absl::Status stepped = model().Step(segments_, workspace_, pool_); !stepped.ok()) {
    return stepped;
  }
  for (size_t i = 0; i < segments.size(); ++i) {
    const bool advanced = position(segments[i].slot) != segments[i].position;
    outcome->segments.push_back({advanced, segments_[i].status, {}});
    outcome->stats.Merge(stats_[i]);
  }
  return absl::OkStatus();
}

class HostStageMaker : public StageMaker {
 public:
  explicit HostStageMaker(int threads) : threads_(threads) {}
  std::string instruction_class() const override {
    return std::string(kernels::InstructionClass());
  }
  absl::StatusOr<std::unique_ptr<LayerStage>> Make(std::shared_ptr<const Model> model,
                                                   const StageTerms& terms) override {
    absl::Status valid = CheckTerms(*model, instruction_class(), terms);
    if (!valid.ok()) return valid;
    auto arena = memory::StreamArena::Create(terms.slot_bytes, terms.slots);
    if (!arena.ok()) return arena.status();
    return std::make_unique<HostStage>(std::move(model), terms, threads_, *std::move(arena));
  }

 private:
  const int threads_;
};

}  // namespace

std::shared_ptr<StageMaker> MakeHostStages(int threads) {
  return std::make_shared<HostStageMaker>(threads);
}

}  // namespace lola::engine
