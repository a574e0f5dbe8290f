#include "services/evaluate/passkey.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/softmax/softmax.h"
#include "memory/stream/arena.h"
#include "memory/stream/stream_state.h"
#include "memory/text.h"

namespace lola::evaluate {
namespace {

using engine::Segment;

constexpr size_t kPassRows = 512;
constexpr size_t kMistakesMax = 8;
constexpr uint64_t kArenaBytesMax = uint64_t{2} << 30;  // of one thread
constexpr uint32_t kNeedlesMax = 64;

// What all workers share; counters are atomics, the result is guarded by mu.
struct Shared {
  const engine::Model& model;
  const engine::Tokenizer& tokenizer;
  const PasskeyText& text;
  const PasskeyOptions& options;
  memory::StateLayout layout;
  uint64_t min_distance;
  std::vector<double> depths;  // one per question, spread evenly, shuffled

  std::atomic<uint32_t> next_document{0};
  std::atomic<uint64_t> tokens{0};
  std::atomic<uint32_t> asked{0}, right{0};
  std::atomic<bool> stop{false};

  std::mutex mu;
  std::condition_variable finished;
  int running = 0;       // guarded by mu
  absl::Status status;   // guarded by mu; the first error
  PasskeyResult result;  // guarded by mu
};

// A document being read, and the copy of its state that answers questions.
struct Reading {
  size_t slot, fork;
  Document document;
  std::vector<int32_t> tokens;
  std::vector<float> logits;  // [vocab]
};

// One thread: takes documents until none is left, several at a time.
class Worker {
 public:
  explicit Worker(Shared& shared, size_t streams)
      : s_(shared), streams_(streams), pool_(1), workspace_(shared.model, kPassRows, 1) {}

  absl::Status Run();

 private:
  bool TakeDocument(Reading& reading);
  absl::Status Read(std::vector<Reading>& batch);
  absl::Status Ask(std::vector<Reading>& batch, uint32_t question);
  absl::Status Step(std::vector<Segment>& segments);
  Segment SegmentFor(size_t slot, std::span<const int32_t> tokens, float* logits);
  void Judge(const Reading& reading, uint32_t question, const std::string& said);

