#include "services/evaluate/passkey.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/evaluate/local_runner.h"
#include "services/evaluate/statements.h"

namespace lola::evaluate {
namespace {

constexpr size_t kMistakesMax = 8;

void Count(const Answer& answer, PasskeyResult& result) {
  const std::string& expected = answer.question.references[0].text;
  const bool right = answer.verdict.score == 1.0;
  ++result.questions;
  result.right += right ? 1 : 0;
  const double depth = static_cast<double>(answer.told[0]) / static_cast<double>(answer.position);
  const size_t bin = std::min<size_t>(kDepthBins - 1, static_cast<size_t>(depth * kDepthBins));
  ++result.asked_by_depth[bin];
  result.right_by_depth[bin] += right ? 1 : 0;
  // As the verdict reads it: most vocabularies begin an answer with a blank.
  const std::string said = CleanAnswer(answer.text);
  for (size_t i = 0; i < std::min(said.size(), expected.size()); ++i) {
    result.digits_right += said[i] == expected[i] ? 1 : 0;
  }
  if (!right && result.mistakes.size() < kMistakesMax) {
    result.mistakes.push_back({answer.question.text, expected, answer.text, depth});
  }
}

// Runs the task on a thread of its own and reports about once a second from this one.
absl::Status RunWithProgress(LocalRunner& runner, const Task& task, PasskeyProgress now,
                             const std::function<void(const PasskeyProgress&)>& progress,
                             PasskeyResult& result) {
  std::vector<uint64_t> samples(task.samples());
  std::iota(samples.begin(), samples.end(), 0);
  std::mutex mu;  // guards what the callbacks write
  std::condition_variable finished;
  bool done = false;
  RunCallbacks callbacks;
  callbacks.tokens = [&](uint64_t tokens) {
    const std::lock_guard<std::mutex> lock(mu);
    result.tokens += tokens;
  };
  callbacks.done = [&](SampleResult sample) {
    const std::lock_guard<std::mutex> lock(mu);
    for (const Answer& answer : sample.answers) Count(answer, result);
  };
  absl::Status status;
  const auto begin = std::chrono::steady_clock::now();
  std::thread thread([&] {
    const absl::Status ran = runner.Run(task, samples, callbacks);
    const std::lock_guard<std::mutex> lock(mu);
    status = ran;
    done = true;
    finished.notify_all();
  });
  std::unique_lock<std::mutex> lock(mu);
  for (bool last = false; !last;) {
    last = finished.wait_for(lock, std::chrono::seconds(1), [&] { return done; });
    now.tokens = result.tokens;
    now.questions = result.questions;
    now.right = result.right;
    now.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    lock.unlock();
    if (progress) progress(now);
    lock.lock();
  }
  lock.unlock();
  thread.join();
  result.seconds = now.seconds;
  return status;
}

}  // namespace

absl::StatusOr<PasskeyResult> EvaluatePasskey(
    const engine::Model& model, const engine::Tokenizer& tokenizer, const PasskeyText& text,
    const PasskeyOptions& options, const std::function<void(const PasskeyProgress&)>& progress) {
  LocalOptions local;
  local.settings = options.settings;
  local.threads = options.threads;
  local.streams_per_thread = options.streams_per_thread;
  if (local.settings.mode == memory::Mode::kSoftmax) {
    local.settings.window = static_cast<uint32_t>(options.length + text.digits_length + 1);
  }
  if (options.questions == 0) {
    return absl::InvalidArgumentError("questions: 0, must be at least 1");
  }
  StatementsOptions statements;
  statements.length = options.length;
  statements.questions = options.questions;
  statements.needles = options.needles;
  statements.number_share = options.number_share;
  statements.needle_at_start = options.needle_at_start;
  statements.seed = options.seed;
  statements.min_distance =
      options.min_distance > 0 ? options.min_distance : OutsideWindow(local.settings);
  statements.text = std::make_shared<const PasskeyText>(text);
  auto task = MakeStatements(statements, TokenCounter(&tokenizer, true));
  if (!task.ok()) return task.status();
  auto runner = LocalRunner::Create(model, tokenizer, local);
  if (!runner.ok()) return runner.status();

  PasskeyProgress now;
  now.questions_total = options.questions;
  const uint64_t question = text.question_bytes() + 1;  // with the blank before it
  now.tokens_total = (*task)->samples() * (options.length - question) +
                     options.questions * (question + text.digits_length - 1);
  PasskeyResult result;
  const absl::Status ran = RunWithProgress(**runner, **task, now, progress, result);
  if (!ran.ok()) return ran;
  result.percent = 100.0 * result.right / result.questions;
  std::tie(result.low, result.high) = WilsonInterval(result.right, result.questions);
  result.state_bytes = (*runner)->setup().state_bytes;
  result.min_distance = std::max<uint64_t>(statements.min_distance, text.question_bytes());
  result.settings = local.settings;
  result.stats = (*runner)->stats();
  return result;
}

}  // namespace lola::evaluate
