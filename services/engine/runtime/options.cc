#include "services/engine/runtime/options.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace lola::engine {
namespace {

absl::Status AtLeast(const char* field, uint64_t value, uint64_t least) {
  if (value >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", value, " is below ", least));
}

}  // namespace

absl::Status EngineOptions::Validate() const {
  struct Bound {
    const char* field;
    uint64_t value;
    uint64_t least;
  };
  const Bound bounds[] = {
      {"slots", slots, 1},
      {"open_streams_max", open_streams_max, slots},
      {"step_rows", step_rows == 0 ? 2 : step_rows, 2},
      {"ops_per_stream_max", ops_per_stream_max, 1},
      {"queued_tokens_per_stream_max", queued_tokens_per_stream_max, 1},
      {"queued_tokens_max", queued_tokens_max, 1},
      {"unconsumed_tokens_max", unconsumed_tokens_max, 1},
      {"uncommitted_tokens_max", uncommitted_tokens_max, 1},
      {"append_batch_tokens_max", append_batch_tokens_max, 1},
      {"append_batch_streams_max", append_batch_streams_max, 1},
      {"checkpoint_tokens", checkpoint_tokens, 1},
      {"snapshot_buffers", snapshot_buffers, 1},
      {"snapshot_attempts", snapshot_attempts, 1},
      {"replay_page_tokens", replay_page_tokens, 16},
      {"idle_demote", uint64_t(idle_demote.count()), 1},
      {"idle_release", uint64_t(idle_release.count()), 1},
      {"slot_slice", uint64_t(slot_slice.count()), 1},
      {"lease_renewal", uint64_t(lease_renewal.count()), 1},
      {"retry_first", uint64_t(retry_first.count()), 1},
      {"stuck_after", uint64_t(stuck_after.count()), 1},
  };
  for (const Bound& bound : bounds) {
    if (absl::Status s = AtLeast(bound.field, bound.value, bound.least); !s.ok()) return s;
  }
  if (step_rows > 0 && prefill_rows_beside_decode >= step_rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("prefill_rows_beside_decode: ", prefill_rows_beside_decode,
                     " leaves no row of step_rows ", step_rows));
  }
  return absl::OkStatus();
}

absl::Status EngineOptions::FitRows(size_t rows_max) {
  if (step_rows == 0) step_rows = static_cast<uint32_t>(rows_max);
  if (rows_max < step_rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("step_rows: ", step_rows, ", but the workspace holds ", rows_max));
  }
  constexpr uint32_t kPrefillRows = 64;
  if (prefill_rows_beside_decode == 0) {
    prefill_rows_beside_decode = std::min(std::max(kPrefillRows, step_rows / 8), step_rows - 1);
  }
  return Validate();
}

}  // namespace lola::engine
