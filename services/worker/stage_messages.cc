#include "services/worker/stage_messages.h"

#include <string>

#include "memory/limits.h"
#include "services/worker/convert.h"

namespace lola::worker {
namespace {

v1::StageCounts ToProto(const memory::MemoryStats& stats) {
  v1::StageCounts counts;
  counts.set_tokens(stats.tokens);
  counts.set_events(stats.events);
  counts.set_admissions(stats.admissions);
  counts.set_displacements(stats.displacements);
  counts.set_occupancy_sum(stats.occupancy_sum);
  counts.set_occupancy_count(stats.occupancy_count);
  counts.set_absorptions(stats.absorptions);
  counts.set_nonfinite_scores(stats.nonfinite_scores);
  counts.set_nonfinite_rows(stats.nonfinite_rows);
  if (stats.recall_error_count > 0) {  // most steps score nothing
    counts.mutable_recall_errors()->Assign(stats.recall_error_histogram.begin(),
                                           stats.recall_error_histogram.end());
  }
  counts.set_recall_error_sum(stats.recall_error_sum);
  counts.set_recall_error_count(stats.recall_error_count);
  return counts;
}

memory::MemoryStats FromProto(const v1::StageCounts& counts) {
  memory::MemoryStats stats;
  stats.tokens = counts.tokens();
  stats.events = counts.events();
  stats.admissions = counts.admissions();
  stats.displacements = counts.displacements();
  stats.occupancy_sum = counts.occupancy_sum();
  stats.occupancy_count = counts.occupancy_count();
  stats.absorptions = counts.absorptions();
  stats.nonfinite_scores = counts.nonfinite_scores();
  stats.nonfinite_rows = counts.nonfinite_rows();
  const size_t buckets =
      std::min<size_t>(stats.recall_error_histogram.size(), counts.recall_errors_size());
  std::copy_n(counts.recall_errors().begin(), buckets, stats.recall_error_histogram.begin());
  stats.recall_error_sum = counts.recall_error_sum();
  stats.recall_error_count = counts.recall_error_count();
  return stats;
}

}  // namespace

absl::Status StatusOf(int code, const std::string& message) {
  return absl::Status(static_cast<absl::StatusCode>(code), message);
}

v1::StageSegment ToProto(const engine::StageSegment& segment) {
  v1::StageSegment message;
  message.set_slot(segment.slot);
  message.set_position(segment.position);
  message.set_rows(segment.rows);
  message.set_logits_rows(segment.logits_rows);
  if (segment.sampling == nullptr) return message;
  *message.mutable_sampling() = ToProto(*segment.sampling);
  // More of them than the penalty looks at would only travel.
  const size_t recent =
      segment.sampling->repetition_penalty == 1.0f
          ? 0
          : std::min<size_t>(segment.recent.size(), segment.sampling->repetition_window);
  const auto newest = segment.recent.last(recent);
  message.mutable_recent()->Add(newest.begin(), newest.end());
  return message;
}

v1::StageTerms ToProto(const engine::StageTerms& terms) {
  v1::StageTerms message;
  message.set_front(terms.front);
  message.set_model_fingerprint(terms.model_fingerprint);
  message.set_first_layer(terms.layers.first);
  message.set_last_layer(terms.layers.end - 1);
  message.set_model_layers(terms.model_layers);
  message.set_hidden(terms.hidden);
  message.set_vocab(terms.vocab);
  message.set_weight_dtype(terms.weight_dtype);
  message.set_instruction_class(terms.instruction_class);
  message.set_slot_bytes(terms.slot_bytes);
  message.set_slots(terms.slots);
  message.set_rows_max(terms.rows_max);
  return message;
}

absl::StatusOr<engine::StageTerms> FromProto(const v1::StageTerms& message) {
  if (message.last_layer() < message.first_layer() || message.last_layer() == UINT32_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("layers: ", message.first_layer(), " to ", message.last_layer()));
  }
  if (message.front().size() > memory::kWorkerAddressBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "front: ", message.front().size(), " bytes, at most ", memory::kWorkerAddressBytesMax));
  }
  return engine::StageTerms{.front = message.front(),
                            .model_fingerprint = message.model_fingerprint(),
                            .layers = {message.first_layer(), message.last_layer() + 1},
                            .model_layers = message.model_layers(),
                            .hidden = message.hidden(),
                            .vocab = message.vocab(),
                            .weight_dtype = message.weight_dtype(),
                            .instruction_class = message.instruction_class(),
                            .slot_bytes = message.slot_bytes(),
                            .slots = message.slots(),
                            .rows_max = message.rows_max()};
}

v1::StageStepped ToProto(const engine::StageOutcome& outcome) {
  v1::StageStepped message;
  for (const engine::SegmentOutcome& segment : outcome.segments) {
    v1::StageStatus& one = *message.add_segments();
    one.set_advanced(segment.advanced);
    one.set_code(static_cast<int>(segment.status.code()));
    one.set_message(std::string(segment.status.message()));
    if (segment.sampled.id >= 0) one.set_sampled_id(segment.sampled.id);
    one.set_sampled_logprob(segment.sampled.logprob);
  }
  *message.mutable_counts() = ToProto(outcome.stats);
  return message;
}

engine::StageOutcome FromProto(const v1::StageStepped& message) {
  engine::StageOutcome outcome;
  for (const v1::StageStatus& one : message.segments()) {
    outcome.segments.push_back({one.advanced(),
                                StatusOf(one.code(), one.message()),
                                {one.sampled_id(), one.sampled_logprob()}});
  }
  outcome.stats = FromProto(message.counts());
  return outcome;
}

v1::StageDone ToDone(const absl::Status& status) {
  v1::StageDone message;
  message.set_code(static_cast<int>(status.code()));
  message.set_message(std::string(status.message()));
  return message;
}

absl::Status FromDone(const v1::StageDone& message) {
  return StatusOf(message.code(), message.message());
}

}  // namespace lola::worker
