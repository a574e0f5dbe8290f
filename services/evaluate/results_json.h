// Samples and summaries as JSON, and samples back. Pure functions; any thread.
#ifndef LOLA_SERVICES_EVALUATE_RESULTS_JSON_H_
#define LOLA_SERVICES_EVALUATE_RESULTS_JSON_H_

#include <nlohmann/json.hpp>

#include "services/evaluate/runner.h"
#include "services/evaluate/summary.h"

namespace lola::evaluate {

nlohmann::ordered_json ToJson(const SampleResult& result);
nlohmann::ordered_json ToJson(const Summary& summary);
// What ToJson wrote; throws nlohmann::json::exception for anything else.
SampleResult SampleFrom(const nlohmann::ordered_json& json);

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_RESULTS_JSON_H_