  Shared& s_;
  const size_t streams_;
  kernels::ThreadPool pool_;
  engine::StepWorkspace workspace_;
  std::unique_ptr<memory::StreamArena> arena_;
  memory::MemoryStats stats_;
};

Segment Worker::SegmentFor(size_t slot, std::span<const int32_t> tokens, float* logits) {
  Segment segment;
  segment.record = arena_->record(slot);
  segment.layout = &s_.layout;
  segment.settings = &s_.layout.settings();
  segment.tokens = tokens;
  segment.logits_rows = logits != nullptr ? 1 : 0;
  segment.logits = logits;
  segment.stats = &stats_;
  return segment;
}

absl::Status Worker::Step(std::vector<Segment>& segments) {
  absl::Status status = s_.model.Step(segments, workspace_, pool_);
  for (const Segment& segment : segments) {
    if (status.ok()) status = segment.status;
    s_.tokens += segment.tokens.size();
  }
  return status;
}

// Writes the next document, if one is left. Its text depends on its number alone.
bool Worker::TakeDocument(Reading& reading) {
  const PasskeyOptions& o = s_.options;
  const uint32_t number = s_.next_document++;
  const uint64_t first = uint64_t{number} * o.needles;
  if (first >= o.questions) return false;
  const uint64_t count = std::min<uint64_t>(o.needles, o.questions - first);
  PasskeyWriter writer(s_.text, o.seed + 0x1000'0000'01ull * number);
  const uint64_t bytes = o.length - 1 - s_.text.question_bytes();
  const uint64_t margin = s_.min_distance - s_.text.question_bytes();
  std::vector<double> depths(s_.depths.begin() + first, s_.depths.begin() + first + count);
  reading.document = writer.Write(bytes, std::move(depths), margin, o.number_share);
  const auto ids = s_.tokenizer.Encode(reading.document.text);
  reading.tokens = {*s_.model.config().bos};
  reading.tokens.insert(reading.tokens.end(), ids->begin(), ids->end());
  memory::StreamState state(&s_.layout, arena_->record(reading.slot));
  state.Reset(s_.model.fingerprint_bytes());
  return true;
}

absl::Status Worker::Read(std::vector<Reading>& batch) {
  const size_t piece = kPassRows / batch.size();
  for (size_t at = 0; at < batch[0].tokens.size(); at += piece) {
    std::vector<Segment> segments;
    for (Reading& reading : batch) {
      const size_t count = std::min(piece, reading.tokens.size() - at);
      segments.push_back(
          SegmentFor(reading.slot, std::span(reading.tokens).subspan(at, count), nullptr));
    }
    const absl::Status stepped = Step(segments);
    if (!stepped.ok()) return stepped;
    if (s_.stop) return absl::CancelledError("another thread failed");
  }
  return absl::OkStatus();
}

// Asks needle `question` of every document that has it, on copies of the states.
absl::Status Worker::Ask(std::vector<Reading>& batch, uint32_t question) {
  std::vector<Reading*> asked;
  std::vector<std::vector<int32_t>> tokens;
  for (Reading& reading : batch) {
    if (question >= reading.document.needles.size()) continue;
    const auto from = arena_->record(reading.slot);
    std::copy(from.begin(), from.end(), arena_->record(reading.fork).begin());
    asked.push_back(&reading);
    tokens.push_back(
        *s_.tokenizer.Encode(s_.text.Question(reading.document.needles[question].name)));
  }
  std::vector<std::string> said(asked.size());
  for (uint32_t digit = 0; digit < s_.text.digits_length && !asked.empty(); ++digit) {
    std::vector<Segment> segments;
    for (size_t i = 0; i < asked.size(); ++i) {
      segments.push_back(SegmentFor(asked[i]->fork, tokens[i], asked[i]->logits.data()));
    }
    const absl::Status stepped = Step(segments);
    if (!stepped.ok()) return stepped;
    for (size_t i = 0; i < asked.size(); ++i) {
      const size_t best = kernels::ArgMax(asked[i]->logits.data(), asked[i]->logits.size());
      tokens[i] = {static_cast<int32_t>(best)};
      said[i] += s_.tokenizer.TokenBytes(static_cast<int32_t>(best));
    }
  }
  for (size_t i = 0; i < asked.size(); ++i) Judge(*asked[i], question, said[i]);
  return absl::OkStatus();
}

void Worker::Judge(const Reading& reading, uint32_t question, const std::string& said) {
  const Needle& needle = reading.document.needles[question];
  const double depth =
      static_cast<double>(needle.offset) / static_cast<double>(reading.document.text.size());
  const size_t bin = std::min<size_t>(kDepthBins - 1, static_cast<size_t>(depth * kDepthBins));
  const bool right = said == needle.digits;
  ++s_.asked;
  s_.right += right ? 1 : 0;
  const std::lock_guard<std::mutex> lock(s_.mu);
  PasskeyResult& result = s_.result;
  ++result.asked_by_depth[bin];
  result.right_by_depth[bin] += right ? 1 : 0;
  for (size_t i = 0; i < std::min(said.size(), needle.digits.size()); ++i) {
    result.digits_right += said[i] == needle.digits[i] ? 1 : 0;
  }
  if (!right && result.mistakes.size() < kMistakesMax) {
    result.mistakes.push_back({needle.name, needle.digits, said, depth});
  }
}

absl::Status Worker::Run() {
  auto arena = memory::StreamArena::Create(s_.layout.stride_bytes(), 2 * streams_);
  if (!arena.ok()) return arena.status();
  arena_ = *std::move(arena);
  std::vector<Reading> all(streams_);
  for (Reading& reading : all) {
    reading.slot = *arena_->Acquire();
    reading.fork = *arena_->Acquire();
    reading.logits.resize(s_.model.geometry().vocab);
  }
  for (;;) {
    std::vector<Reading> batch;
    for (Reading& reading : all) {
      if (!TakeDocument(reading)) break;
      batch.push_back(std::move(reading));
    }
    if (batch.empty()) break;
    absl::Status status = Read(batch);
    for (uint32_t question = 0; question < s_.options.needles && status.ok(); ++question) {
      status = Ask(batch, question);
    }
    if (!status.ok()) return status;
    for (size_t i = 0; i < batch.size(); ++i) all[i] = std::move(batch[i]);
    if (batch.size() < all.size()) break;
  }
  const std::lock_guard<std::mutex> lock(s_.mu);
  s_.result.stats.Merge(stats_);
  return absl::OkStatus();
}

absl::Status CheckOptions(const PasskeyOptions& o, const PasskeyText& text, uint64_t margin) {
  const auto refuse = [](const char* name, auto value, const std::string& must) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", value, ", must be ", must));
  };
  if (o.questions == 0) return refuse("questions", o.questions, "at least 1");
  if (o.needles == 0 || o.needles > kNeedlesMax) {
    return refuse("needles", o.needles, absl::StrCat("1 to ", kNeedlesMax));
  }
  if (o.threads < 1 || o.threads > 256) return refuse("threads", o.threads, "1 to 256");
  if (o.streams_per_thread < 1 || o.streams_per_thread > kPassRows / 32) {
    return refuse("streams_per_thread", o.streams_per_thread,
                  absl::StrCat("1 to ", kPassRows / 32));
  }
  if (!(o.number_share >= 0.0 && o.number_share <= 1.0)) {
    return refuse("number_share", o.number_share, "0 to 1");
  }
  const uint64_t least =
      PasskeyWriter::RoomFor(text, o.needles, margin) + text.question_bytes() + 1;
  if (o.length < least) return refuse("length", o.length, absl::StrCat("at least ", least));
  return absl::OkStatus();
}

// Even depths in random order; documents take them in turn.
std::vector<double> SpreadDepths(const PasskeyOptions& options, const PasskeyText& text) {
  PasskeyWriter random(text, options.seed ^ 0xD1CEull);
  std::vector<double> depths(options.questions);
  for (size_t i = 0; i < depths.size(); ++i) {
    depths[i] = (static_cast<double>(i) + random.Uniform()) / static_cast<double>(depths.size());
  }
  for (size_t i = depths.size(); i > 1; --i) std::swap(depths[i - 1], depths[random.Below(i)]);
  if (options.needle_at_start) std::fill(depths.begin(), depths.end(), 0.0);
  return depths;
}

void RunWorkers(Shared& shared, size_t streams,
                const std::function<void(const PasskeyProgress&)>& progress) {
  const auto begin = std::chrono::steady_clock::now();
  const PasskeyOptions& o = shared.options;
  const uint64_t documents = (o.questions + o.needles - 1) / o.needles;
  PasskeyProgress now;
  now.questions_total = o.questions;
  now.tokens_total = documents * (o.length - shared.text.question_bytes()) +
                     o.questions * (shared.text.question_bytes() + shared.text.digits_length - 1);
  shared.running = o.threads;
  std::vector<std::thread> threads;
  for (int i = 0; i < o.threads; ++i) {
    threads.emplace_back([&shared, streams] {
      Worker worker(shared, streams);
      const absl::Status status = worker.Run();
      const std::lock_guard<std::mutex> lock(shared.mu);
      if (!status.ok()) shared.stop = true;
      if (!status.ok() && shared.status.ok()) shared.status = status;
      --shared.running;
      shared.finished.notify_all();
    });
  }
  std::unique_lock<std::mutex> lock(shared.mu);
  for (bool done = false; !done;) {
    done = shared.finished.wait_for(lock, std::chrono::seconds(1),
                                    [&shared] { return shared.running == 0; });
    now.tokens = shared.tokens;
    now.questions = shared.asked;
    now.right = shared.right;
    now.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    lock.unlock();
    if (progress) progress(now);
    lock.lock();
  }
  lock.unlock();
  for (std::thread& thread : threads) thread.join();
  shared.result.seconds = now.seconds;
}

}  // namespace

