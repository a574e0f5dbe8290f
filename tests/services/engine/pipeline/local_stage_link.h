// A stage in the test's own process, with everything that can happen to a real one on demand.
// Thread-safe where StageLink must be.
#ifndef LOLA_TESTS_SERVICES_ENGINE_PIPELINE_LOCAL_STAGE_LINK_H_
#define LOLA_TESTS_SERVICES_ENGINE_PIPELINE_LOCAL_STAGE_LINK_H_

#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "services/engine/pipeline/host_stage.h"
#include "services/engine/pipeline/layer_stage.h"
#include "services/engine/pipeline/pipeline_runner.h"

namespace lola::engine {

// The stage's process: outlives sessions.
struct LocalStage {
  explicit LocalStage(std::shared_ptr<const Model> held, std::shared_ptr<StageMaker> made_by = {})
      : model(std::move(held)), maker(made_by != nullptr ? made_by : MakeHostStages(1)) {}
  const std::shared_ptr<const Model> model;
  const std::shared_ptr<StageMaker> maker;
  // Loads wait until RunHeld: on another thread than the rest, but while no step is made.
  std::atomic<bool> hold_loads{false};
  void Hold(std::function<void()> load) {
    std::lock_guard lock(mu);
    held.push_back(std::move(load));
  }
  size_t loads_held() {
    std::lock_guard lock(mu);
    return held.size();
  }
  void RunHeld() {
    std::deque<std::function<void()>> loads;
    {
      std::lock_guard lock(mu);
      loads.swap(held);
    }
    for (const auto& load : loads) load();
  }
  std::mutex mu;
  std::deque<std::function<void()>> held;  // guarded by mu
  std::atomic<bool> away{false};           // cannot be reached; a session breaks at its next call
  std::atomic<int> steps_to_death{-1};     // dies in the middle of a step, that many from now
  std::atomic<int> sessions{0};
  std::atomic<int> steps{0};
};

class LocalStageLink : public StageLink {
 public:
  LocalStageLink(std::string name, std::shared_ptr<LocalStage> stage)
      : name_(std::move(name)), stage_(std::move(stage)) {}

  std::string name() const override { return name_; }
  const LayerRange& layers() const override { return stage_->model->layers(); }
  std::string instruction_class() const override { return stage_->maker->instruction_class(); }
  bool samples() const override {
    return stage_->maker->samples() && stage_->model->has_last_layer();
  }

  void Open(const StageTerms& terms) override {
    if (state().ok()) return;
    if (stage_->away) return Break("connection refused");
    session_.reset();
    auto made = stage_->maker->Make(stage_->model, terms);
    if (made.ok()) {
      session_ = *std::move(made);
      ++stage_->sessions;
    }
    std::lock_guard lock(mu_);
    state_ = made.status();
  }
  absl::Status state() const override {
    std::lock_guard lock(mu_);
    return state_;
  }

  absl::Status Reset(size_t slot, const memory::LolaSettings& settings) override {
    if (absl::Status alive = Alive(); !alive.ok()) return alive;
    return session_->Reset(slot, settings);
  }
  void Load(size_t slot, const memory::LolaSettings& settings, uint64_t position,
            std::shared_ptr<void> owner, std::span<const std::byte> sections,
            std::function<void(absl::Status)> done) override {
    const auto load = [this, slot, settings, position, owner, sections, done] {
      done(LoadNow(slot, settings, position, sections));
    };
    if (!stage_->hold_loads) return load();
    stage_->Hold(load);
  }
  absl::Status StartStep(std::span<const StageSegment> segments,
                         std::span<const float> hidden) override {
    EXPECT_FALSE(started_) << "one step at a time";
    if (absl::Status alive = Alive(); !alive.ok()) return alive;
    started_ = true;
    segments_.assign(segments.begin(), segments.end());
    hidden_.assign(hidden.begin(), hidden.end());
    return absl::OkStatus();
  }
  absl::Status FinishStep(std::span<float> out, StageOutcome* outcome) override {
    EXPECT_TRUE(started_);
    started_ = false;
    if (absl::Status alive = Alive(); !alive.ok()) return alive;
    absl::Status stepped = session_->Step(segments_, hidden_, out, outcome);
    ++stage_->steps;
    if (!stepped.ok()) Break(std::string(stepped.message()));
    if (stage_->steps_to_death >= 0 && stage_->steps_to_death-- == 0) {
      Break("died in the middle of a step");
      return state();
    }
    return stepped;
  }
  absl::StatusOr<PieceCopy> Copy(size_t slot, size_t bytes) override {
    if (absl::Status alive = Alive(); !alive.ok()) return alive;
    const auto record_bytes = session_->RecordBytes(slot);
    if (!record_bytes.ok()) return record_bytes.status();
    EXPECT_EQ(*record_bytes, memory::kPageBytes + bytes);
    auto held = session_->AllocateHost(*record_bytes);
    auto copy = session_->Copy(slot, {held.get(), *record_bytes});
    if (!copy.ok()) return copy.status();
    return PieceCopy([held, bytes, copy = *copy](std::span<std::byte> to) {
      absl::Status arrived = copy();
      std::memcpy(to.data(), held.get() + memory::kPageBytes, bytes);
      return arrived;
    });
  }
  absl::Status CountCached(std::span<const size_t> slots, std::span<uint64_t> cached) override {
    if (absl::Status alive = Alive(); !alive.ok()) return alive;
    return session_->CountCached(slots, cached);
  }

