#include "tests/support/cluster.h"

#include <arpa/inet.h>
#include <grpcpp/grpcpp.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>

#include "lola/v1/cluster.grpc.pb.h"
#include "lola/v1/inference.grpc.pb.h"
#include "tests/support/ports.h"

namespace lola::testing {
namespace {

constexpr int kPartitions = 64;

std::string Binary(const std::string& name) {
  return std::string(LOLA_BINARY_DIR) + "/bin/" + name;
}

std::string Join(const std::vector<std::string>& parts) {
  std::string joined;
  for (const std::string& part : parts) joined += (joined.empty() ? "" : ",") + part;
  return joined;
}

std::string LastLines(const std::string& path, size_t bytes) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) return "";
  const auto size = static_cast<size_t>(in.tellg());
  in.seekg(static_cast<std::streamoff>(size > bytes ? size - bytes : 0));
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

void Append(std::vector<std::string>& argv, const std::vector<std::string>& more) {
  argv.insert(argv.end(), more.begin(), more.end());
}

}  // namespace

Cluster::Cluster(ClusterOptions options)
    : options_([&] {
        if (options.model.empty()) {
          options.model = std::string(LOLA_SOURCE_DIR) + "/tests/testdata/parity/tiny_model";
        }
        return options;
      }()) {
  for (int i = 0; i < options_.shards; ++i) shard_ports_.push_back(ReservePort());
  for (int i = 0; i < options_.workers; ++i) {
    worker_ports_.push_back(ReservePort());
    worker_metrics_ports_.push_back(ReservePort());
  }
  for (int i = 0; i < options_.gateways; ++i) gateway_ports_.push_back(ReservePort());
  for (const auto& [worker, cut] : options_.pipelines) {
    for (size_t i = 0; i < cut.stages.size(); ++i) stage_ports_[worker].push_back(ReservePort());
    stages_[worker].resize(cut.stages.size());
  }
  shards_.resize(shard_ports_.size());
  workers_.resize(worker_ports_.size());
  gateways_.resize(gateway_ports_.size());
  WriteMap();
}

Cluster::~Cluster() {
  gateways_.clear();
  workers_.clear();
  stages_.clear();
  shards_.clear();
}

void Cluster::WriteMap() const {
  std::ofstream out(folder_.path() + "/map.json");
  out << "{\"partitions\": " << kPartitions << ", \"shards\": [";
  for (int i = 0; i < options_.shards; ++i) {
    const int first = kPartitions * i / options_.shards;
    const int last = kPartitions * (i + 1) / options_.shards - 1;
    out << (i ? ", " : "") << "{\"id\": \"shard-" << i << "\", \"address\": \"" << shard_address(i)
        << "\", \"partitions\": [\"" << first << "-" << last << "\"]}";
  }
  out << "]}\n";
}

