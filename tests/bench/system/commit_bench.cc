// What commit-before-release costs each token: the time from the end of the pass that computed it
// to the moment the engine hands it out, with durability local (synced at the shard) and none. One
// stream, the engine of a worker, a shard behind a loopback socket.
//
//   commit_bench [--smoke] [--model DIR|random:GEOMETRY] [--dtype float32|bfloat16] [--tokens N]
//                [--threads N] [--folder DIR]
//
// A model much slower than a sync shows the price of one commit (each token has its own); a faster
// one shows how tokens share commits. Tokens are checked to be the same in both rows.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "memory/env/file_env.h"
#include "memory/env/random.h"
#include "services/engine/runtime/engine.h"
#include "services/worker/worker_service.h"
#include "tests/bench/system/loopback_shard.h"

namespace lola::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Plan {
  bool smoke = false;
  std::string model = "random:100m";
  std::string dtype = "bfloat16";
  uint64_t tokens = 1000;
  int threads = 1;
  std::string folder = std::filesystem::temp_directory_path();
};

double Milliseconds(Clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}

// The model, noting when the pass of each sampled token ended. Scheduler thread only.
class TimingRunner final : public engine::ModelRunner {
 public:
  TimingRunner(std::unique_ptr<engine::ModelRunner> inner, std::vector<Clock::time_point>* computed)
      : inner_(std::move(inner)), computed_(computed) {}
  const engine::Model& model() const override { return inner_->model(); }
  size_t rows_max() const override { return inner_->rows_max(); }
  absl::Status Step(std::span<engine::Segment> segments) override {
    const absl::Status status = inner_->Step(segments);
    const Clock::time_point now = Clock::now();
    for (const engine::Segment& segment : segments) {
      if (segment.logits_rows > 0) computed_->push_back(now);
    }
    return status;
  }

 private:
  const std::unique_ptr<engine::ModelRunner> inner_;
  std::vector<Clock::time_point>* const computed_;
};

// Notes when each token was handed out.
class TimingSink final : public engine::EventSink {
 public:
  void OnOpened(engine::OpenedEvent) override {}
  void OnTokens(engine::TokensEvent event) override {
    const Clock::time_point now = Clock::now();
    ids.insert(ids.end(), event.ids.begin(), event.ids.end());
    released.insert(released.end(), event.ids.size(), now);
    events += event.ids.empty() ? 0 : 1;
  }
  void OnDurable(uint64_t) override {}
  void OnDone(engine::DoneEvent event) override {
    if (!event.append) done.set_value();
  }
  void OnReleased(std::string) override { Fail("the stream was released"); }
  void OnError(absl::Status status) override { Fail(status.ToString()); }
  bool Writable() const override { return true; }

  std::vector<int32_t> ids;
  std::vector<Clock::time_point> released;
  size_t events = 0;
  std::promise<void> done;
};