std::pair<double, double> WilsonInterval(uint32_t right, uint32_t count) {
  const double z = 1.959963984540054, n = count, share = right / n;
  const double middle = share + z * z / (2 * n);
  const double spread = z * std::sqrt(share * (1 - share) / n + z * z / (4 * n * n));
  const double scale = 100.0 / (1 + z * z / n);
  return {std::max(0.0, (middle - spread) * scale), std::min(100.0, (middle + spread) * scale)};
}

absl::StatusOr<PasskeyResult> EvaluatePasskey(
    const engine::Model& model, const engine::Tokenizer& tokenizer, const PasskeyText& text,
    const PasskeyOptions& options, const std::function<void(const PasskeyProgress&)>& progress) {
  memory::LolaSettings settings = options.settings;
  uint64_t distance = options.min_distance;
  if (settings.mode == memory::Mode::kSoftmax) {
    settings.window = static_cast<uint32_t>(options.length + text.digits_length + 1);
    if (distance == 0) distance = 192;
  }
  if (distance == 0) distance = std::max<uint64_t>(192, 2 * settings.window + 64);
  distance = std::max<uint64_t>(distance, text.question_bytes());
  absl::Status good = CheckOptions(options, text, distance - text.question_bytes());
  if (good.ok()) good = model.CheckSettings(settings);
  if (!good.ok()) return good;
  if (tokenizer.kind() != "byte-level" || !model.config().bos) {
    return absl::UnimplementedError("pass key text needs a byte-level tokenizer and a <bos>");
  }
  Shared shared{model,
                tokenizer,
                text,
                options,
                memory::StateLayout(model.geometry(), settings),
                distance,
                SpreadDepths(options, text)};
  const size_t stride = shared.layout.stride_bytes();
  const uint64_t fitting = std::max<uint64_t>(1, kArenaBytesMax / (2 * stride));
  // Short runs are spread over all threads.
  const uint64_t documents = (options.questions + options.needles - 1) / options.needles;
  const uint64_t fair = (documents + options.threads - 1) / options.threads;
  RunWorkers(shared, std::min<uint64_t>({options.streams_per_thread, fitting, fair}), progress);
  if (!shared.status.ok()) return shared.status;
  PasskeyResult result = std::move(shared.result);
  result.questions = shared.asked;
  result.right = shared.right;
  result.percent = 100.0 * result.right / result.questions;
  std::tie(result.low, result.high) = WilsonInterval(result.right, result.questions);
  result.tokens = shared.tokens;
  result.state_bytes = stride;
  result.min_distance = distance;
  result.settings = settings;
  return result;
}

