// Tokens per second of the stream memory alone (no projections), in the pieces a service uses:
// segments of 64 rows, single rows, and many small events; with the same-run FMA limit.
#include <cstdio>
#include <cstring>
#include <string>

#include "kernels/core/cpu.h"
#include "tests/bench/support/bench_timer.h"
#include "tests/bench/support/machine_limits.h"
#include "tests/memory/stream/stream_fixture.h"

namespace lola::bench {
namespace {

using memory::LolaSettings;
using memory::ModelGeometry;
using memory::StateLayout;
using memory::test::RandomStream;
using memory::test::StreamRunner;

// Multiply-adds per token and query head once the cache is full (events included).
double ProductsPerToken(const ModelGeometry& g, const LolaSettings& s) {
  const double d = g.head_dim, f = g.feature_dim, c = s.chunk;
  const double pairs = s.cache_pairs + s.window + 0.5 * c;
  const double attend = 2 * pairs * d + 1.0 * d * f / 2 + f * d;
  const double eligible = s.cache_pairs + c;
  double event = eligible * (d * f / 2 + f * d) + c * f * d;
  if (s.redundancy_threshold > 0) event += eligible * eligible / 2 * d;
  return g.layers * g.query_heads * (attend + event / c);
}

bool Run(const char* name, const ModelGeometry& g, const LolaSettings& s, size_t tokens,
         double fma_limit) {
  const RandomStream source(g, tokens, 1);
  const StateLayout layout(g, s);
  kernels::ThreadPool pool(1);
  // Check before timing: single rows and segments agree.
  StreamRunner whole(&layout, &source);
  StreamRunner single(&layout, &source);
  for (size_t i = 0; i < tokens; i += 64) whole.Advance(64, pool);
  for (size_t i = 0; i < tokens; ++i) single.Advance(1, pool);
  if (whole.State().Digest() != single.State().Digest()) {
    std::printf("%s: segments and single rows disagree\n", name);
    return false;
  }
  for (const size_t rows : {size_t{64}, size_t{1}}) {
    const double seconds = MedianSeconds(Clock::kThread, 0.4, [&] {
      StreamRunner& runner = rows == 64 ? whole : single;
      runner.State().SetPosition(tokens - 64 * 4);  // re-run four full chunks of a full state
      for (size_t i = 0; i < 64 * 4; i += rows) runner.Advance(rows, pool);
    });
    const double rate = 64 * 4 / seconds;
    const double gflops = 2 * ProductsPerToken(g, s) * rate * 1e-9;
    std::printf(
        "%-22s rows %-3zu %9.0f tokens/s  %7.2f us/token  %6.1f GFLOP/s = %4.1f %% of FMA\n", name,
        rows, rate, 1e6 / rate, gflops, 100 * gflops / fma_limit);
  }
  return true;
}

int Main(bool smoke) {
  std::printf("instruction class %s\n", std::string(kernels::InstructionClass()).c_str());
  const double limit = smoke ? 1.0 : FmaLimitGflops(1, 0.3);
  if (!smoke) std::printf("FMA limit of this run: %.0f GFLOP/s (1 thread)\n", limit);
  ModelGeometry toy{.layers = 3,
                    .hidden = 128,
                    .query_heads = 4,
                    .kv_heads = 4,
                    .head_dim = 32,
                    .feature_dim = 64,
                    .ffn = 352,
                    .vocab = 264};
  ModelGeometry one_b{.layers = 1,
                      .hidden = 2048,
                      .query_heads = 32,
                      .kv_heads = 8,
                      .head_dim = 64,
                      .feature_dim = 128,
                      .ffn = 8192,
                      .vocab = 128256};
  ModelGeometry eight_b = one_b;
  eight_b.head_dim = 128;
  LolaSettings bf16 = LolaSettings::LifelongProfile();
  bf16.cache_dtype = kernels::Dtype::kBFloat16;
  bool ok = Run("toy lifelong", toy, LolaSettings::LifelongProfile(), 512, limit);
  ok = Run("toy paper", toy, LolaSettings::PaperProfile(), 512, limit) && ok;
  if (smoke) return ok ? 0 : 1;
  ok = Run("toy lifelong bf16", toy, bf16, 512, limit) && ok;
  ok = Run("1B layer lifelong", one_b, LolaSettings::LifelongProfile(), 512, limit) && ok;
  ok = Run("8B layer lifelong bf16", eight_b, bf16, 512, limit) && ok;
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace lola::bench

int main(int argc, char** argv) {
  return lola::bench::Main(argc > 1 && std::strcmp(argv[1], "--smoke") == 0);
}
