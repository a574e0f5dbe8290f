#include "services/evaluate/runner.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace lola::evaluate {

void TokenPlaces::Add(const Step& step, uint64_t position,
                      const std::function<uint64_t(std::string_view)>& count) {
  for (const Mark& mark : step.marks) {
    const std::string_view before = std::string_view(step.text).substr(0, mark.offset);
    told_.emplace_back(mark.id, position + count(before));
  }
}

Answer TokenPlaces::Make(const Question& question, uint64_t position,
                         uint64_t question_tokens) const {
  Answer answer;
  answer.question = question;
  answer.position = position;
  answer.answer_at = position + question_tokens;
  for (const Reference& reference : question.references) {
    // Newest first: a mark that was given again counts from there.
    const auto found = std::find_if(told_.rbegin(), told_.rend(),
                                    [&](const auto& mark) { return mark.first == reference.mark; });
    LOLA_CHECK(found != told_.rend());
    answer.told.push_back(found->second);
  }
  return answer;
}

}  // namespace lola::evaluate
