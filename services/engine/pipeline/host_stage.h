// Stages on the CPU, with their states in host memory.
#ifndef LOLA_SERVICES_ENGINE_PIPELINE_HOST_STAGE_H_
#define LOLA_SERVICES_ENGINE_PIPELINE_HOST_STAGE_H_

#include <memory>

#include "services/engine/pipeline/layer_stage.h"

namespace lola::engine {

std::shared_ptr<StageMaker> MakeHostStages(int threads);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_PIPELINE_HOST_STAGE_H_
