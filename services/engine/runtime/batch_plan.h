// How many tokens of which stream go into the next pass. A pure function, any thread.
//
// Streams that decode (one row that will be sampled) go first. Prefill gets what is left, and never
// less than its own share, so neither starves the other: decoders wait at most for one pass with
// `prefill_rows_beside_decode` extra rows. Within each kind streams take turns: the caller rotates
// the order of `demands` from pass to pass.
#ifndef LOLA_SERVICES_ENGINE_RUNTIME_BATCH_PLAN_H_
#define LOLA_SERVICES_ENGINE_RUNTIME_BATCH_PLAN_H_

#include <cstdint>
#include <span>
#include <vector>

namespace lola::engine {

struct RowDemand {
  uint64_t rows = 0;    // tokens that could be fed now; 0 = nothing to do
  bool decode = false;  // exactly one row, and it is waited for
};

struct RowLimits {
  uint32_t step_rows = 0;
  uint32_t prefill_rows_beside_decode = 0;  // below step_rows
};

// Rows for each demand, in the same order; their sum is at most step_rows, and not 0 when any
// demand is not.
std::vector<uint32_t> PlanRows(std::span<const RowDemand> demands, const RowLimits& limits);

}  // namespace lola::engine

#endif  // LOLA_SERVICES_ENGINE_RUNTIME_BATCH_PLAN_H_
