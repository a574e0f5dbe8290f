// Tokens per second of the model itself, in the process: decode by batch and by position, prefill,
// share of time by kind of operation, and the floor: bytes that must be read per step over the
// machine's read bandwidth measured in the same run.
//
//   engine_bench [--smoke] [--model DIR | --geometry NAME] [--dtype float32|bfloat16]
//                [--profile lifelong|paper] [--threads N] [--batches 1,2,4,8,16] [--seconds S]
//                [--positions 0,4096,16384,131072,1048576]
//
// A stream is put at a position by running tokens until window, sparse cache and recurrent state
// are in use and then renaming its position (bytes and work per token do not depend on it; a real
// run of 1,000,000 tokens is measured by system_bench). Before timing, the decode of a batch is
// compared with the same tokens run alone: the bits must be equal.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/core/cpu.h"
#include "memory/stream/stream_state.h"
#include "services/engine/model.h"
#include "tests/bench/support/machine_limits.h"

namespace lola::bench {
namespace {

using engine::Model;
using engine::Segment;
using Clock = std::chrono::steady_clock;

struct Plan {
  bool smoke = false;
  std::string model;
  std::string geometry = "tiny";
  engine::WeightDtype dtype = engine::WeightDtype::kFloat32;
  std::string profile = "lifelong";
  int threads = 2;
  double seconds = 2.0;
  std::vector<uint64_t> batches = {1, 2, 4, 8, 16};
  std::vector<uint64_t> positions = {0, 4096, 16384, 131072, 1048576};
};

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "FAILED %s\n", what.c_str());
  std::exit(1);
}

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

int32_t TokenAt(const Model& model, uint64_t stream, uint64_t position) {
  uint64_t x = stream * 0x9E3779B97F4A7C15u + position * 0xBF58476D1CE4E5B9u + 1;
  x ^= x >> 31;
  x *= 0x94D049BB133111EBu;
  return static_cast<int32_t>((x >> 33) % model.geometry().vocab);
}

// Streams with their records, all of one layout.
class Streams {
 public:
  Streams(const Model& model, const memory::StateLayout& layout, size_t count)
      : model_(model), layout_(layout), logits_(count * model.geometry().vocab) {
    for (size_t i = 0; i < count; ++i) {
      records_.emplace_back(layout.stride_bytes() + memory::kPageBytes);
      Reset(i);
    }
  }

  size_t size() const { return records_.size(); }
  memory::StreamState State(size_t i) { return memory::StreamState(&layout_, Record(i)); }
  const float* logits(size_t i) const { return logits_.data() + i * model_.geometry().vocab; }
  void Reset(size_t i) { State(i).Reset({}); }

  // `rows` more tokens of streams [0, count) in one pass.
  void Step(size_t count, size_t rows, engine::StepWorkspace& workspace,
            kernels::ThreadPool& pool) {
    std::vector<Segment> segments(count);
    std::vector<std::vector<int32_t>> tokens(count);
    for (size_t i = 0; i < count; ++i) {
      const uint64_t position = State(i).position();
      for (size_t r = 0; r < rows; ++r) tokens[i].push_back(TokenAt(model_, i, position + r));
      segments[i].record = Record(i);
      segments[i].layout = &layout_;
      segments[i].settings = &layout_.settings();
      segments[i].tokens = tokens[i];
      segments[i].logits_rows = 1;
      segments[i].logits = logits_.data() + i * model_.geometry().vocab;
    }
    const absl::Status status = model_.Step(segments, workspace, pool);
    if (!status.ok()) Fail(status.ToString());
    for (const Segment& segment : segments) {
      if (!segment.status.ok()) Fail(segment.status.ToString());
    }
  }

 private:
  std::span<std::byte> Record(size_t i) {
    auto address = reinterpret_cast<uintptr_t>(records_[i].data());
    const size_t skip = (memory::kPageBytes - address % memory::kPageBytes) % memory::kPageBytes;
    return {records_[i].data() + skip, layout_.stride_bytes()};
  }

  const Model& model_;
  const memory::StateLayout& layout_;
  std::vector<std::vector<std::byte>> records_;
  std::vector<float> logits_;
};

class EngineBench {
 public:
  EngineBench(const Plan& plan, const Model& model, const memory::LolaSettings& settings)
      : plan_(plan),
        model_(model),
        layout_(model.geometry(), settings),
        pool_(plan.threads),
        workspace_(model, 512, plan.threads),
        streams_(model, layout_, *std::max_element(plan.batches.begin(), plan.batches.end())) {}

