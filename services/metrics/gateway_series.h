// The gateway's series. Any thread.
#ifndef LOLA_SERVICES_METRICS_GATEWAY_SERIES_H_
#define LOLA_SERVICES_METRICS_GATEWAY_SERIES_H_

#include "services/gateway/gateway_stats.h"
#include "services/metrics/exporter.h"

namespace lola::metrics {

void WriteGateway(const gateway::GatewayStats& stats, const Labels& labels, Page& page);

}  // namespace lola::metrics

#endif  // LOLA_SERVICES_METRICS_GATEWAY_SERIES_H_
