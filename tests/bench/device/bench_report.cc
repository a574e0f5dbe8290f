#include "tests/bench/device/bench_report.h"

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/bench/support/bench_timer.h"

namespace lola::bench {

std::string Rate(double per_second, const char* unit) {
  static constexpr const char* kScales[] = {"", "K", "M", "G", "T", "P"};
  size_t scale = 0;
  for (; per_second >= 1000 && scale + 1 < std::size(kScales); ++scale) per_second /= 1000;
  return absl::StrFormat("%.4g %s%s/s", per_second, kScales[scale], unit);
}

Timing TimeQueued(int repetitions, int runs, const std::function<void()>& run,
                  const std::function<void()>& wait) {
  run();  // loads kernels, picks products
  wait();
  std::vector<double> seconds;
  for (int i = 0; i < repetitions; ++i) {
    const double start = Now(Clock::kWall);
    for (int n = 0; n < runs; ++n) run();
    wait();
    seconds.push_back((Now(Clock::kWall) - start) / runs);
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  return {median, (seconds.back() - seconds.front()) / median};
}

double BenchReport::FloorUs(double bytes, double flops) const {
  if (bytes_per_s == 0 || flops_per_s == 0) return 0;
  return 1e6 * std::max(bytes / bytes_per_s, flops / flops_per_s);
}

void BenchReport::Add(const Figure& f) {
  figures_.push_back(f);
  std::printf("%-18s %-44s %12.2f us  +-%4.1f%%  %-16s", f.group.c_str(), f.name.c_str(),
              f.median_us, 50 * f.spread, f.rate.c_str());
  if (f.floor_us > 0)
    std::printf(" floor %.2f us (%.0f %%)", f.floor_us, 100 * f.floor_us / f.median_us);
  if (f.p99_us > 0) std::printf(" p99 %.2f us", f.p99_us);
  std::printf("\n");
  std::fflush(stdout);
}

bool BenchReport::WriteMarkdown(const std::string& path) const {
  std::ofstream out(path);
  out << "# Device benchmark\n\n"
      << device_.name << ", " << device_.backend << ", " << device_.processors
      << " multiprocessors, " << device_.memory_bytes / 1000000 << " MB, "
      << device_.free_bytes / 1000000 << " MB free at the start.\n\n"
      << "Median of the repetitions; spread is half of the range. A floor is the larger of bytes "
         "over "
         "the copy bandwidth and operations over the bf16 product rate, both measured in this "
         "run.\n\n"
      << "| group | case | us | spread | p99 us | floor us | of floor | rate |\n"
      << "|---|---|---|---|---|---|---|---|\n";
  for (const Figure& f : figures_) {
    out << absl::StrFormat(
        "| %s | %s | %.2f | %.1f %% | %s | %s | %s | %s |\n", f.group, f.name, f.median_us,
        50 * f.spread, f.p99_us > 0 ? absl::StrFormat("%.2f", f.p99_us) : "",
        f.floor_us > 0 ? absl::StrFormat("%.2f", f.floor_us) : "",
        f.floor_us > 0 ? absl::StrFormat("%.0f %%", 100 * f.floor_us / f.median_us) : "", f.rate);
  }
  return out.good();
}

bool BenchReport::WriteJson(const std::string& path) const {
  std::ofstream out(path);
  out << absl::StrFormat(
      "{\"device\": \"%s\", \"backend\": \"%s\", \"processors\": %d,\n"
      " \"copy_bytes_per_s\": %.6g, \"bf16_flops_per_s\": %.6g,\n \"figures\": [",
      device_.name, device_.backend, device_.processors, bytes_per_s, flops_per_s);
  for (size_t i = 0; i < figures_.size(); ++i) {
    const Figure& f = figures_[i];
    out << (i == 0 ? "\n" : ",\n")
        << absl::StrFormat(
               "  {\"group\": \"%s\", \"case\": \"%s\", \"median_us\": %.6g, "
               "\"spread\": %.4g, \"p99_us\": %.6g, \"floor_us\": %.6g, \"rate\": \"%s\"}",
               f.group, f.name, f.median_us, f.spread, f.p99_us, f.floor_us, f.rate);
  }
  out << "\n]}\n";
  return out.good();
}

}  // namespace lola::bench
