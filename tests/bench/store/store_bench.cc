// The stream store by itself, beside what the same disk and memory do without it:
//
//   store_bench [--smoke] [--seconds S] [--folder DIR]
//
// Appends per second by streams in a batch and by concurrent callers; snapshots in and out in GB/s;
// forks. Quote ratios of one run, not absolute figures of different ones.
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "memory/env/random.h"
#include "tests/bench/store/store_bench_rows.h"

namespace {

using lola::bench::Rate;

struct Plan {
  bool smoke = false;
  double seconds = 1.0;
  std::string folder =
      std::filesystem::temp_directory_path() / ("lola_store_bench_" + lola::memory::NewUid());
};

void Print(const std::string& what, const Rate& rate) {
  std::printf("%-46s %12.0f /s   p50 %8.0f us   p99 %8.0f us\n", what.c_str(), rate.per_second,
              rate.p50_us, rate.p99_us);
  std::fflush(stdout);
}

void Run(const Plan& plan) {
  int folders = 0;
  const auto fresh = [&] { return plan.folder + "/" + std::to_string(folders++); };
  Print("raw file, 64 B + fdatasync", lola::bench::RawSyncedAppends(fresh(), 64, plan.seconds));
  for (const size_t streams :
       plan.smoke ? std::vector<size_t>{1, 16} : std::vector<size_t>{1, 4, 16, 64, 256, 1024}) {
    Print("append, tokens in one call, streams " + std::to_string(streams),
          lola::bench::BatchAppends(fresh(), streams, true, plan.seconds));
  }
  Print("append, not synced, streams 64",
        lola::bench::BatchAppends(fresh(), 64, false, plan.seconds));
  for (const size_t callers :
       plan.smoke ? std::vector<size_t>{2} : std::vector<size_t>{1, 2, 4, 8, 16}) {
    Print("append, one token a call, callers " + std::to_string(callers),
          lola::bench::ConcurrentAppends(fresh(), callers, plan.seconds));
  }
  Print("fork of a stream with a 16 MiB snapshot",
        lola::bench::Forks(fresh(), 16u << 20, plan.smoke ? 20 : 500));
  for (const size_t mib : plan.smoke ? std::vector<size_t>{1} : std::vector<size_t>{1, 16, 128}) {
    const int rounds = plan.smoke ? 3 : mib == 128 ? 5 : 15;
    const auto rate = lola::bench::Snapshots(fresh(), mib << 20, rounds);
    std::printf(
        "snapshot %4zu MiB, GB/s: memcpy %.2f | raw write+sync %.2f, put %.2f (%.0f %%) | raw "
        "read %.2f, get %.2f (%.0f %%)\n",
        mib, rate.memcpy / 1e9, rate.raw_write / 1e9, rate.put / 1e9,
        100 * rate.put / rate.raw_write, rate.raw_read / 1e9, rate.get / 1e9,
        100 * rate.get / rate.raw_read);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  Plan plan;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--smoke") == 0) {
      plan.smoke = true;
      plan.seconds = 0.05;
    } else if (std::strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) {
      plan.seconds = std::stod(argv[++i]);
    } else if (std::strcmp(argv[i], "--folder") == 0 && i + 1 < argc) {
      plan.folder = std::string(argv[++i]) + "/lola_store_bench_" + lola::memory::NewUid();
    } else {
      std::fprintf(stderr, "usage: store_bench [--smoke] [--seconds S] [--folder DIR]\n");
      return 2;
    }
  }
  Run(plan);
  std::filesystem::remove_all(plan.folder);
  return 0;
}
