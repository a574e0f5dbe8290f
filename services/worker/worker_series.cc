#include "services/worker/worker_series.h"

#include <cmath>

namespace lola::worker {
namespace {

metrics::Labels With(metrics::Labels labels, const char* name, const char* value) {
  labels.emplace_back(name, value);
  return labels;
}

metrics::HistogramData Data(const engine::Histogram& histogram) {
  metrics::HistogramData data;
  double bound = histogram.first_bound;
  for (size_t i = 0; i < engine::Histogram::kBuckets; ++i, bound *= 2) {
    data.bounds.push_back(bound);
  }
  data.counts.assign(histogram.counts.begin(), histogram.counts.end());
  data.sum = histogram.sum;
  return data;
}

metrics::HistogramData RecallErrors(const memory::MemoryStats& stats) {
  metrics::HistogramData data;
  for (size_t i = 0; i + 1 < memory::kRecallErrorBuckets; ++i) {
    data.bounds.push_back(memory::RecallErrorBucketBound(i));
  }
  data.counts.assign(stats.recall_error_histogram.begin(), stats.recall_error_histogram.end());
  data.sum = stats.recall_error_sum;
  return data;
}

void WriteWork(const engine::EngineStatistics& stats, const metrics::Labels& labels,
               metrics::Page& page) {
  const auto count = [&](const char* name, const char* help, uint64_t value) {
    page.Counter(name, help, double(value), labels);
  };
  constexpr char kTokens[] =
      "Tokens through the model: prefill (client text), replay (recovery), decode (sampled).";
  page.Counter("lola_worker_tokens_total", kTokens,
               double(stats.prefill_tokens - stats.replayed_tokens),
               With(labels, "kind", "prefill"));
  page.Counter("lola_worker_tokens_total", kTokens, double(stats.replayed_tokens),
               With(labels, "kind", "replay"));
  page.Counter("lola_worker_tokens_total", kTokens, double(stats.decode_tokens),
               With(labels, "kind", "decode"));
  count("lola_worker_appended_tokens_total", "Tokens written by clients.", stats.appended_tokens);
  count("lola_worker_delivered_tokens_total", "Tokens given to clients, replays included.",
        stats.delivered_tokens);
  constexpr char kOps[] = "Operations begun, by kind.";
  page.Counter("lola_worker_operations_total", kOps, double(stats.appends),
               With(labels, "kind", "append"));
  page.Counter("lola_worker_operations_total", kOps, double(stats.generations),
               With(labels, "kind", "generate"));
  constexpr char kFailed[] = "Operations that did not end well, by reason.";
  page.Counter("lola_worker_operation_errors_total", kFailed, double(stats.failed_ops),
               With(labels, "reason", "failed"));
  page.Counter("lola_worker_operation_errors_total", kFailed, double(stats.rejected_ops),
               With(labels, "reason", "queue_full"));
  count("lola_worker_cancelled_operations_total", "Generations ended by their client.",
        stats.cancelled);
  count("lola_worker_steps_total", "Passes of the model.", stats.steps);
  count("lola_worker_bad_logits_total", "Passes refused because a number was NaN or infinite.",
        stats.bad_logits);
  page.Histogram("lola_worker_time_to_first_token_seconds",
                 "From a generate request to its first delivered token; 0.1 ms doubling to 52 s.",
                 Data(stats.time_to_first_token_s), labels);
  page.Histogram("lola_worker_inter_token_seconds",
                 "Between delivered tokens of one generation; 0.1 ms doubling to 52 s.",
                 Data(stats.inter_token_s), labels);
  page.Histogram("lola_worker_step_seconds", "One pass of the model; 0.1 ms doubling to 52 s.",
                 Data(stats.step_s), labels);
  page.Histogram("lola_worker_commit_wait_seconds",
                 "From sampling a token to delivering it: the price of commit-before-release; "
                 "0.1 ms doubling to 52 s.",
                 Data(stats.commit_wait_s), labels);
}

void WriteResidency(const engine::EngineStatistics& stats, const metrics::Labels& labels,
                    metrics::Page& page) {
  const auto gauge = [&](const char* name, const char* help, double value) {
    page.Gauge(name, help, value, labels);
  };
  const auto count = [&](const char* name, const char* help, uint64_t value) {
    page.Counter(name, help, double(value), labels);
  };
  gauge("lola_worker_slots", "State slots of this worker.", stats.slots);
  gauge("lola_worker_slots_used", "State slots in use.", stats.slots_used);
  gauge("lola_worker_open_streams", "Streams owned here, resident or not.", stats.open_streams);
  gauge("lola_worker_attachments", "Clients attached now.", stats.attachments);
  gauge("lola_worker_queued_operations", "Operations not done yet.", stats.queued_ops);
  gauge("lola_worker_queued_tokens", "Client tokens waiting to be taken.",
        double(stats.queued_tokens));
  gauge("lola_worker_waiting_streams", "Streams waiting for a slot.", stats.waiting_for_slot);
  gauge("lola_worker_draining", "1 while this worker gives its streams away.", stats.draining);
  gauge("lola_worker_model_lost", "1 while a device or a stage that runs the model is away.",
        stats.model_lost);
  count("lola_worker_model_losses_total",
        "Times that a device or a stage was lost, each with all resident states.",
        stats.model_losses);
  count("lola_worker_promotions_total", "States brought into a slot.", stats.promotions);
  count("lola_worker_demotions_total", "States moved from a slot to a shard.", stats.demotions);
  count("lola_worker_preemptions_total", "Demotions of running streams for waiting ones.",
        stats.preemptions);
  count("lola_worker_released_streams_total", "Streams given back.", stats.released_streams);
}

void WriteSafety(const engine::EngineStatistics& stats, const metrics::Labels& labels,
                 metrics::Page& page) {
  const auto count = [&](const char* name, const char* help, uint64_t value) {
    page.Counter(name, help, double(value), labels);
  };
  page.Gauge("lola_worker_durable_lag_tokens",
             "Tokens with a position that the log has not acknowledged, over all streams.",
             double(stats.uncommitted_tokens), labels);
  page.Gauge("lola_worker_durable_lag_tokens_max", "The same, of the stream that lags most.",
             double(stats.uncommitted_tokens_of_one_max), labels);
  count("lola_worker_snapshots_total", "Snapshots a shard accepted.", stats.snapshots);
  count("lola_worker_snapshot_failures_total", "Snapshots given up.", stats.snapshot_failures);
  count("lola_worker_snapshot_bytes_total", "Bytes of accepted snapshots.", stats.snapshot_bytes);
  page.Histogram("lola_worker_snapshot_copy_seconds",
                 "How long a snapshot keeps the next pass waiting; 1 us doubling to 0.5 s.",
                 Data(stats.snapshot_copy_s), labels);
  page.Histogram("lola_worker_snapshot_upload_seconds",
                 "From the copy to the shard's answer; 0.1 ms doubling to 52 s.",
                 Data(stats.snapshot_upload_s), labels);
  count("lola_worker_restores_total", "States brought back from snapshot and log.", stats.restores);
  count("lola_worker_recoveries_total", "Restores that had to replay a part of the log.",
        stats.recoveries);
  count("lola_worker_class_changes_total",
        "Restores that go on from what another instruction class computed: from the same bytes, "
        "to a tolerance.",
        stats.class_changes);
  count("lola_worker_skipped_snapshots_total", "Snapshots refused by a restore: damaged or gone.",
        stats.skipped_snapshots);
  page.Histogram("lola_worker_restore_seconds",
                 "From having a slot to being ready; 0.1 ms doubling to 52 s.",
                 Data(stats.restore_s), labels);
  count("lola_worker_fenced_writes_total", "Writes refused because another worker owns the stream.",
        stats.fenced_writes);
  count("lola_worker_append_batches_total", "Group commits sent to shards.", stats.append_batches);
  count("lola_worker_append_retries_total", "Group commits sent again.", stats.append_retries);
  count("lola_worker_lease_renewal_failures_total", "Lease renewals that failed.",
        stats.lease_renewal_failures);
}

// Of a device; 0 elsewhere. `prefix`: of a worker or a stage.
void WriteRunner(const engine::RunnerCounters& runner, const std::string& prefix,
                 const metrics::Labels& labels, metrics::Page& page) {
  page.Counter(prefix + "_step_recordings_total",
               "Kinds of decode steps that were recorded on the device.", double(runner.recordings),
               labels);
  page.Counter(prefix + "_step_replays_total", "Steps that ran as a replay of a recorded one.",
               double(runner.replays), labels);
  page.Counter(prefix + "_refused_recordings_total",
               "Kinds of decode steps that the device would not record: they run launch by launch, "
               "slower and the same.",
               double(runner.refused_recordings), labels);
}

void WriteMemory(const engine::EngineStatistics& stats, const metrics::Labels& labels,
                 metrics::Page& page) {
  const auto count = [&](const char* name, const char* help, uint64_t value) {
    page.Counter(name, help, double(value), labels);
  };
  page.Gauge("lola_memory_cached_pairs", "Pairs in the sparse caches of resident streams.",
             double(stats.cached_pairs), labels);
  page.Gauge("lola_memory_cache_capacity_pairs", "Room of those sparse caches.",
             double(stats.cache_capacity), labels);
  count("lola_memory_events_total", "Chunk events, per layer and query head.", stats.memory.events);
  count("lola_memory_admissions_total", "Pairs that entered a sparse cache.",
        stats.memory.admissions);
  count("lola_memory_displacements_total", "Pairs that left a sparse cache for the state.",
        stats.memory.displacements);
  count("lola_memory_absorptions_total", "Pairs added to the recurrent state.",
        stats.memory.absorptions);
  page.Histogram("lola_memory_recall_error",
                 "Squared error of recalling a pair's value from the recurrent state, all scored "
                 "pairs; 2^-20 to 2^18 in steps of four.",
                 RecallErrors(stats.memory), labels);
}

}  // namespace

void WriteWorker(const engine::EngineStatistics& stats, const metrics::Labels& labels,
                 metrics::Page& page) {
  WriteWork(stats, labels, page);
  WriteResidency(stats, labels, page);
  WriteSafety(stats, labels, page);
  WriteRunner(stats.runner, "lola_worker", labels, page);
  WriteMemory(stats, labels, page);
}

void WriteStageLinks(const std::vector<StageLinkStats>& stages, const metrics::Labels& labels,
                     metrics::Page& page) {
  uint64_t reconnects = 0;
  for (const StageLinkStats& stage : stages) {
    reconnects += stage.sessions > 0 ? stage.sessions - 1 : 0;
    metrics::Labels own = With(labels, "stage", stage.address.c_str());
    own.emplace_back("layers", stage.layers.ToString());
    page.Gauge("lola_worker_stage_open", "1 while a session with the stage is open.", stage.open,
               own);
    constexpr char kBytes[] = "Rows, logits and states that went to a stage and came back.";
    page.Counter("lola_worker_stage_bytes_total", kBytes, double(stage.bytes_sent),
                 With(own, "direction", "sent"));
    page.Counter("lola_worker_stage_bytes_total", kBytes, double(stage.bytes_received),
                 With(own, "direction", "received"));
    page.Histogram("lola_worker_stage_round_trip_seconds",
                   "A step of a stage as the front sees it, the stage's work included; 0.1 ms "
                   "doubling to 52 s.",
                   Data(stage.round_trip_s), own);
  }
  // Of all stages: there, and 0, also where there are none, so that an alert always has data.
  page.Counter("lola_worker_stage_reconnects_total",
               "Sessions with stages opened after the first one.", double(reconnects), labels);
}

void WriteStage(const StageStatistics& stats, metrics::Page& page) {
  page.Gauge("lola_stage_open", "1 while a front has a session.", stats.open);
  page.Gauge("lola_stage_device_lost", "1 once the device is lost: start the process anew.",
             stats.lost);
  WriteRunner(stats.runner, "lola_stage", {}, page);
  page.Gauge("lola_stage_slots", "State slots of the session.", double(stats.slots));
  page.Gauge("lola_stage_slot_bytes", "Bytes of each of them.", double(stats.slot_bytes));
  page.Counter("lola_stage_sessions_total", "Sessions opened.", double(stats.sessions));
  page.Counter("lola_stage_refusals_total", "Fronts refused: busy, or another model.",
               double(stats.refusals));
  page.Counter("lola_stage_steps_total", "Passes of the layers.", double(stats.steps));
  page.Counter("lola_stage_rows_total", "Rows of these passes.", double(stats.rows));
  page.Counter("lola_stage_loads_total", "States brought into a slot.", double(stats.loads));
  page.Counter("lola_stage_copies_total", "States copied for a snapshot.", double(stats.copies));
}

}  // namespace lola::worker
