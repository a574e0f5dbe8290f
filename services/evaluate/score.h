// Judging answers. Pure functions; any thread.
#ifndef LOLA_SERVICES_EVALUATE_SCORE_H_
#define LOLA_SERVICES_EVALUATE_SCORE_H_

#include <string>
#include <string_view>
#include <vector>

#include "services/evaluate/task.h"

namespace lola::evaluate {

// RULER's clean-up of an answer: control characters become line feeds, blanks at both ends go.
std::string CleanAnswer(std::string_view answer);

struct Verdict {
  std::vector<bool> found;  // one for each reference
  double score = 0.0;       // share found
  // For questions whose value was overwritten: "newest", "older" or "other"; empty otherwise.
  std::string which;
};

// REQUIRES: the question has a reference.
Verdict Judge(const Question& question, std::string_view answer);

}  // namespace lola::evaluate

#endif  // LOLA_SERVICES_EVALUATE_SCORE_H_