// One generation; prints its row and returns the tokens.
std::vector<int32_t> Measure(const Plan& plan, const worker::ServedModel& served,
                             LoopbackShard& shard, engine::Durability durability) {
  std::vector<Clock::time_point> computed;
  engine::EngineOptions options;
  options.slots = 2;
  constexpr size_t kRows = 256;
  auto runner = std::make_unique<TimingRunner>(
      engine::MakeModelRunner(served.model, kRows, plan.threads), &computed);
  auto engine =
      Check(engine::Engine::Create(options, std::move(runner), served.tokenizer, shard.client()));
  const bool local = durability == engine::Durability::kLocal;
  auto sink = std::make_shared<TimingSink>();
  engine::AttachRequest attach;
  attach.stream_id = local ? "local" : "none";
  attach.create_if_missing = true;
  attach.durability = durability;
  const engine::AttachmentId id = engine->Attach(attach, sink);
  engine->Append(id, {.seq = 1, .base = {}, .ids = std::vector<int32_t>(100, 65)});
  engine::GenerateOp generate;
  generate.seq = 2;
  generate.max_tokens = plan.tokens;
  generate.ignore_eos = true;
  generate.sampling.temperature = 1.0f;
  generate.sampling.seed = 7;
  engine->Generate(id, generate);
  sink->done.get_future().get();
  engine.reset();  // its thread is gone: both sides may be read
  if (sink->released.size() != plan.tokens || computed.size() < plan.tokens) {
    Fail("released " + std::to_string(sink->released.size()) + " tokens, computed " +
         std::to_string(computed.size()) + ", asked for " + std::to_string(plan.tokens));
  }
  std::vector<double> added, steps;
  for (size_t i = 0; i < plan.tokens; ++i) {
    added.push_back(Milliseconds(sink->released[i] - computed[i]));
    if (i > 0) steps.push_back(Milliseconds(computed[i] - computed[i - 1]));
  }
  const double all = Milliseconds(sink->released.back() - computed.front()) * 1e-3;
  std::printf("| %s | %.0f | %.3f | %.1f | %.3f | %.3f | %.3f |\n", local ? "local" : "none",
              static_cast<double>(plan.tokens - 1) / all, Quantile(steps, 0.5),
              static_cast<double>(plan.tokens) / static_cast<double>(sink->events),
              Quantile(added, 0.5), Quantile(added, 0.99), Quantile(added, 1));
  std::fflush(stdout);
  return sink->ids;
}

// What a commit waits for at least: 64 bytes appended and synced.
void PrintDisk(const std::string& folder, int rounds) {
  auto file = Check(memory::FileEnv::Real()->NewFile(folder + "/raw"));
  std::vector<double> times;
  for (int i = 0; i < rounds; ++i) {
    const auto start = Clock::now();
    Check(file->Append(std::string(64, 'x')));
    Check(file->Sync());
    times.push_back(Milliseconds(Clock::now() - start));
  }
  std::printf("raw 64 B write + sync in this run: p50 %.3f ms, p99 %.3f ms\n\n",
              Quantile(times, 0.5), Quantile(times, 0.99));
}

int Main(const Plan& plan) {
  const auto served = Check(worker::LoadServedModel(plan.model, plan.dtype));
  const std::string folder = plan.folder + "/lola_commit_" + memory::NewUid();
  std::filesystem::create_directories(folder);
  std::printf("%s, %s, %llu tokens, %d thread(s)\n", plan.model.c_str(), plan.dtype.c_str(),
              (unsigned long long)plan.tokens, plan.threads);
  PrintDisk(folder, plan.smoke ? 10 : 500);
  std::printf(
      "| durability | tokens/s | pass p50 ms | tokens a release | computed to released p50 ms | "
      "p99 "
      "ms | max ms |\n|---|---|---|---|---|---|---|\n");
  {
    LoopbackShard shard(folder + "/shard");
    const auto local = Measure(plan, served, shard, engine::Durability::kLocal);
    const auto none = Measure(plan, served, shard, engine::Durability::kNone);
    if (local != none) Fail("the tokens differ");
  }
  std::filesystem::remove_all(folder);
  return 0;
}

}  // namespace
}  // namespace lola::bench

int main(int argc, char** argv) {
  lola::bench::Plan plan;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const bool has_value = i + 1 < argc;
    if (flag == "--smoke") {
      plan.smoke = true;
      plan.model = "random:tiny";
      plan.dtype = "float32";
      plan.tokens = 50;
    } else if (flag == "--model" && has_value) {
      plan.model = argv[++i];
    } else if (flag == "--dtype" && has_value) {
      plan.dtype = argv[++i];
    } else if (flag == "--tokens" && has_value) {
      plan.tokens = std::max<uint64_t>(2, std::strtoull(argv[++i], nullptr, 10));
    } else if (flag == "--threads" && has_value) {
      plan.threads = std::max(1, std::atoi(argv[++i]));
    } else if (flag == "--folder" && has_value) {
      plan.folder = argv[++i];
    } else {
      std::printf("see the head of tests/bench/system/commit_bench.cc\n");
      return flag == "--help" ? 0 : 2;
    }
  }
  return lola::bench::Main(plan);
}
