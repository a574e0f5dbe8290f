// Matrix products beside the limits of the same run and beside OpenBLAS and oneDNN where the build
// found them. Checks every product against the reference before timing it.
//
//   gemm_bench [--smoke | --threads 1 | --threads 2]
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "kernels/core/cpu.h"
#include "kernels/gemm/gemm.h"
#include "tests/bench/kernels/gemm_peers.h"
#include "tests/bench/support/bench_timer.h"
#include "tests/bench/support/machine_limits.h"

namespace lola::bench {
namespace {

using kernels::Dtype;
using kernels::PackedMatrix;
using kernels::ThreadPool;

struct Limits {
  double fma = 1;
  double dot = 1;
  double bf16 = 1;  // of the instructions that bfloat16 products use
  double read = 1;
};

struct Shape {
  size_t rows, in, out;
};

std::vector<float> Random(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> values(n);
  for (float& v : values) v = static_cast<float>(random() >> 40) * 0x1p-23f - 1.0f;
  return values;
}

// Every row against the reference; large products in a few rows only.
bool Check(const PackedMatrix& w, const std::vector<float>& x, const std::vector<float>& y,
           const Shape& s) {
  const size_t rows = std::min<size_t>(s.rows, 2 + (size_t{1} << 22) / (s.in * s.out));
  std::vector<float> want(rows * s.out);
  kernels::GemmRef({&w, x.data(), s.in, want.data(), s.out, rows, false});
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::abs(want[i] - y[i]) <= 1e-6 * static_cast<double>(s.in) + 1e-4) continue;
    std::printf("wrong: row %zu output %zu: %g, expected %g\n", i / s.out, i % s.out, y[i],
                want[i]);
    return false;
  }
  return true;
}

void Report(const char* who, const Shape& s, double seconds, double weight_bytes, double flop_limit,
            double read_limit) {
  const double gflops = 2.0 * static_cast<double>(s.rows * s.in * s.out) / seconds * 1e-9;
  const double gbps = weight_bytes / seconds * 1e-9;
  std::printf(
      "  %-18s %9.1f us  %7.1f GFLOP/s (%5.1f %% of limit)  weights %6.1f GB/s (%5.1f %%)\n", who,
      seconds * 1e6, gflops, 100 * gflops / flop_limit, gbps, 100 * gbps / read_limit);
}

bool Run(const Shape& s, Dtype dtype, int threads, const Limits& limits, double budget_s) {
  const std::vector<float> source = Random(s.out * s.in, 1);
  const PackedMatrix w = PackedMatrix::Pack(source, s.out, s.in, dtype);
  const std::vector<float> x = Random(s.rows * s.in, 2);
  std::vector<float> y(s.rows * s.out);
  ThreadPool pool(threads);
  const auto product = [&] {
    kernels::Gemm({&w, x.data(), s.in, y.data(), s.out, s.rows, false}, pool);
  };
  product();
  if (!Check(w, x, y, s)) return false;
  std::printf("%zu x %zu x %zu %s, %d thread(s), weights %.1f MB\n", s.rows, s.in, s.out,
              DtypeName(dtype), threads, static_cast<double>(w.bytes()) * 1e-6);
  if (budget_s <= 0) return true;
  // The byte dot instruction does twice the products of the bfloat16 one.
  const double peak = dtype == Dtype::kFloat32    ? limits.fma
                      : dtype == Dtype::kBFloat16 ? limits.bf16
                                                  : 2 * limits.dot;
  const double bytes = static_cast<double>(w.bytes());
  Report("lola", s, MedianSeconds(ClockFor(threads), budget_s, product), bytes, peak, limits.read);
  for (const GemmPeer& peer : GemmPeers(dtype)) {
    const auto run = peer.prepare(source, s.rows, s.in, s.out, threads);
    if (!run) continue;
    const auto call = [&] { run(x.data(), y.data()); };
    call();
    Report(peer.name, s, MedianSeconds(ClockFor(threads), budget_s, call), bytes, peak,
           limits.read);
  }
  return true;
}

// threads 0: one, then two.
int Main(bool smoke, int only_threads) {
  std::printf("instruction class %s\n", std::string(kernels::InstructionClass()).c_str());
  if (smoke) {
    bool ok = true;
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kInt8}) {
      for (const Shape& s : {Shape{1, 256, 512}, Shape{64, 256, 512}, Shape{5, 333, 77}}) {
        ok = Run(s, dtype, 2, {}, 0) && ok;
      }
    }
    return ok ? 0 : 1;
  }
  bool ok = true;
  for (const int threads : {1, 2}) {
    if (only_threads != 0 && threads != only_threads) continue;
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kInt8}) {
      for (const Shape& s : {Shape{1, 4096, 14336}, Shape{1, 2048, 8192}, Shape{8, 2048, 8192},
                             Shape{64, 2048, 8192}, Shape{512, 2048, 2048}, Shape{64, 128, 352},
                             Shape{1, 128, 352}}) {
        // Before every shape: neighbours come and go.
        Limits limits{.fma = FmaLimitGflops(threads, 0.05), .read = ReadLimitGbps(threads, 0.1)};
        limits.dot = kernels::HasBf16Dot() ? Bf16DotLimitGflops(threads, 0.05) : limits.fma;
        const bool tiles = kernels::HasBf16Tiles();
        limits.bf16 = tiles ? Bf16TileLimitGflops(threads, 0.05) : limits.dot;
        std::printf("limits: FMA %.0f GFLOP/s, bf16 %.0f GFLOP/s (%s), read %.1f GB/s\n",
                    limits.fma, limits.bf16, tiles ? "tiles" : "dot", limits.read);
        ok = Run(s, dtype, threads, limits, 0.15) && ok;
      }
    }
  }
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace lola::bench

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  // OpenBLAS does not know this processor and would pick kernels for an older one.
  setenv("OPENBLAS_CORETYPE", "SkylakeX", 0);
  const auto is = [&](int i, const char* word) {
    return argc > i && std::strcmp(argv[i], word) == 0;
  };
  const int threads = is(1, "--threads") && argc > 2 ? std::atoi(argv[2]) : 0;
  return lola::bench::Main(is(1, "--smoke"), threads);
}