 private:
  absl::Status LoadNow(size_t slot, const memory::LolaSettings& settings, uint64_t position,
                       std::span<const std::byte> sections) {
    if (absl::Status alive = Alive(); !alive.ok()) return alive;
    absl::Status begun = session_->BeginLoad(slot, settings, position, sections.size());
    if (!begun.ok()) return begun;
    std::memcpy(session_->LoadSpace(slot)->data(), sections.data(), sections.size());
    return session_->Loaded(slot);
  }
  void Break(const std::string& why) {
    session_.reset();
    std::lock_guard lock(mu_);
    state_ = absl::UnavailableError(why);
  }
  absl::Status Alive() {
    if (state().ok() && stage_->away) Break("connection reset");
    return state();
  }

  const std::string name_;
  const std::shared_ptr<LocalStage> stage_;
  std::unique_ptr<LayerStage> session_;
  bool started_ = false;
  std::vector<StageSegment> segments_;  // of the step that was started
  std::vector<float> hidden_;
  mutable std::mutex mu_;
  absl::Status state_ = absl::UnavailableError("not opened");  // guarded by mu_
};

// What the scheduler does with a staged record: brought, awaited, adopted.
inline absl::Status BringAndAdopt(ResidentStates& states, size_t slot,
                                  const memory::StateLayout& layout,
                                  const ResidentStates::Staging& staging) {
  std::promise<absl::Status> arrived;
  states.Bring(slot, layout, staging, [&](absl::Status status) { arrived.set_value(status); });
  const absl::Status status = arrived.get_future().get();
  return status.ok() ? states.Adopt(slot, layout, staging) : status;
}

// A random model cut before each of `cuts`, e.g. {1, 3}: layers 0, 1-2 and 3 to the end.
struct CutModel {
  // `makers`: of the front and the stages behind it; those beyond the list are on the CPU.
  CutModel(const ModelConfig& config, uint64_t seed, const std::vector<uint32_t>& cuts,
           WeightDtype dtype = WeightDtype::kFloat32,
           const std::vector<std::shared_ptr<StageMaker>>& makers = {}) {
    uint32_t first = 0;
    for (size_t i = 0; i <= cuts.size(); ++i) {
      const uint32_t end = i < cuts.size() ? cuts[i] : config.geometry.layers;
      LoadOptions options{.dtype = dtype, .layers = LayerRange{first, end}};
      std::shared_ptr<const Model> model = *Model::Random(config, seed, options);
      const std::shared_ptr<StageMaker> maker = i < makers.size() ? makers[i] : nullptr;
      if (i == 0) {
        front = model;
        here = maker;
      } else {
        stages.push_back(std::make_shared<LocalStage>(model, maker));
      }
      first = end;
    }
  }
  std::vector<std::unique_ptr<StageLink>> Links() const {
    std::vector<std::unique_ptr<StageLink>> links;
    for (size_t i = 0; i < stages.size(); ++i) {
      links.push_back(
          std::make_unique<LocalStageLink>("stage-" + std::to_string(i + 1), stages[i]));
    }
    return links;
  }
  std::unique_ptr<ModelRunner> Runner(size_t rows, int threads = 1, size_t piece_rows = 16) const {
    auto runner = MakePipelineRunner(front, Links(),
                                     {.front = "test",
                                      .rows_max = rows,
                                      .here = here != nullptr ? here : MakeHostStages(threads),
                                      .piece_rows = piece_rows,
                                      .patience = std::chrono::milliseconds(200)});
    EXPECT_TRUE(runner.ok()) << runner.status();
    return *std::move(runner);
  }

  std::shared_ptr<const Model> front;
  std::shared_ptr<StageMaker> here;  // null: the CPU
  std::vector<std::shared_ptr<LocalStage>> stages;
};

}  // namespace lola::engine

#endif  // LOLA_TESTS_SERVICES_ENGINE_PIPELINE_LOCAL_STAGE_LINK_H_
