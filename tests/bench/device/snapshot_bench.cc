// Snapshots of all streams at a steady rate, beside decoding.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "tests/bench/device/step_world.h"
#include "tests/bench/support/bench_timer.h"

namespace lola::bench {
namespace {

// One copy of every stream per `interval` of its tokens: streams take turns, evenly in time.
class Snapshots {
 public:
  Snapshots(StepWorld& world, size_t interval) : world_(world), interval_(interval) {
    for (Target& target : targets_) {
      Need(target.host.Allocate(world.device(), world.layout().stride_bytes(), "snapshot"));
    }
  }

  // To be called before every step. Host memory is reused: the copy before the last is waited for.
  void BeforeStep() {
    for (due_ += world_.batch(); due_ >= interval_; due_ -= interval_) {
      Target& target = targets_[taken_ % std::size(targets_)];
      Settle(target);
      auto copy = world_.arena().CopyOut(taken_ % world_.batch(),
                                         {target.host.data(), world_.layout().stride_bytes()});
      Need(copy.status());
      target.copy = *std::move(copy);
      target.pending = true;
      ++taken_;
    }
  }
  void Finish() {
    for (Target& target : targets_) Settle(target);
  }
  size_t taken() const { return taken_; }

 private:
  struct Target {
    engine::PinnedBuffer host;
    engine::DeviceArena::Copy copy;
    bool pending = false;
  };
  static void Settle(Target& target) {
    if (target.pending) Need(target.copy.Wait());
    target.pending = false;
  }

  StepWorld& world_;
  const size_t interval_;
  Target targets_[StepWorld::kStagings];
  size_t due_ = 0, taken_ = 0;
};

// Mean seconds of a step over whole chunks, waits for copies included.
double MeanStep(StepWorld& world, int steps, Snapshots* snapshots) {
  const double start = Now(Clock::kWall);
  for (int i = 0; i < steps; ++i) {
    if (snapshots != nullptr) snapshots->BeforeStep();
    world.Decode();
  }
  if (snapshots != nullptr) snapshots->Finish();
  return (Now(Clock::kWall) - start) / steps;
}

}  // namespace

void RunSnapshotRate(const BenchOptions& options, StepWorld& world, BenchReport& report,
                     const std::string& name, double floor_us) {
  const size_t interval = options.smoke ? 2 : 512;
  const int chunk = int(world.layout().settings().chunk);
  // Whole chunks, so that every block has the same events, and as many copies as blocks allow.
  const int steps = options.smoke ? 4 : chunk * (world.batch() < 256 ? 2 : 1);
  Snapshots snapshots(world, interval);
  std::vector<double> plain, copied;
  for (int pair = 0; pair < (options.smoke ? 1 : 4); ++pair) {
    plain.push_back(MeanStep(world, steps, nullptr));
    copied.push_back(MeanStep(world, steps, &snapshots));
  }
  if (snapshots.taken() == 0) Fail("snapshots: none was due in the time measured");
  const auto add = [&](const char* group, const std::vector<double>& seconds) {
    const auto [least, most] = std::minmax_element(seconds.begin(), seconds.end());
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    const double median = (sorted[(sorted.size() - 1) / 2] + sorted[sorted.size() / 2]) / 2;
    report.Add({group, name, 1e6 * median, (*most - *least) / median, 0, floor_us,
                Rate(double(world.batch()) / median, "tok")});
  };
  add("mean step, no snapshots", plain);
  add("mean step, snapshots", copied);
}

}  // namespace lola::bench
