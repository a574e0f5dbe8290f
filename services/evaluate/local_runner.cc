#include "services/evaluate/local_runner.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/cpu.h"
#include "kernels/core/thread_pool.h"
#include "memory/stream/arena.h"
#include "memory/stream/stream_state.h"
#include "services/engine/stop_matcher.h"
#include "services/evaluate/settings_choice.h"

namespace lola::evaluate {
namespace {

using engine::Segment;

constexpr size_t kPassRows = 512;
constexpr uint64_t kArenaBytesMax = uint64_t{2} << 30;  // of one thread
constexpr size_t kMeasuredRows = 32;  // of a pass and stream, when every row's logits are wanted
constexpr uint32_t kStreamsMax = kPassRows / 32;

}  // namespace

struct LocalRunner::Impl {
  const engine::Model& model;
  const engine::Tokenizer& tokenizer;
  const LocalOptions options;
  const memory::StateLayout layout;
  RunSetup setup;
  memory::MemoryStats stats;  // guarded by Shared::mu while a run is on
};

namespace {

// What the threads of one run share.
struct Shared {
  const engine::Model& model;
  const engine::Tokenizer& tokenizer;
  const LocalOptions& options;
  const memory::StateLayout& layout;
  const Task& task;
  std::span<const uint64_t> samples;
  const RunCallbacks& callbacks;
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mu;              // callbacks too
  absl::Status status;        // guarded by mu; the first error
  memory::MemoryStats stats;  // guarded by mu

  bool stopped() const { return failed || (callbacks.stop != nullptr && *callbacks.stop); }
};

// One text being read, or one of its questions being answered.
struct Lane {
  size_t slot = 0, fork = 0;
  std::unique_ptr<Script> script;  // null: idle
  SampleResult result;
  TokenPlaces places;
  std::vector<int32_t> tokens;  // to go through the model
  size_t done = 0;              // of them
  bool asking = false;          // they belong to the copy
  Answer answer;
  std::optional<engine::StopMatcher> matcher;
  std::vector<float> logits;  // [vocab]; measuring: [kMeasuredRows, vocab]
  bool foretold = false;      // measuring: `logits` begin with the row before the next token
};

class Worker {
 public:
  Worker(Shared& shared, size_t lanes)
      : s_(shared), lanes_(lanes), pool_(1), workspace_(shared.model, kPassRows, 1) {}

  absl::Status Run();
  const memory::MemoryStats& stats() const { return stats_; }

 private:
  bool Refill(Lane& lane);  // false: nothing left for this lane
  void Begin(Lane& lane, uint64_t index);
  void BeginQuestion(Lane& lane, const Question& question);
  void TakeToken(Lane& lane);
  void Measure(Lane& lane, size_t count);
  absl::Status Step(std::vector<Lane*>& active);
  std::vector<int32_t> Encode(std::string_view text, bool begins) const;

