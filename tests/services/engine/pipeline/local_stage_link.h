// A stage in the test's own process, with everything that can happen to a real one on demand.
// Thread-safe where StageLink must be.
#ifndef LOLA_TESTS_SERVICES_ENGINE_PIPELINE_LOCAL_STAGE_LINK_H_
#define LOLA_TESTS_SERVICES_ENGINE_PIPELINE_LOCAL_STAGE_LINK_H_

#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "services/engine/pipeline/layer_stage.h"
#include "services/engine/pipeline/pipeline_runner.h"

namespace lola::engine {

// The stage's process: outlives sessions.
struct LocalStage {
  explicit LocalStage(std::shared_ptr<const Model> held) : model(std::move(held)) {}
  const std::shared_ptr<const Model> model;
  std::atomic<bool> away{false};        // cannot be reached; a session breaks at its next call
  std::atomic<int> steps_to_death{-1};  // dies in the middle of a step, that many from now
  std::atomic<int> sessions{0};
  std::atomic<int> steps{0};
};

class LocalStageLink : public StageLink {
 public:
  LocalStageLink(std::string name, std::shared_ptr<LocalStage> stage)
      : name_(std::move(name)), stage_(std::move(stage)) {}

  std::string name() const override { return name_; }
  const LayerRange& layers() const override { return stage_->model->layers(); }

  void Open(const StageTerms& terms) override {
    if (state().ok()) return;
    if (stage_->away) return Break("connection refused");
    auto made = LayerStage::Create(stage_->model, terms, 1);
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
  absl::Status Load(size_t slot, const memory::LolaSettings& settings, uint64_t position,
                    std::span<const std::byte> sections) override {
    if (absl::Status alive = Alive(); !alive.ok()) return alive;
    auto to = session_->BeginLoad(slot, settings, position, sections.size());
    if (!to.ok()) return to.status();
    std::memcpy(to->data(), sections.data(), sections.size());
    return session_->Loaded(slot);
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
    auto sections = session_->Sections(slot);
    if (!sections.ok()) return sections.status();
    EXPECT_EQ(sections->size(), bytes);
    return PieceCopy([held = std::vector<std::byte>(sections->begin(), sections->end())](
                         std::span<std::byte> to) {
      std::memcpy(to.data(), held.data(), held.size());
      return absl::OkStatus();
    });
  }

 private:
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

// A random model cut before each of `cuts`, e.g. {1, 3}: layers 0, 1-2 and 3 to the end.
struct CutModel {
  CutModel(const ModelConfig& config, uint64_t seed, const std::vector<uint32_t>& cuts,
           WeightDtype dtype = WeightDtype::kFloat32) {
    uint32_t first = 0;
    for (size_t i = 0; i <= cuts.size(); ++i) {
      const uint32_t end = i < cuts.size() ? cuts[i] : config.geometry.layers;
      LoadOptions options{.dtype = dtype, .layers = LayerRange{first, end}};
      std::shared_ptr<const Model> model = *Model::Random(config, seed, options);
      if (i == 0) {
        front = model;
      } else {
        stages.push_back(std::make_shared<LocalStage>(model));
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
                                      .threads = threads,
                                      .piece_rows = piece_rows,
                                      .patience = std::chrono::milliseconds(200)});
    EXPECT_TRUE(runner.ok()) << runner.status();
    return *std::move(runner);
  }

  std::shared_ptr<const Model> front;
  std::vector<std::shared_ptr<LocalStage>> stages;
};

}  // namespace lola::engine

#endif  // LOLA_TESTS_SERVICES_ENGINE_PIPELINE_LOCAL_STAGE_LINK_H_
