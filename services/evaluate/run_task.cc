#include "services/evaluate/run_task.h"

#include <chrono>
#include <mutex>
#include <utility>
#include <vector>

namespace lola::evaluate {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kSaveEvery{10};

double Seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

}  // namespace

absl::Status RunTask(const Task& task, Runner& runner, ResultsFile& results,
                     const std::atomic<bool>* stop,
                     const std::function<void(const RunProgress&)>& progress) {
  std::vector<uint64_t> missing;
  for (uint64_t i = 0; i < task.samples(); ++i) {
    if (!results.Has(i)) missing.push_back(i);
  }
  RunProgress now;
  now.samples = task.samples() - missing.size();
  now.samples_total = task.samples();
  now.tokens_total = missing.size() * task.tokens_per_sample();
  double score = 0.0;
  const auto count = [&](const SampleResult& result) {
    for (const Answer& answer : result.answers) {
      ++now.questions;
      score += answer.verdict.score;
    }
  };
  for (const SampleResult& result : results.results()) count(result);

  const auto begin = Clock::now();
  auto saved = begin, counted = begin;
  uint64_t tokens_counted = 0;
  absl::Status saving;
  const auto save = [&] {
    results.AddEffort(now.tokens - tokens_counted, Seconds(counted));
    tokens_counted = now.tokens;
    counted = saved = Clock::now();
    saving.Update(results.Save());
  };
  std::mutex mu;
  // Ends the run when it is told to, or when results cannot be kept: not hours later.
  std::atomic<bool> halt{stop != nullptr && *stop};
  RunCallbacks callbacks;
  callbacks.stop = &halt;
  callbacks.tokens = [&](uint64_t tokens) {
    const std::lock_guard<std::mutex> lock(mu);
    halt = !saving.ok() || (stop != nullptr && *stop);
    now.tokens += tokens;
    now.seconds = Seconds(begin);
    now.score = now.questions > 0 ? 100.0 * score / static_cast<double>(now.questions) : 0.0;
    if (progress) progress(now);
    halt = halt || (stop != nullptr && *stop);
  };
  callbacks.done = [&](SampleResult result) {
    const std::lock_guard<std::mutex> lock(mu);
    count(result);
    ++now.samples;
    saving.Update(results.Add(std::move(result)));
    if (Clock::now() - saved > kSaveEvery) save();
  };
  const absl::Status ran =
      missing.empty() ? absl::OkStatus() : runner.Run(task, missing, callbacks);
  save();
  if (!saving.ok()) return saving;
  return ran;
}

}  // namespace lola::evaluate
