#include "services/engine/runtime/batch_plan.h"

#include <algorithm>

namespace lola::engine {
namespace {

// Smaller pieces waste the matrix kernels; a piece is cut below this only by the stream's end.
constexpr uint32_t kPieceRowsMin = 16;

}  // namespace

std::vector<uint32_t> PlanRows(std::span<const RowDemand> demands, const RowLimits& limits) {
  std::vector<uint32_t> rows(demands.size(), 0);
  uint32_t decoders = 0, prefills = 0;
  for (const RowDemand& demand : demands) {
    if (demand.rows == 0) continue;
    ++(demand.decode ? decoders : prefills);
  }
  const uint32_t reserved = prefills > 0 ? limits.prefill_rows_beside_decode : 0;
  uint32_t decode_budget = std::min(decoders, limits.step_rows - reserved);
  uint32_t prefill_budget = limits.step_rows - decode_budget;
  if (decoders > 0) prefill_budget = std::min(prefill_budget, limits.prefill_rows_beside_decode);

  const uint32_t piece =
      std::max(kPieceRowsMin, prefills > 0 ? prefill_budget / prefills : prefill_budget);
  for (size_t i = 0; i < demands.size(); ++i) {
    if (demands[i].rows == 0) continue;
    if (demands[i].decode) {
      if (decode_budget == 0) continue;
      rows[i] = 1;
      --decode_budget;
    } else {
      rows[i] = uint32_t(std::min<uint64_t>({demands[i].rows, piece, prefill_budget}));
      prefill_budget -= rows[i];
    }
  }
  // What shorter demands left over goes to the longer ones, first come first served.
  for (size_t i = 0; i < demands.size() && prefill_budget > 0; ++i) {
    if (demands[i].decode || demands[i].rows == 0) continue;
    const uint32_t more = uint32_t(std::min<uint64_t>(demands[i].rows - rows[i], prefill_budget));
    rows[i] += more;
    prefill_budget -= more;
  }
  return rows;
}

}  // namespace lola::engine
