// A memory shard's series. Any thread.
#ifndef LOLA_SERVICES_METRICS_SHARD_SERIES_H_
#define LOLA_SERVICES_METRICS_SHARD_SERIES_H_

#include "services/memory/shard_stats.h"
#include "services/metrics/exporter.h"

namespace lola::metrics {

void WriteShard(const shard::ShardStats& stats, const Labels& labels, Page& page);

}  // namespace lola::metrics

#endif  // LOLA_SERVICES_METRICS_SHARD_SERIES_H_