  Shared& s_;
  std::vector<Lane> lanes_;
  kernels::ThreadPool pool_;
  engine::StepWorkspace workspace_;
  std::unique_ptr<memory::StreamArena> arena_;
  memory::MemoryStats stats_;
};

std::vector<int32_t> Worker::Encode(std::string_view text, bool begins) const {
  engine::EncodeOptions options;
  options.starts_text = begins;
  auto ids = s_.tokenizer.Encode(text, options);
  LOLA_CHECK(ids.ok()) << ids.status();
  return *std::move(ids);
}

void Worker::Begin(Lane& lane, uint64_t index) {
  lane.script = s_.task.Open(index);
  lane.result = {};
  lane.result.index = index;
  lane.places = {};
  lane.asking = lane.foretold = false;
  lane.done = 0;
  lane.tokens.clear();
  if (s_.options.bos) lane.tokens.push_back(*s_.model.config().bos);
  memory::StreamState state(&s_.layout, arena_->record(lane.slot));
  state.Reset(s_.model.fingerprint_bytes());
}

void Worker::BeginQuestion(Lane& lane, const Question& question) {
  const auto from = arena_->record(lane.slot);
  std::copy(from.begin(), from.end(), arena_->record(lane.fork).begin());
  lane.tokens = Encode(question.text + question.answer_prefix, false);
  lane.done = 0;
  lane.asking = true;
  lane.answer = lane.places.Make(question, lane.result.tokens, lane.tokens.size());
  engine::StopRules rules;
  rules.max_tokens = question.max_tokens;
  rules.eos = s_.model.config().eos;
  lane.matcher.emplace(rules, s_.tokenizer);
}

bool Worker::Refill(Lane& lane) {
  while (lane.script == nullptr || lane.done == lane.tokens.size()) {
    if (lane.script == nullptr) {
      const size_t next = s_.next++;
      if (next >= s_.samples.size()) return false;
      Begin(lane, s_.samples[next]);
      continue;
    }
    evaluate::Step step = lane.script->Next();
    if (step.kind == evaluate::Step::Kind::kText) {
      // <bos> goes ahead of the first piece; it counts as a token of the stream.
      const bool begins = lane.result.tokens == (s_.options.bos ? 1 : 0);
      lane.places.Add(step, lane.result.tokens, [this, begins](std::string_view text) {
        return Encode(text, begins).size();
      });
      lane.tokens = Encode(step.text, begins);
      lane.done = 0;
    } else if (step.kind == evaluate::Step::Kind::kQuestion) {
      BeginQuestion(lane, step.question);
    } else {
      lane.script.reset();
      const std::lock_guard<std::mutex> lock(s_.mu);
      s_.callbacks.done(std::move(lane.result));
    }
  }
  return true;
}

// The copy's next token, or the end of the answer.
void Worker::TakeToken(Lane& lane) {
  // Finite, or the step had failed; of equal ones the lowest id.
  const auto best = static_cast<int32_t>(std::max_element(lane.logits.begin(), lane.logits.end()) -
                                         lane.logits.begin());
  const engine::StopMatcher::Verdict verdict = lane.matcher->Push(best);
  lane.answer.text += verdict.text;
  lane.done = 0;
  if (verdict.reason == engine::FinishReason::kNone) {
    lane.tokens = {best};
    return;
  }
  lane.tokens.clear();
  lane.asking = false;
  lane.answer.verdict = Judge(lane.answer.question, lane.answer.text);
  lane.result.answers.push_back(std::move(lane.answer));
}

// Bits of token `id` under one row of logits.
double Bits(std::span<const float> logits, int32_t id) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - top);
  return (std::log(sum) + top - static_cast<double>(logits[id])) / std::log(2.0);
}

// Row 0 foretold the first of the `count` tokens that went through, row i + 1 came behind token i.
void Worker::Measure(Lane& lane, size_t count) {
  const size_t vocab = s_.model.geometry().vocab;
  const std::span<const float> rows(lane.logits);
  for (size_t i = lane.foretold ? 0 : 1; i < count; ++i) {
    const int32_t id = lane.tokens[lane.done + i];
    const uint64_t position = lane.result.tokens + i;
    uint64_t multiple = s_.task.measured_unit();
    while (position >= multiple) multiple *= 10;
    const double cost = Bits(rows.subspan(i * vocab, vocab), id);
    for (BitCount* bits :
         {&lane.result.by_position[std::bit_floor(position)], &lane.result.by_multiple[multiple]}) {
      bits->tokens += 1;
      bits->bytes += s_.tokenizer.TokenBytes(id).size();
      bits->bits += cost;
      bits->squares += cost * cost;
    }
  }
  std::copy_n(lane.logits.begin() + count * vocab, vocab, lane.logits.begin());
  lane.foretold = true;
}

absl::Status Worker::Step(std::vector<Lane*>& active) {
  const bool measured = s_.task.measured_unit() > 0;
  const size_t rows = measured ? kMeasuredRows : kPassRows / active.size();
  const size_t vocab = s_.model.geometry().vocab;
  std::vector<Segment> segments;
  uint64_t tokens = 0;
  for (Lane* lane : active) {
    const size_t count = std::min(rows, lane->tokens.size() - lane->done);
    const bool answer = lane->asking && lane->done + count == lane->tokens.size();
    Segment segment;
    segment.record = arena_->record(lane->asking ? lane->fork : lane->slot);
    segment.layout = &s_.layout;
    segment.settings = &s_.layout.settings();
    segment.tokens = std::span(lane->tokens).subspan(lane->done, count);
    segment.logits_rows = measured ? count : answer ? 1 : 0;
    segment.logits = measured ? lane->logits.data() + vocab
                     : answer ? lane->logits.data()
                              : nullptr;
    segment.stats = &stats_;
    segments.push_back(segment);
    tokens += count;
  }
  absl::Status status = s_.model.Step(segments, workspace_, pool_);
  for (const Segment& segment : segments) {
    if (status.ok()) status = segment.status;
  }
  if (!status.ok()) return status;
  for (size_t i = 0; i < active.size(); ++i) {
    Lane& lane = *active[i];
    if (measured) Measure(lane, segments[i].tokens.size());
    lane.done += segments[i].tokens.size();
    if (!lane.asking) lane.result.tokens += segments[i].tokens.size();
    if (!measured && segments[i].logits != nullptr) TakeToken(lane);
  }
  const std::lock_guard<std::mutex> lock(s_.mu);
  if (s_.callbacks.tokens) s_.callbacks.tokens(tokens);
  return absl::OkStatus();
}

