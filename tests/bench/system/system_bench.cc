// Benchmarks of the whole system with real processes on loopback (1 shard, 2 workers, 1 gateway).
//
//   system_bench [--smoke] [--model DIR] [--lengths 1000,100000,1000000] [--kills 5]
//
// Prints, as Markdown: time from kill -9 of the owning worker to the next token by stream length
// (P5), latency of one token with and without commit-before-release, and the worker's resident
// memory while the stream grows (P1). Every token received is checked for position by the client.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/cluster.h"

namespace lola::testing {
namespace {

using Clock = std::chrono::steady_clock;

struct Plan {
  bool smoke = false;
  std::string model;
  std::vector<uint64_t> lengths = {1000, 100000, 1000000};
  int kills = 5;
};

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}

void Require(const std::string& problem, Cluster& cluster) {
  if (problem.empty()) return;
  std::fprintf(stderr, "FAILED %s\n%s\n", problem.c_str(), cluster.Logs().c_str());
  std::exit(1);
}

std::string Text(size_t bytes) {
  std::string text;
  for (size_t i = 0; text.size() < bytes; ++i) {
    text += "The garden of number " + std::to_string(i * 7919 % 10007) + " is green. ";
  }
  text.resize(bytes);
  return text;
}

lola::v1::GenerateOp Op(uint32_t tokens) {
  lola::v1::GenerateOp op;
  op.set_max_tokens(tokens);
  op.set_ignore_eos(true);
  op.mutable_sampling()->set_temperature(1.0f);
  return op;
}

// Feeds until the stream has `length` tokens; returns tokens per second.
double Grow(StreamClient& client, uint64_t length, Cluster& cluster) {
  const auto start = Clock::now();
  const uint64_t before = client.position();
  while (client.position() < length) {
    const uint64_t piece = std::min<uint64_t>(length - client.position(), 256 << 10);
    Require(client.Append(Text(piece)), cluster);
  }
  return static_cast<double>(client.position() - before) / Seconds(Clock::now() - start);
}

// One kill in mid-generation; seconds from the kill to the next token received.
double KillOnce(StreamClient& client, const std::string& id, Cluster& cluster) {
  const int owner = cluster.OwnerOf(id);
  if (owner < 0) Require("stream has no owner", cluster);
  Clock::time_point killed{}, next{};
  Require(
      client.Generate(Op(400),
                      [&](const ReceivedToken&) {
                        if (killed == Clock::time_point{} && client.tokens().size() % 50 == 49) {
                          cluster.worker(owner).Kill();
                          killed = Clock::now();
                        } else if (killed != Clock::time_point{} && next == Clock::time_point{} &&
                                   Clock::now() - killed > std::chrono::milliseconds(20)) {
                          next = Clock::now();  // later than what was already on its way
                        }
                      }),
      cluster);
  cluster.StartAll();
  return next == Clock::time_point{} ? 0 : Seconds(next - killed);
}

void BenchRecovery(const Plan& plan) {
  std::printf(
      "\n| stream length | append tokens/s | kill -9 to next token, median s | max s | "
      "worker resident MiB |\n|---|---|---|---|---|\n");
  ClusterOptions options;
  options.shards = 1;
  options.model = plan.model;
  Cluster cluster(options);
  cluster.StartAll();
  StreamClient::Options client_options = cluster.Client("grows");
  client_options.patience = std::chrono::seconds(600);
  StreamClient client(client_options);
  Require(client.Open(), cluster);
  for (uint64_t length : plan.lengths) {
    const double rate = Grow(client, length, cluster);
    std::vector<double> times;
    for (int i = 0; i < plan.kills; ++i) times.push_back(KillOnce(client, "grows", cluster));
    const size_t resident = ResidentBytes(cluster.worker(cluster.OwnerOf("grows")).pid());
    std::printf("| %llu | %.0f | %.3f | %.3f | %.1f |\n", (unsigned long long)length, rate,
                Quantile(times, 0.5), Quantile(times, 1.0),
                static_cast<double>(resident) / (1 << 20));
    std::fflush(stdout);
  }
}

void BenchLatency(const Plan& plan) {
  std::printf(
      "\n| durability | tokens/s, one stream | inter-token p50 ms | p99 ms |\n"
      "|---|---|---|---|\n");
  ClusterOptions options;
  options.shards = 1;
  options.model = plan.model;
  Cluster cluster(options);
  cluster.StartAll();
  for (const auto durability : {lola::v1::DURABILITY_LOCAL, lola::v1::DURABILITY_NONE}) {
    const bool local = durability == lola::v1::DURABILITY_LOCAL;
    StreamClient::Options client_options = cluster.Client(local ? "local" : "none");
    client_options.open.set_durability(durability);
    StreamClient client(client_options);
    Require(client.Open(), cluster);
    Require(client.Append(Text(500)), cluster);
    std::vector<double> gaps;
    Clock::time_point last = Clock::now();
    const uint32_t tokens = plan.smoke ? 100 : 2000;
    const auto start = Clock::now();
    Require(client.Generate(Op(tokens),
                            [&](const ReceivedToken&) {
                              gaps.push_back(Seconds(Clock::now() - last) * 1e3);
                              last = Clock::now();
                            }),
            cluster);
    std::printf("| %s | %.0f | %.3f | %.3f |\n", local ? "local" : "none",
                tokens / Seconds(Clock::now() - start), Quantile(gaps, 0.5), Quantile(gaps, 0.99));
  }
}

Plan Parse(int argc, char** argv) {
  Plan plan;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--smoke") {
      plan.smoke = true;
      plan.lengths = {1000, 3000};
      plan.kills = 1;
    } else if (flag == "--model" && i + 1 < argc) {
      plan.model = argv[++i];
    } else if (flag == "--kills" && i + 1 < argc) {
      plan.kills = std::max(1, std::atoi(argv[++i]));
    } else if (flag == "--lengths" && i + 1 < argc) {
      plan.lengths.clear();
      std::stringstream list(argv[++i]);
      for (std::string item; std::getline(list, item, ',');) {
        plan.lengths.push_back(std::strtoull(item.c_str(), nullptr, 10));
      }
    } else {
      std::printf("usage: system_bench [--smoke] [--model DIR] [--lengths N,N,...] [--kills N]\n");
      std::exit(flag == "--help" ? 0 : 2);
    }
  }
  return plan;
}

}  // namespace
}  // namespace lola::testing

int main(int argc, char** argv) {
  const lola::testing::Plan plan = lola::testing::Parse(argc, argv);
  lola::testing::BenchLatency(plan);
  lola::testing::BenchRecovery(plan);
  return 0;
}
