// The worker's series on /metrics. Any thread.
#ifndef LOLA_SERVICES_WORKER_WORKER_SERIES_H_
#define LOLA_SERVICES_WORKER_WORKER_SERIES_H_

#include "services/engine/runtime/statistics.h"
#include "services/metrics/exporter.h"

namespace lola::worker {

void WriteWorker(const engine::EngineStatistics& stats, const metrics::Labels& labels,
                 metrics::Page& page);

}  // namespace lola::worker

#endif  // LOLA_SERVICES_WORKER_WORKER_SERIES_H_