absl::Status Worker::Run() {
  auto arena = memory::StreamArena::Create(s_.layout.stride_bytes(), 2 * lanes_.size());
  if (!arena.ok()) return arena.status();
  arena_ = *std::move(arena);
  for (Lane& lane : lanes_) {
    lane.slot = *arena_->Acquire();
    lane.fork = *arena_->Acquire();
    const size_t rows = s_.task.measured_unit() > 0 ? 1 + kMeasuredRows : 1;
    lane.logits.resize(rows * s_.model.geometry().vocab);
  }
  while (!s_.stopped()) {
    std::vector<Lane*> active;
    for (Lane& lane : lanes_) {
      if (Refill(lane)) active.push_back(&lane);
    }
    if (active.empty()) return absl::OkStatus();
    const absl::Status stepped = Step(active);
    if (!stepped.ok()) return stepped;
  }
  return absl::CancelledError("stopped");
}

absl::Status CheckOptions(const engine::Model& model, const LocalOptions& o) {
  const auto refuse = [](const char* name, auto value, const std::string& must) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", value, ", must be ", must));
  };
  if (o.threads < 1 || o.threads > 256) return refuse("threads", o.threads, "1 to 256");
  if (o.streams_per_thread < 1 || o.streams_per_thread > kStreamsMax) {
    return refuse("streams_per_thread", o.streams_per_thread, absl::StrCat("1 to ", kStreamsMax));
  }
  if (o.bos && !model.config().bos) {
    return absl::InvalidArgumentError("bos: true, but the model's config has no bos_token_id");
  }
  return model.CheckSettings(o.settings);
}

}  // namespace

LocalRunner::LocalRunner(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LocalRunner::~LocalRunner() = default;
const RunSetup& LocalRunner::setup() const { return impl_->setup; }
const memory::MemoryStats& LocalRunner::stats() const { return impl_->stats; }

absl::StatusOr<std::unique_ptr<LocalRunner>> LocalRunner::Create(const engine::Model& model,
                                                                 const engine::Tokenizer& tokenizer,
                                                                 const LocalOptions& options) {
  const absl::Status good = CheckOptions(model, options);
  if (!good.ok()) return good;
  auto impl = std::unique_ptr<Impl>(new Impl{
      model, tokenizer, options, memory::StateLayout(model.geometry(), options.settings), {}, {}});
  impl->setup.engine = "in process";
  impl->setup.model = options.name;
  impl->setup.fingerprint = model.fingerprint();
  impl->setup.instruction_class = std::string(kernels::InstructionClass());
  impl->setup.weight_dtype = std::string(kernels::DtypeName(model.dtype()));
  impl->setup.state_bytes = impl->layout.stride_bytes();
  impl->setup.settings = SettingsFields(options.settings);
  return std::unique_ptr<LocalRunner>(new LocalRunner(std::move(impl)));
}

absl::Status LocalRunner::Run(const Task& task, std::span<const uint64_t> samples,
                              const RunCallbacks& callbacks) {
  Impl& i = *impl_;
  Shared shared{i.model, i.tokenizer, i.options, i.layout, task, samples, callbacks};
  const uint64_t fitting = std::max<uint64_t>(1, kArenaBytesMax / (2 * i.layout.stride_bytes()));
  // Short runs are spread over all threads.
  const uint64_t fair = (samples.size() + i.options.threads - 1) / i.options.threads;
  const size_t lanes =
      std::min<uint64_t>({i.options.streams_per_thread, fitting, std::max<uint64_t>(1, fair)});
  std::vector<std::thread> threads;
  for (int t = 0; t < i.options.threads; ++t) {
    threads.emplace_back([&shared, lanes] {
      Worker worker(shared, lanes);
      const absl::Status status = worker.Run();
      const std::lock_guard<std::mutex> lock(shared.mu);
      shared.stats.Merge(worker.stats());
      if (status.ok()) return;
      shared.failed = true;
      if (shared.status.ok()) shared.status = status;
    });
  }
  for (std::thread& thread : threads) thread.join();
  i.stats.Merge(shared.stats);
  return shared.status;
}

}  // namespace lola::evaluate
