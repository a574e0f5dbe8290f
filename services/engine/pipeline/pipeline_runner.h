// A pipeline of processes as the scheduler sees it: a ModelRunner whose first layers run here and
// whose other layers run behind links, each stage with the state sections of its layers. The front
// drives: it sends the rows of the residual stream to one stage after the other and gets the logits
// from the last one. A slot has the same number in every stage.
//
// Bits are those of one process (P2): the rows travel as they are, and a record put together from
// the stages' sections is byte for byte that of a single worker. So streams move between pipelines
// of different cuts and single workers of the same instruction class. Stages may be of several
// classes: then the pipeline's says which layers have which ("0-15:avx2,16-31:cuda-sm90"), and bits
// are those of pipelines where every layer has the same one.
//
// A stage that is lost takes all states with it: health() says so, and Recover() opens new
// sessions. Not thread-safe, like every ModelRunner.
#ifndef LOLA_SERVICES_ENGINE_PIPELINE_PIPELINE_RUNNER_H_
#define LOLA_SERVICES_ENGINE_PIPELINE_PIPELINE_RUNNER_H_

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/engine/pipeline/layer_stage.h"
#include "services/engine/pipeline/stage_link.h"
#include "services/engine/runtime/model_runner.h"

namespace lola::engine {

struct PipelineOptions {
  std::string front;  // name told to the stages
  size_t rows_max = 256;
  std::shared_ptr<StageMaker> here;  // of the layers that are here; null: the CPU, one thread
  // A step of twice as many rows is cut into pieces of about so many, which follow one another
  // through the stages, so that these work at the same time. Fewer rows make worse products.
  size_t piece_rows = 64;
  // At start, stages that cannot be reached are waited for so long.
  std::chrono::milliseconds patience{30'000};
};

// OK when the ranges, in this order, are all layers of a model with `layers` of them. Otherwise
// INVALID_ARGUMENT naming the layer that is missing or held twice, and who holds what.
absl::Status CheckCut(uint32_t layers, const LayerRange& front,
                      std::span<const std::unique_ptr<StageLink>> stages);

// `model` holds the first layers. Sessions are opened when the engine makes its slots:
// FAILED_PRECONDITION then when a stage refuses, UNAVAILABLE when one cannot be reached within
// the patience, both naming the stage.
absl::StatusOr<std::unique_ptr<ModelRunner>> MakePipelineRunner(
    std::shared_ptr<const Model> model, std::vector<std::unique_ptr<StageLink>> stages,
    const PipelineOptions& options);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_PIPELINE_PIPELINE_RUNNER_H_
