#include "services/metrics/gateway_series.h"

namespace lola::metrics {
namespace {

Labels With(Labels labels, const char* name, const char* value) {
  labels.emplace_back(name, value);
  return labels;
}

}  // namespace

void WriteGateway(const gateway::GatewayStats& stats, const Labels& labels, Page& page) {
  page.Counter("lola_gateway_calls_total", "Client calls (Stream and Generate) begun.",
               static_cast<double>(stats.calls), labels);
  constexpr char kEnded[] = "Client calls that ended with an error, by whose fault it was.";
  page.Counter("lola_gateway_call_errors_total", kEnded, static_cast<double>(stats.calls_refused),
               With(labels, "reason", "client"));
  page.Counter("lola_gateway_call_errors_total", kEnded, static_cast<double>(stats.calls_failed),
               With(labels, "reason", "service"));
  page.Counter("lola_gateway_operator_calls_total", "Unary calls.",
               static_cast<double>(stats.operator_calls), labels);
  page.Counter("lola_gateway_operator_errors_total", "Unary calls that ended with an error.",
               static_cast<double>(stats.operator_failures), labels);
  page.Gauge("lola_gateway_open_streams", "Client calls open now.",
             static_cast<double>(stats.open_streams), labels);
  constexpr char kTokens[] = "Tokens passed through: from clients, and to clients (replays too).";
  page.Counter("lola_gateway_tokens_total", kTokens, static_cast<double>(stats.tokens_appended),
               With(labels, "author", "client"));
  page.Counter("lola_gateway_tokens_total", kTokens, static_cast<double>(stats.tokens_delivered),
               With(labels, "author", "model"));
  page.Counter("lola_gateway_failovers_total", "Workers lost under an open client call.",
               static_cast<double>(stats.failovers), labels);
  page.Counter("lola_gateway_moves_total", "Client calls that followed a released stream.",
               static_cast<double>(stats.moves), labels);
  page.Counter("lola_gateway_takeovers_total", "Attachments that overruled an owner's lease.",
               static_cast<double>(stats.takeovers), labels);
  page.Counter("lola_gateway_attach_retries_total", "Attachments tried again.",
               static_cast<double>(stats.attach_retries), labels);
  constexpr char kBroken[] = "Promises of position order found broken; must stay 0.";
  page.Counter("lola_gateway_position_errors_total", kBroken,
               static_cast<double>(stats.position_gaps), With(labels, "reason", "gap"));
  page.Counter("lola_gateway_position_errors_total", kBroken,
               static_cast<double>(stats.position_duplicates), With(labels, "reason", "duplicate"));
  page.Gauge("lola_gateway_workers", "Workers this gateway knows.",
             static_cast<double>(stats.workers), labels);
  page.Gauge("lola_gateway_workers_healthy", "Workers that answer.",
             static_cast<double>(stats.workers_healthy), labels);
  page.Histogram("lola_time_to_first_token_seconds",
                 "Generate request to its first token at the gateway; 1 ms doubling to 33 s.",
                 stats.time_to_first_token_seconds, labels);
  page.Histogram(
      "lola_inter_token_latency_seconds",
      "Time between two tokens of a generation at the gateway; 0.1 ms doubling to 3.3 s.",
      stats.inter_token_seconds, labels);
  page.Histogram("lola_gateway_attach_seconds",
                 "Looking for a stream's worker until it has opened it; 1 ms doubling to 33 s.",
                 stats.attach_seconds, labels);
}

}  // namespace lola::metrics