  void Run() {
    std::printf("state %.3f MiB a stream, weights %.1f MiB %s, %s, %d threads, %s\n",
                static_cast<double>(layout_.stride_bytes()) / (1 << 20),
                static_cast<double>(model_.weight_bytes()) / (1 << 20),
                kernels::DtypeName(model_.dtype()),
                std::string(kernels::InstructionClass()).c_str(), plan_.threads,
                layout_.settings().ToString().c_str());
    CheckBatchInvariance();
    const double budget_s = plan_.smoke ? 0 : 0.3;
    const double bandwidth = ReadLimitGbps(plan_.threads, budget_s) * 1e9;
    const bool bf16 = model_.dtype() == kernels::Dtype::kBFloat16;
    const bool tiles = bf16 && kernels::HasBf16Tiles(), dot = bf16 && kernels::HasBf16Dot();
    const double flops = (tiles ? Bf16TileLimitGflops(plan_.threads, budget_s)
                          : dot ? Bf16DotLimitGflops(plan_.threads, budget_s)
                                : FmaLimitGflops(plan_.threads, budget_s)) *
                         1e9;
    std::printf("limits in this run: read %.1f GB/s, %s %.0f GFLOP/s\n\n", bandwidth / 1e9,
                tiles ? "bf16 tiles"
                : dot ? "bf16 dot"
                      : "FMA",
                flops / 1e9);
    std::printf(
        "| position | batch | decode tokens/s | of (weights + states) / bandwidth |\n"
        "|---|---|---|---|\n");
    engine::StepTimes before = workspace_.times();
    for (uint64_t position : plan_.positions) {
      for (uint64_t batch : plan_.batches) Decode(position, batch, bandwidth);
    }
    PrintShares("decode, with the filling of states before it", before);
    before = workspace_.times();
    std::printf(
        "\n| prefill rows a pass | tokens/s | of limit (matrix products alone) |\n"
        "|---|---|---|\n");
    for (size_t rows : {size_t{64}, size_t{512}}) Prefill(rows, flops);
    PrintShares("prefill", before);
  }

 private:
  // Steps until every kind of memory is in use.
  void Fill(size_t count) {
    const memory::LolaSettings& s = layout_.settings();
    const uint64_t need =
        plan_.smoke ? s.window + 2 * s.chunk : s.window + 2 * s.chunk + s.cache_pairs + s.chunk;
    for (size_t i = 0; i < count; ++i) streams_.Reset(i);
    while (streams_.State(0).position() < need) {
      streams_.Step(count, std::min<size_t>(s.chunk, 512 / count), workspace_, pool_);
    }
  }

  void CheckBatchInvariance() {
    if (streams_.size() < 2) return;
    Fill(streams_.size());
    streams_.Step(streams_.size(), 1, workspace_, pool_);
    const uint32_t vocab = model_.geometry().vocab;
    const std::vector<float> together(streams_.logits(0), streams_.logits(0) + vocab);
    Fill(1);
    streams_.Step(1, 1, workspace_, pool_);
    if (std::memcmp(together.data(), streams_.logits(0), vocab * sizeof(float)) != 0) {
      Fail("a stream's logits depend on its batch companions");
    }
  }

  void Decode(uint64_t position, uint64_t batch, double bandwidth) {
    Fill(batch);
    // A position with the same place in chunk and ring, so that the record stays consistent.
    const uint64_t period = uint64_t{layout_.ring_chunks()} * layout_.settings().chunk;
    for (size_t i = 0; i < batch && position != 0; ++i) {
      memory::StreamState state = streams_.State(i);
      state.SetPosition(state.position() % period + position / period * period);
    }
    std::vector<double> times;
    const auto end = Clock::now() + std::chrono::duration<double>(plan_.seconds);
    while (Clock::now() < end || times.size() < 3) {
      const auto start = Clock::now();
      streams_.Step(batch, 1, workspace_, pool_);
      times.push_back(Seconds(Clock::now() - start));
      if (plan_.smoke && times.size() >= 3) break;
    }
    // Mean, not median: the cost of chunk events belongs to every token.
    double total = 0;
    for (double time : times) total += time;
    const double step = total / static_cast<double>(times.size());
    const double floor = (static_cast<double>(model_.weight_bytes()) +
                          static_cast<double>(batch * layout_.stride_bytes())) /
                         bandwidth;
    std::printf("| %llu | %llu | %.1f | %.0f %% |\n", (unsigned long long)position,
                (unsigned long long)batch, static_cast<double>(batch) / step, 100 * floor / step);
    std::fflush(stdout);
  }

