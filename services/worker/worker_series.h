// The worker's series on /metrics. Any thread.
#ifndef LOLA_SERVICES_WORKER_WORKER_SERIES_H_
#define LOLA_SERVICES_WORKER_WORKER_SERIES_H_

#include <vector>

#include "services/engine/runtime/statistics.h"
#include "services/metrics/exporter.h"
#include "services/worker/stage_client.h"
#include "services/worker/stage_service.h"

namespace lola::worker {

void WriteWorker(const engine::EngineStatistics& stats, const metrics::Labels& labels,
                 metrics::Page& page);
// Of the links of a pipeline; nothing without stages.
void WriteStageLinks(const std::vector<StageLinkStats>& stages, const metrics::Labels& labels,
                     metrics::Page& page);
// Of lola-stage.
void WriteStage(const StageStatistics& stats, metrics::Page& page);

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_WORKER_SERIES_H_
