// What a client of one stream observed, and the judge of it: promise P4 says the tokens received,
// in order of position, equal those of the undisturbed run, with no gap and no duplicate.
#ifndef LOLA_TESTS_E2E_CHAOS_HISTORY_H_
#define LOLA_TESTS_E2E_CHAOS_HISTORY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tests/support/stream_client.h"

namespace lola::testing {

struct History {
  std::string stream_id;
  std::vector<ReceivedToken> tokens;  // in the order received
  uint64_t final_position = 0;        // as the client knows it
  std::string failure;                // an operation that did not succeed in time
};

// Empty when `observed` is explained by `undisturbed` (the same operations on another stream);
// otherwise the first difference, named by position.
std::string CompareHistories(const History& undisturbed, const History& observed);

}  // namespace lola::testing

#endif  // LOLA_TESTS_E2E_CHAOS_HISTORY_H_
