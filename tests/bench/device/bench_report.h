// What device_bench found: rows of figures, printed as they come and written as Markdown and JSON.
// Not thread-safe.
#ifndef LOLA_TESTS_BENCH_DEVICE_BENCH_REPORT_H_
#define LOLA_TESTS_BENCH_DEVICE_BENCH_REPORT_H_

#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"

namespace lola::bench {

struct Figure {
  std::string group;     // "ceilings", "decode attention", ...
  std::string name;      // what was run: shape, settings, batch
  double median_us = 0;  // of one run
  double spread = 0;     // (largest - smallest) / median of the repetitions
  double p99_us = 0;     // steps only
  double floor_us = 0;   // by this run's ceilings; 0 = none given
  std::string rate;      // "3.91 TB/s", "1234 tok/s"
};

class BenchReport {
 public:
  explicit BenchReport(const cuda::DeviceInfo& device) : device_(device) {}

  void Add(const Figure& figure);
  // Measured ceilings: bytes moved (read plus written) per second, flops of bf16 products.
  double bytes_per_s = 0, flops_per_s = 0;
  double FloorUs(double bytes, double flops) const;

  bool WriteMarkdown(const std::string& path) const;
  bool WriteJson(const std::string& path) const;

 private:
  cuda::DeviceInfo device_;
  std::vector<Figure> figures_;
};

// Seconds of one `run`, several repetitions of `runs` each, sorted. `run` only enqueues; `wait`
// blocks until all of it is done.
struct Timing {
  double median_s, spread;
};
Timing TimeQueued(int repetitions, int runs, const std::function<void()>& run,
                  const std::function<void()>& wait);

std::string Rate(double per_second, const char* unit);

}  // namespace lola::bench

#endif  // LOLA_TESTS_BENCH_DEVICE_BENCH_REPORT_H_