absl::StatusOr<memory::LolaSettings> NamedSettings(const engine::Model& model,
                                                   std::string_view profile,
                                                   std::string_view mode) {
  const memory::LolaSettings& own = model.default_settings();
  memory::LolaSettings settings = own;
  if (mode == "softmax") return memory::LolaSettings::SoftmaxProfile(own.window);
  if (profile == "paper") {
    settings = memory::LolaSettings::PaperProfile();
    settings.window = own.window;
    settings.chunk = own.chunk;
    settings.cache_pairs = own.cache_pairs;
  } else if (profile == "lifelong" && own.profile != "lifelong") {
    settings = memory::LolaSettings::LifelongProfile();
    settings.window = own.window;
    settings.chunk = own.chunk;
  } else if (profile != "lifelong" && profile != "model") {
    return absl::InvalidArgumentError(
        absl::StrCat("profile: \"", ToAbsl(profile), "\", must be paper, lifelong or model"));
  }
  if (mode == "base") {
    settings.cache_pairs = 0;
    settings.cache_pairs_per_layer.clear();
  } else if (mode != "lola") {
    return absl::InvalidArgumentError(
        absl::StrCat("mode: \"", ToAbsl(mode), "\", must be lola, base or softmax"));
  }
  return settings;
}

}  // namespace lola::evaluate
