// The slots of a pipeline: sections of the first layers here, of the others at their stages. A
// record is cut apart when it comes and put together when it leaves. Not thread-safe, except what
// ResidentStates excepts. Private to this folder.
#ifndef LOLA_SERVICES_ENGINE_PIPELINE_PIPELINE_STATES_H_
#define LOLA_SERVICES_ENGINE_PIPELINE_PIPELINE_STATES_H_

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "services/engine/pipeline/layer_stage.h"
#include "services/engine/runtime/resident_states.h"

namespace lola::engine {

// `front` and `stages` outlive the states; at most `copies` copies at the same time.
std::unique_ptr<ResidentStates> MakePipelineStates(
    LayerStage* front, std::span<const std::unique_ptr<StageLink>> stages, size_t copies);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_PIPELINE_PIPELINE_STATES_H_