  void Prefill(size_t rows, double flops) {
    streams_.Reset(0);
    std::vector<double> times;
    const auto end = Clock::now() + std::chrono::duration<double>(plan_.seconds);
    while (Clock::now() < end || times.size() < 3) {
      const auto start = Clock::now();
      streams_.Step(1, rows, workspace_, pool_);
      times.push_back(Seconds(Clock::now() - start));
      if (plan_.smoke && times.size() >= 3) break;
    }
    const double rate = static_cast<double>(rows) / Median(times);
    std::printf("| %zu | %.0f | %.0f %% |\n", rows, rate, 100 * rate * ProductFlops() / flops);
  }

  // Floating point operations of a token's matrix products (the head is for one row a pass only).
  double ProductFlops() const {
    const memory::ModelGeometry& g = model_.geometry();
    const double q = 1.0 * g.query_heads * g.head_dim, kv = 1.0 * g.kv_heads * g.head_dim;
    return 2.0 * g.layers * g.hidden * (2 * q + 2 * kv + 3.0 * g.ffn);
  }

  // Of the time since `before`.
  void PrintShares(const char* what, const engine::StepTimes& before) {
    const engine::StepTimes& t = workspace_.times();
    const double all = static_cast<double>(std::max<uint64_t>(t.total_ns - before.total_ns, 1));
    const auto share = [all](uint64_t now, uint64_t then) {
      return 100 * static_cast<double>(now - then) / all;
    };
    const double gemm = share(t.gemm_ns, before.gemm_ns);
    const double memory = share(t.memory_ns, before.memory_ns);
    const double head = share(t.head_ns, before.head_ns);
    std::printf(
        "\nshare of time, %s: matrices %.0f %%, layer memory %.0f %%, head %.0f %%, norms and rest "
        "%.0f %%\n",
        what, gemm, memory, head, 100 - gemm - memory - head);
  }

  const Plan& plan_;
  const Model& model_;
  const memory::StateLayout layout_;
  kernels::ThreadPool pool_;
  engine::StepWorkspace workspace_;
  Streams streams_;
};

std::vector<uint64_t> List(const char* text) {
  std::vector<uint64_t> values;
  std::stringstream list(text);
  for (std::string item; std::getline(list, item, ',');) {
    values.push_back(std::strtoull(item.c_str(), nullptr, 10));
  }
  if (values.empty()) Fail(std::string("empty list: ") + text);
  return values;
}

Plan Parse(int argc, char** argv) {
  Plan plan;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const bool has_value = i + 1 < argc;
    if (flag == "--smoke") {
      plan.smoke = true;
      plan.seconds = 0;
      plan.positions = {0, 4096};
    } else if (flag == "--model" && has_value) {
      plan.model = argv[++i];
    } else if (flag == "--geometry" && has_value) {
      plan.geometry = argv[++i];
    } else if (flag == "--dtype" && has_value) {
      const auto dtype = engine::ParseWeightDtype(argv[++i]);
      if (!dtype.ok()) Fail(dtype.status().ToString());
      plan.dtype = *dtype;
    } else if (flag == "--profile" && has_value) {
      plan.profile = argv[++i];
    } else if (flag == "--threads" && has_value) {
      plan.threads = std::max(1, std::atoi(argv[++i]));
    } else if (flag == "--seconds" && has_value) {
      plan.seconds = std::atof(argv[++i]);
    } else if (flag == "--batches" && has_value) {
      plan.batches = List(argv[++i]);
    } else if (flag == "--positions" && has_value) {
      plan.positions = List(argv[++i]);
    } else {
      std::printf("see the head of tests/bench/engine/engine_bench.cc\n");
      std::exit(flag == "--help" ? 0 : 2);
    }
  }
  return plan;
}

std::unique_ptr<Model> MakeModel(const Plan& plan) {
  engine::LoadOptions options;
  options.dtype = plan.dtype;
  absl::StatusOr<std::unique_ptr<Model>> model;
  if (!plan.model.empty()) {
    model = Model::Load(plan.model, options);
  } else {
    const auto config = engine::NamedGeometry(plan.geometry);
    if (!config.ok()) Fail(config.status().ToString());
    model = Model::Random(*config, 1, options);
  }
  if (!model.ok()) Fail(model.status().ToString());
  return *std::move(model);
}

}  // namespace
}  // namespace lola::bench

int main(int argc, char** argv) {
  const lola::bench::Plan plan = lola::bench::Parse(argc, argv);
  const auto model = lola::bench::MakeModel(plan);
  lola::memory::LolaSettings settings = model->default_settings();
  if (plan.profile == "paper") {
    settings.memory_positions = lola::memory::MemoryPositions::kRotary;
    settings.mass_cap = 0;
    settings.redundancy_threshold = 0;
  }
  lola::bench::EngineBench(plan, *model, settings).Run();
  return 0;
}
