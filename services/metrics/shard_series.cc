#include "services/metrics/shard_series.h"

namespace lola::metrics {
namespace {

struct Row {
  const char* name;
  const char* help;
  uint64_t value;
};

void WriteCalls(const shard::ShardStats& stats, const Labels& labels, Page& page) {
  for (const Row& row : {
           Row{"lola_shard_calls_total", "Calls taken.", stats.calls},
           Row{"lola_shard_call_errors_total", "Calls that ended with any status but OK.",
               stats.calls_failed},
           Row{"lola_shard_overloaded_calls_total",
               "Calls refused: too many wait for a thread, or send.", stats.calls_overloaded},
           Row{"lola_shard_misrouted_calls_total",
               "Calls refused because another shard serves the partition.", stats.calls_misrouted},
       }) {
    page.Counter(row.name, row.help, double(row.value), labels);
  }
  page.Gauge("lola_shard_queued_calls", "Calls waiting for a thread now.", double(stats.queued),
             labels);
}

void WriteAmounts(const store::StoreStats& stats, const Labels& labels, Page& page) {
  for (const Row& row : {
           Row{"lola_shard_streams", "Streams held.", stats.streams},
           Row{"lola_shard_owned_streams", "Streams with an owner.", stats.owned_streams},
           Row{"lola_shard_blobs", "Snapshot files.", stats.blobs},
           Row{"lola_shard_blob_bytes", "Bytes of snapshot files; forks share them.",
               stats.blob_bytes},
           Row{"lola_shard_log_tokens", "Tokens in the logs streams write to.", stats.log_tokens},
           Row{"lola_shard_uploads", "Snapshots being written now.", stats.uploads},
       }) {
    page.Gauge(row.name, row.help, double(row.value), labels);
  }
}

void WriteEvents(const store::StoreStats& stats, const Labels& labels, Page& page) {
  for (const Row& row : {
           Row{"lola_shard_append_calls_total", "Append calls.", stats.append_calls},
           Row{"lola_shard_append_entries_total", "Streams' entries in append calls.",
               stats.append_entries},
           Row{"lola_shard_appended_tokens_total", "Tokens written to logs.", stats.append_tokens},
           Row{"lola_shard_append_retries_total", "Entries whose tokens were already there.",
               stats.append_retries},
           Row{"lola_shard_append_refused_total", "Entries refused.", stats.append_refused},
           Row{"lola_fenced_writes_total", "Writes refused because of a stale owner epoch.",
               stats.fenced_writes},
           Row{"lola_shard_commits_total", "Writes to the record store.", stats.commits},
           Row{"lola_shard_commit_failures_total", "Writes the record store failed.",
               stats.commit_failures},
           Row{"lola_shard_acquires_total", "Changes of owner.", stats.acquires},
           Row{"lola_shard_takeovers_total", "Changes of owner while a lease ran.",
               stats.takeovers},
           Row{"lola_shard_snapshots_put_total", "Snapshots made visible.", stats.snapshots_put},
           Row{"lola_shard_snapshot_put_bytes_total", "Bytes of those snapshots.",
               stats.snapshot_put_bytes},
           Row{"lola_shard_snapshots_refused_total",
               "Snapshots refused: damaged or not as announced.", stats.snapshots_refused},
           Row{"lola_shard_snapshots_read_total", "Snapshots asked for.", stats.snapshots_read},
           Row{"lola_shard_snapshot_read_bytes_total", "Bytes of snapshots sent.",
               stats.snapshot_read_bytes},
           Row{"lola_shard_broken_blobs_total",
               "Snapshot files found missing, or damaged and set aside.", stats.broken_blobs},
           Row{"lola_shard_forks_total", "Forks.", stats.forks},
           Row{"lola_shard_rewinds_total", "Rewinds.", stats.rewinds},
           Row{"lola_shard_deletes_total", "Streams deleted by call.", stats.deletes},
           Row{"lola_shard_expired_streams_total", "Streams deleted by their time to live.",
               stats.expired_streams},
           Row{"lola_shard_collected_blobs_total", "Snapshot files removed.",
               stats.collected_blobs},
           Row{"lola_shard_collected_logs_total", "Token logs removed.", stats.collected_logs},
           Row{"lola_shard_collect_failures_total",
               "Rounds of expiry and collection that left something undone.",
               stats.collect_failures},
       }) {
    page.Counter(row.name, row.help, double(row.value), labels);
  }
}

}  // namespace

void WriteShard(const shard::ShardStats& stats, const Labels& labels, Page& page) {
  WriteCalls(stats, labels, page);
  WriteAmounts(stats.store, labels, page);
  WriteEvents(stats.store, labels, page);
}

}  // namespace lola::metrics
