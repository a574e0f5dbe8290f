// A whole system of real processes on loopback for end-to-end tests: memory shards, workers with
// the stages of those that are pipelines, gateways, in a temporary folder, on ports picked at
// construction (so a restarted process keeps its address). One thread at a time.
#ifndef LOLA_TESTS_SUPPORT_CLUSTER_H_
#define LOLA_TESTS_SUPPORT_CLUSTER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lola/v1/inference.pb.h"
#include "tests/support/process.h"
#include "tests/support/stream_client.h"

namespace lola::testing {

// A worker that runs its model as a pipeline.
struct PipelineCut {
  std::string front;                // layers of the worker itself: "0"
  std::vector<std::string> stages;  // of its lola-stage processes: "1", "2-3"
};

struct ClusterOptions {
  int shards = 2;
  int workers = 2;
  int gateways = 1;
  std::string model;                      // model folder; empty = the tiny test model
  std::vector<std::string> worker_flags;  // added to every worker
  std::map<int, std::vector<std::string>> flags_of_worker;  // added to this one, behind those
  std::vector<std::string> shard_flags;
  std::vector<std::string> gateway_flags;
  std::map<int, PipelineCut> pipelines;  // by worker
};

class Cluster {
 public:
  explicit Cluster(ClusterOptions options);
  ~Cluster();

  // Starts every process that does not run and waits until each listens and the gateways know the
  // workers. Aborts the test after 30 s.
  void StartAll();
  void StartShard(int index, const std::map<std::string, std::string>& env = {});
  void StartWorker(int index, const std::map<std::string, std::string>& env = {});
  void StartGateway(int index, const std::map<std::string, std::string>& env = {});
  // One stage of a worker. `more` goes behind the usual flags, and wins.
  void StartStage(int worker, int index, const std::vector<std::string>& more = {});
  // Returns when the address accepts connections; false after 30 s.
  static bool WaitListening(int port);

  ChildProcess& shard(int index) { return shards_[index]; }
  ChildProcess& worker(int index) { return workers_[index]; }
  ChildProcess& gateway(int index) { return gateways_[index]; }
  ChildProcess& stage(int worker, int index) { return stages_[worker][index]; }
  std::string stage_address(int worker, int index) const {
    return Address(stage_ports_.at(worker)[index]);
  }
  std::string shard_address(int index) const { return Address(shard_ports_[index]); }
  std::string worker_address(int index) const { return Address(worker_ports_[index]); }
  std::string gateway_address(int index) const { return Address(gateway_ports_[index]); }
  int worker_metrics_port(int index) const { return worker_metrics_ports_[index]; }
  const std::string& folder() const { return folder_.path(); }
  const ClusterOptions& options() const { return options_; }

  // Index of the worker that owns the stream, -1 when nobody does.
  int OwnerOf(const std::string& stream_id);
  lola::v1::StreamInfo Describe(const std::string& stream_id);
  // Client options for a stream that is created when missing.
  StreamClient::Options Client(const std::string& stream_id) const;
  // Starts again, with StartAll's flags, whatever is not running. Returns how many were started.
  int Revive();
  // The end of every process's log, for failure messages.
  std::string Logs() const;

 private:
  static std::string Address(int port) { return "127.0.0.1:" + std::to_string(port); }
  void WriteMap() const;
  // Until the gateway knows every worker as healthy; false after 30 s.
  bool WaitWorkersKnown(int gateway) const;

  const ClusterOptions options_;
  TempFolder folder_;
  std::vector<int> shard_ports_, worker_ports_, gateway_ports_, worker_metrics_ports_;
  std::map<int, std::vector<int>> stage_ports_;
  std::vector<ChildProcess> shards_, workers_, gateways_;
  std::map<int, std::vector<ChildProcess>> stages_;  // by worker
};

// Runs the `lola` command line with --endpoint at the cluster's first gateway.
struct CommandResult {
  int exit_code = -1;
  std::string output;  // standard output and error
};
CommandResult RunProgram(const std::vector<std::string>& argv, std::chrono::seconds timeout);

}  // namespace lola::testing

#endif  // LOLA_TESTS_SUPPORT_CLUSTER_H_