bool Cluster::WaitListening(int port) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (std::chrono::steady_clock::now() < deadline) {
    const int handle = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const bool up = connect(handle, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    close(handle);
    if (up) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

void Cluster::StartShard(int index, const std::map<std::string, std::string>& env) {
  const std::string id = "shard-" + std::to_string(index);
  std::vector<std::string> argv = {Binary("lola-memory"),
                                   "--bind",
                                   shard_address(index),
                                   "--metrics-bind",
                                   "127.0.0.1:0",
                                   "--data",
                                   folder_.path() + "/" + id,
                                   "--shard-id",
                                   id,
                                   "--map",
                                   folder_.path() + "/map.json"};
  Append(argv, options_.shard_flags);
  shards_[index] = ChildProcess(argv, folder_.path() + "/" + id + ".log", env);
}

void Cluster::StartWorker(int index, const std::map<std::string, std::string>& env) {
  std::vector<std::string> argv = {Binary("lola-worker"),
                                   "--bind",
                                   worker_address(index),
                                   "--metrics-bind",
                                   Address(worker_metrics_ports_[index]),
                                   "--model",
                                   options_.model,
                                   "--map",
                                   folder_.path() + "/map.json",
                                   "--threads",
                                   "1"};
  if (const auto cut = options_.pipelines.find(index); cut != options_.pipelines.end()) {
    std::vector<std::string> stages;
    for (size_t i = 0; i < cut->second.stages.size(); ++i) {
      stages.push_back(stage_address(index, static_cast<int>(i)));
    }
    Append(argv, {"--layers", cut->second.front, "--stages", Join(stages)});
  }
  Append(argv, options_.worker_flags);
  if (const auto own = options_.flags_of_worker.find(index);
      own != options_.flags_of_worker.end()) {
    Append(argv, own->second);
  }
  workers_[index] =
      ChildProcess(argv, folder_.path() + "/worker-" + std::to_string(index) + ".log", env);
}

void Cluster::StartStage(int worker, int index, const std::vector<std::string>& more) {
  std::vector<std::string> argv = {Binary("lola-stage"),
                                   "--bind",
                                   stage_address(worker, index),
                                   "--metrics-bind",
                                   "127.0.0.1:0",
                                   "--model",
                                   options_.model,
                                   "--layers",
                                   options_.pipelines.at(worker).stages[index],
                                   "--threads",
                                   "1"};
  Append(argv, more);
  const std::string name = "stage-" + std::to_string(worker) + "-" + std::to_string(index);
  stages_[worker][index] = ChildProcess(argv, folder_.path() + "/" + name + ".log");
}

void Cluster::StartGateway(int index, const std::map<std::string, std::string>& env) {
  std::vector<std::string> workers;
  for (int i = 0; i < options_.workers; ++i) workers.push_back(worker_address(i));
  std::vector<std::string> argv = {
      Binary("lola-gateway"), "--bind", gateway_address(index),       "--metrics-bind",
      "127.0.0.1:0",          "--map",  folder_.path() + "/map.json", "--workers",
      Join(workers)};
  Append(argv, options_.gateway_flags);
  gateways_[index] =
      ChildProcess(argv, folder_.path() + "/gateway-" + std::to_string(index) + ".log", env);
}

int Cluster::Revive() {
  int started = 0;
  for (size_t i = 0; i < shards_.size(); ++i) {
    if (!shards_[i].running()) StartShard(static_cast<int>(i)), ++started;
  }
  for (auto& [worker, stages] : stages_) {
    for (size_t i = 0; i < stages.size(); ++i) {
      if (!stages[i].running()) StartStage(worker, static_cast<int>(i)), ++started;
    }
  }
  for (size_t i = 0; i < workers_.size(); ++i) {
    if (!workers_[i].running()) StartWorker(static_cast<int>(i)), ++started;
  }
  for (size_t i = 0; i < gateways_.size(); ++i) {
    if (!gateways_[i].running()) StartGateway(static_cast<int>(i)), ++started;
  }
  return started;
}

bool Cluster::WaitWorkersKnown(int gateway) const {
  auto stub = lola::v1::Cluster::NewStub(
      grpc::CreateChannel(gateway_address(gateway), grpc::InsecureChannelCredentials()));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (std::chrono::steady_clock::now() < deadline) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    lola::v1::ListWorkersReply reply;
    int healthy = 0;
    if (stub->ListWorkers(&context, {}, &reply).ok()) {
      for (const auto& worker : reply.workers()) healthy += worker.healthy() ? 1 : 0;
    }
    if (healthy == options_.workers) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return false;
}

void Cluster::StartAll() {
  Revive();
  bool up = true;
  for (int port : shard_ports_) up = WaitListening(port) && up;
  for (int port : worker_ports_) up = WaitListening(port) && up;
  for (int port : gateway_ports_) up = WaitListening(port) && up;
  for (int i = 0; i < options_.gateways; ++i) up = WaitWorkersKnown(i) && up;
  if (!up) {
    std::fprintf(stderr, "cluster did not start:\n%s\n", Logs().c_str());
    std::abort();
  }
}

lola::v1::StreamInfo Cluster::Describe(const std::string& stream_id) {
  auto stub = lola::v1::Inference::NewStub(
      grpc::CreateChannel(gateway_address(0), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  context.set_wait_for_ready(true);
  lola::v1::DescribeRequest request;
  request.set_stream_id(stream_id);
  lola::v1::StreamInfo info;
  stub->Describe(&context, request, &info);
  return info;
}

int Cluster::OwnerOf(const std::string& stream_id) {
  const std::string owner = Describe(stream_id).owner();
  for (int i = 0; i < options_.workers; ++i) {
    if (owner == worker_address(i)) return i;
  }
  return -1;
}

StreamClient::Options Cluster::Client(const std::string& stream_id) const {
  StreamClient::Options client;
  for (int i = 0; i < options_.gateways; ++i) client.gateways.push_back(gateway_address(i));
  client.open.set_stream_id(stream_id);
  client.open.set_create_if_missing(true);
  return client;
}

std::string Cluster::Logs() const {
  std::string all;
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
    if (entry.path().extension() != ".log") continue;
    all +=
        "--- " + entry.path().filename().string() + "\n" + LastLines(entry.path().string(), 3000);
  }
  return all;
}

CommandResult RunProgram(const std::vector<std::string>& argv, std::chrono::seconds timeout) {
  TempFolder folder;
  const std::string log = folder.path() + "/output";
  ChildProcess process(argv, log);
  CommandResult result;
  if (const auto status = process.Wait(timeout); status.has_value() && WIFEXITED(*status)) {
    result.exit_code = WEXITSTATUS(*status);
  }
  result.output = LastLines(log, 1 << 20);
  return result;
}

}  // namespace lola::testing
