#include "tests/e2e/chaos/history.h"

#include <algorithm>

namespace lola::testing {

std::string CompareHistories(const History& undisturbed, const History& observed) {
  const std::string who = "stream " + observed.stream_id + ": ";
  if (!observed.failure.empty()) return who + observed.failure;
  for (size_t i = 1; i < observed.tokens.size(); ++i) {
    if (observed.tokens[i].position <= observed.tokens[i - 1].position) {
      return who + "position " + std::to_string(observed.tokens[i].position) + " after " +
             std::to_string(observed.tokens[i - 1].position);
    }
  }
  const size_t common = std::min(observed.tokens.size(), undisturbed.tokens.size());
  for (size_t i = 0; i < common; ++i) {
    const ReceivedToken& want = undisturbed.tokens[i];
    const ReceivedToken& got = observed.tokens[i];
    if (want.position != got.position || want.id != got.id) {
      return who + "token " + std::to_string(i) + " is " + std::to_string(got.id) +
             " at position " + std::to_string(got.position) + ", undisturbed " +
             std::to_string(want.id) + " at position " + std::to_string(want.position);
    }
  }
  if (observed.tokens.size() != undisturbed.tokens.size()) {
    return who + std::to_string(observed.tokens.size()) + " tokens, undisturbed " +
           std::to_string(undisturbed.tokens.size());
  }
  if (observed.final_position != undisturbed.final_position) {
    return who + "ends at " + std::to_string(observed.final_position) + ", undisturbed at " +
           std::to_string(undisturbed.final_position);
  }
  return "";
}

}  // namespace lola::testing
