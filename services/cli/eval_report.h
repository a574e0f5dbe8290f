// What `lola eval` prints for people. Pure; any thread.
#ifndef LOLA_SERVICES_CLI_EVAL_REPORT_H_
#define LOLA_SERVICES_CLI_EVAL_REPORT_H_

#include <string>
#include <vector>

#include "services/evaluate/results_file.h"
#include "services/evaluate/runner.h"

namespace lola::cli {

std::string Percent(double value);  // "97.4 %"

// Settings, score with its interval, and the tables that have more than one line.
std::string EvalReport(const evaluate::RunHeader& header,
                       const std::vector<evaluate::SampleResult>& results);

}  // namespace lola::cli

#endif  // LOLA_SERVICES_CLI_EVAL_REPORT_H_
