// Chaos: clients run scripted conversations while processes are killed, paused and restarted at
// random; every history must equal the undisturbed one. One seed decides the whole schedule.
//   chaos [--seconds N] [--seed S] [--streams K] [--pipelines P]
// P of the two workers are pipelines of two processes; what would hit such a worker hits its stage
// every other time.
// Exit status 0 when every history is explained, 1 otherwise (the seed is printed for a replay).
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/e2e/chaos/history.h"
#include "tests/support/cluster.h"

namespace lola::testing {
namespace {

struct Plan {
  int seconds = 20;
  uint64_t seed = 1;
  int streams = 4;
  int pipelines = 0;
};

// One conversation: appends and generations whose sizes depend on the seed alone.
class Conversation {
 public:
  Conversation(StreamClient::Options options, uint64_t seed)
      : client_(std::move(options)), random_(seed) {}

  // Runs `turns` turns, or until `stop`; returns how many were completed.
  int Run(int turns, const std::atomic<bool>* stop, History* history) {
    history->failure = client_.Open();
    int done = 0;
    while (history->failure.empty() && done < turns && !(stop && stop->load())) {
      history->failure = client_.Append("turn " + std::to_string(random_() % 100000) + ". ");
      if (!history->failure.empty()) break;
      lola::v1::GenerateOp op;
      op.set_max_tokens(20 + static_cast<uint32_t>(random_() % 120));
      op.set_ignore_eos(true);
      op.mutable_sampling()->set_temperature(0.9f);
      op.mutable_sampling()->set_seed(random_());
      history->failure = client_.Generate(op);
      ++done;
      if (stop != nullptr) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    history->tokens = client_.tokens();
    history->final_position = client_.position();
    return done;
  }

 private:
  StreamClient client_;
  std::mt19937_64 random_;
};

// One of the two workers, or its stage.
ChildProcess& AnyWorker(Cluster& cluster, std::mt19937_64& random) {
  const int worker = static_cast<int>(random() % 2);
  const bool pipeline = cluster.options().pipelines.count(worker) != 0;
  return pipeline && random() % 2 == 0 ? cluster.stage(worker, 0) : cluster.worker(worker);
}

// Kills, pauses and restarts until the time is over, then heals everything.
int Disturb(Cluster& cluster, const Plan& plan, std::mt19937_64& random) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(plan.seconds);
  int disturbances = 0;
  while (std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(500 + random() % 1500));
    const int kind = static_cast<int>(random() % 10);
    if (kind < 5) {
      AnyWorker(cluster, random).Kill();
    } else if (kind < 7) {
      cluster.shard(static_cast<int>(random() % 2)).Kill();
    } else if (kind < 9) {
      cluster.gateway(static_cast<int>(random() % 2)).Kill();
    } else {
      ChildProcess& paused = AnyWorker(cluster, random);
      paused.Signal(SIGSTOP);
      std::this_thread::sleep_for(std::chrono::milliseconds(1000 + random() % 2000));
      paused.Signal(SIGCONT);
    }
    ++disturbances;
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 1000));
    cluster.Revive();
  }
  cluster.StartAll();
  return disturbances;
}

// The same conversations on other streams, as many turns each, with nothing in their way.
std::vector<History> RunCalm(Cluster& cluster, const Plan& plan, const std::vector<int>& turns) {
  std::vector<History> calm(turns.size());
  std::vector<std::thread> clients;
  for (size_t i = 0; i < turns.size(); ++i) {
    clients.emplace_back([&, i] {
      calm[i].stream_id = "calm-" + std::to_string(i);
      Conversation conversation(cluster.Client(calm[i].stream_id), plan.seed * 1000 + i);
      conversation.Run(turns[i], nullptr, &calm[i]);
    });
  }
  for (std::thread& client : clients) client.join();
  return calm;
}

int RunChaos(const Plan& plan) {
  ClusterOptions options;
  options.gateways = 2;
  options.worker_flags = {"--checkpoint-interval", "128"};
  for (int i = 0; i < plan.pipelines; ++i) options.pipelines[i] = {"0", {"1"}};
  Cluster cluster(options);
  cluster.StartAll();
  std::atomic<bool> stop{false};
  std::vector<History> observed(static_cast<size_t>(plan.streams));
  std::vector<int> turns(static_cast<size_t>(plan.streams));
  std::vector<std::thread> clients;
  for (int i = 0; i < plan.streams; ++i) {
    clients.emplace_back([&, i] {
      observed[i].stream_id = "chaos-" + std::to_string(i);
      StreamClient::Options client = cluster.Client(observed[i].stream_id);
      Conversation conversation(client, plan.seed * 1000 + static_cast<uint64_t>(i));
      turns[i] = conversation.Run(1 << 30, &stop, &observed[i]);
    });
  }
  std::mt19937_64 random(plan.seed);
  const int disturbances = Disturb(cluster, plan, random);
  stop = true;
  for (std::thread& client : clients) client.join();

  int failures = 0, total_turns = 0;
  for (int count : turns) total_turns += count;
  std::printf("%d disturbances, %d turns; now the same conversations undisturbed\n", disturbances,
              total_turns);
  std::fflush(stdout);
  const std::vector<History> calm = RunCalm(cluster, plan, turns);
  for (int i = 0; i < plan.streams; ++i) {
    const std::string difference =
        calm[i].failure.empty() ? CompareHistories(calm[i], observed[i]) : calm[i].failure;
    if (!difference.empty()) {
      std::printf("FAILED %s\n", difference.c_str());
      ++failures;
    }
  }
  std::printf("seed %llu: %d s, %d disturbances, %d streams, %d turns, %d failures\n",
              (unsigned long long)plan.seed, plan.seconds, disturbances, plan.streams, total_turns,
              failures);
  if (failures != 0) std::printf("%s\n", cluster.Logs().c_str());
  if (total_turns < plan.streams) {
    std::printf("FAILED: hardly a turn was completed, nothing was shown\n");
    ++failures;
  }
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace lola::testing

int main(int argc, char** argv) {
  lola::testing::Plan plan;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    const long long value = i + 1 < argc ? std::atoll(argv[i + 1]) : 0;
    if (flag == "--seconds" && value > 0) {
      plan.seconds = static_cast<int>(value);
    } else if (flag == "--seed" && value > 0) {
      plan.seed = static_cast<uint64_t>(value);
    } else if (flag == "--streams" && value > 0) {
      plan.streams = static_cast<int>(value);
    } else if (flag == "--pipelines" && value >= 0 && value <= 2) {
      plan.pipelines = static_cast<int>(value);
    } else {
      std::printf("usage: chaos [--seconds N] [--seed S] [--streams K] [--pipelines 0|1|2]\n");
      return flag == "--help" ? 0 : 2;
    }
  }
  return lola::testing::RunChaos(plan);
}
