// A client and a worker for engine tests: records what a sink hears and checks at once that tokens
// come without gap or duplicate.
#ifndef LOLA_TESTS_SERVICES_ENGINE_RUNTIME_ENGINE_TESTING_H_
#define LOLA_TESTS_SERVICES_ENGINE_RUNTIME_ENGINE_TESTING_H_

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "services/engine/runtime/engine.h"
#include "tests/services/engine/runtime/fake_backend.h"

namespace lola::engine {

// Small enough that every mechanism happens within a hundred tokens.
inline memory::LolaSettings SmallSettings() {
  memory::LolaSettings settings = memory::LolaSettings::LifelongProfile();
  settings.profile = "custom";
  settings.window = 16;
  settings.chunk = 16;
  settings.cache_pairs = 8;
  return settings;
}

inline std::shared_ptr<const Model> TinyModel() {
  static const std::shared_ptr<const Model> model = [] {
    ModelConfig config = *NamedGeometry("tiny");
    config.defaults = SmallSettings();
    config.eos = {257};
    auto made = Model::Random(config, 7, {});
    EXPECT_TRUE(made.ok()) << made.status();
    return std::shared_ptr<const Model>(std::move(*made));
  }();
  return model;
}

inline EngineOptions SmallOptions() {
  EngineOptions options;
  options.slots = 4;
  options.step_rows = 64;
  options.prefill_rows_beside_decode = 16;
  options.checkpoint_tokens = 64;
  options.idle_demote = std::chrono::milliseconds(60'000);
  options.slot_slice = std::chrono::milliseconds(50);
  options.retry_first = std::chrono::milliseconds(2);
  options.retry_max = std::chrono::milliseconds(20);
  options.unavailable_deadline = std::chrono::milliseconds(20'000);
  options.replay_page_tokens = 50;
  return options;
}

// Lets a test break what the model computes.
class BreakableRunner : public ModelRunner {
 public:
  explicit BreakableRunner(std::unique_ptr<ModelRunner> inner) : inner_(std::move(inner)) {}
  const Model& model() const override { return inner_->model(); }
  size_t rows_max() const override { return inner_->rows_max(); }
  bool samples() const override { return inner_->samples(); }
  std::string instruction_class() const override {
    return pretends.empty() ? inner_->instruction_class() : pretends;
  }
  RunnerCounters counters() const override { return inner_->counters(); }
  absl::Status CheckSettings(const memory::LolaSettings& settings) const override {
    return inner_->CheckSettings(settings);
  }
  absl::Status health() const override {
    return lost ? absl::UnavailableError("the device fell out") : inner_->health();
  }
  absl::Status Recover() override { return lost ? health() : inner_->Recover(); }
  absl::StatusOr<std::unique_ptr<ResidentStates>> MakeStates(size_t slot_bytes, size_t slots,
                                                             size_t copies) override {
    return inner_->MakeStates(slot_bytes, slots, copies);
  }
  absl::Status Step(std::span<Segment> segments) override {
    size_t rows = 0;
    for (const Segment& segment : segments) rows += segment.tokens.size();
    if (rows > max_rows) max_rows = rows;
    if (steps_to_loss >= 0 && steps_to_loss-- == 0) lost = true;
    if (lost) return health();
    while (stuck) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const absl::Status status = inner_->Step(segments);
    for (Segment& segment : segments) {
      if (segment.logits != nullptr && nan_logits > 0) {
        --nan_logits;
        segment.logits[3] = std::numeric_limits<float>::quiet_NaN();
      }
    }
    return status;
  }
  std::string pretends;  // to be of this instruction class; before the engine takes it
  std::atomic<int> nan_logits{0};
  std::atomic<int> steps_to_loss{-1};
  std::atomic<bool> lost{false};
  std::atomic<bool> stuck{false};  // steps do not come back until it is false again
  std::atomic<size_t> max_rows{0};

 private:
  const std::unique_ptr<ModelRunner> inner_;
};

class Client : public EventSink {
 public:
  struct Token {
    uint64_t position;
    int32_t id;
    bool operator==(const Token&) const = default;
  };

  void OnOpened(OpenedEvent event) override {
    std::lock_guard lock(mu_);
    opened_ = std::move(event);
    changed_.notify_all();
  }
  void OnTokens(TokensEvent event) override {
    std::lock_guard lock(mu_);
    for (size_t i = 0; i < event.ids.size(); ++i) {
      const uint64_t position = event.position + i;
      if (!tokens_.empty()) {
        EXPECT_GT(position, tokens_.back().position) << "duplicate";
      }
      tokens_.push_back({position, event.ids[i]});
      if (event.replayed) ++replayed_;
    }
    logprobs_.insert(logprobs_.end(), event.logprobs.begin(), event.logprobs.end());
    text_ += event.text;
    changed_.notify_all();
  }
  void OnDurable(uint64_t position) override {
    std::lock_guard lock(mu_);
    EXPECT_GE(position, durable_);
    durable_ = position;
  }
  void OnDone(DoneEvent event) override {
    std::lock_guard lock(mu_);
    EXPECT_FALSE(done_.contains(event.seq)) << "done twice: " << event.seq;
    done_[event.seq] = event;
    changed_.notify_all();
  }
  void OnReleased(std::string target) override {
    std::lock_guard lock(mu_);
    released_ = target;
    changed_.notify_all();
  }
  void OnError(absl::Status status) override {
    std::lock_guard lock(mu_);
    error_ = status;
    changed_.notify_all();
  }
  bool Writable() const override { return writable; }

  // Each waits up to a minute; false (and a test failure) beyond.
  bool WaitOpened() {
    return Wait("opened", [this] { return opened_.has_value(); });
  }
  bool WaitDone(uint64_t seq) {
    return Wait("done", [this, seq] { return done_.contains(seq); });
  }
  bool WaitTokens(size_t count) {
    return Wait("tokens", [this, count] { return tokens_.size() >= count; });
  }
  bool WaitReleased() {
    return Wait("released", [this] { return released_.has_value(); });
  }
  absl::Status WaitError() {
    std::unique_lock lock(mu_);
    changed_.wait_for(lock, std::chrono::seconds(60), [this] { return error_.has_value(); });
    return error_.value_or(absl::OkStatus());
  }

  std::vector<Token> tokens() const { return Locked(tokens_); }
  std::vector<int32_t> ids() const {
    std::vector<int32_t> ids;
    for (const Token& token : tokens()) ids.push_back(token.id);
    return ids;
  }
  std::string text() const { return Locked(text_); }
  std::vector<float> logprobs() const { return Locked(logprobs_); }
  size_t replayed() const { return Locked(replayed_); }
  uint64_t durable() const { return Locked(durable_); }
  OpenedEvent opened() const { return *Locked(opened_); }
  std::optional<std::string> released() const { return Locked(released_); }
  std::optional<absl::Status> error() const { return Locked(error_); }
  DoneEvent done(uint64_t seq) const {
    std::lock_guard lock(mu_);
    return done_.at(seq);
  }
  bool is_done(uint64_t seq) const {
    std::lock_guard lock(mu_);
    return done_.contains(seq);
  }

  std::atomic<bool> writable{true};

 private:
  template <typename F>
  bool Wait(const char* what, F ready) {
    std::unique_lock lock(mu_);
    const bool ok = changed_.wait_for(lock, std::chrono::seconds(60), [&] {
      return ready() || error_.has_value() || released_.has_value();
    }) && ready();
    EXPECT_TRUE(ok) << "waiting for " << what << ": "
                    << (error_      ? error_->ToString()
                        : released_ ? "released"
                                    : "time is up");
    return ok;
  }
  template <typename T>
  T Locked(const T& value) const {
    std::lock_guard lock(mu_);
    return value;
  }

  mutable std::mutex mu_;
  std::condition_variable changed_;
  std::optional<OpenedEvent> opened_;
  std::vector<Token> tokens_;
  std::vector<float> logprobs_;
  std::string text_;
  size_t replayed_ = 0;
  uint64_t durable_ = 0;
  std::map<uint64_t, DoneEvent> done_;
  std::optional<std::string> released_;
  std::optional<absl::Status> error_;
};

// An engine with its backend. Destroying it is a crash.
struct Worker {
  using RunnerMaker = std::unique_ptr<ModelRunner> (*)(size_t rows);
  static std::unique_ptr<ModelRunner> CpuRunner(size_t rows) {
    return MakeModelRunner(TinyModel(), rows, 1);
  }

  explicit Worker(std::shared_ptr<FakeStore> store, EngineOptions options = SmallOptions(),
                  std::string name = "worker-a", RunnerMaker make_runner = CpuRunner,
                  std::string pretended_class = "") {
    auto made_runner = std::make_unique<BreakableRunner>(make_runner(options.step_rows));
    runner = made_runner.get();
    runner->pretends = std::move(pretended_class);
    backend = std::make_shared<FakeBackend>(std::move(store), std::move(name));
    auto made = Engine::Create(options, std::move(made_runner), MakeByteTokenizer(), backend);
    EXPECT_TRUE(made.ok()) << made.status();
    engine = std::move(*made);
  }

  struct Session {
    std::shared_ptr<Client> client = std::make_shared<Client>();
    AttachmentId id = 0;
  };
  Session Attach(AttachRequest request) {
    Session session;
    session.id = engine->Attach(std::move(request), session.client);
    return session;
  }
  Session Open(const std::string& stream, bool takeover = false,
               std::optional<uint64_t> after = std::nullopt, bool resume = false) {
    AttachRequest request;
    request.resume = resume;
    request.stream_id = stream;
    request.create_if_missing = true;
    request.takeover = takeover;
    request.after_position = after;
    Session session = Attach(std::move(request));
    session.client->WaitOpened();
    return session;
  }
  void Append(const Session& session, uint64_t seq, std::vector<int32_t> ids,
              std::optional<uint64_t> base = std::nullopt) {
    engine->Append(session.id, {seq, base, std::move(ids)});
  }
  void Generate(const Session& session, uint64_t seq, uint64_t tokens,
                std::optional<uint64_t> base = std::nullopt, float temperature = 0.9f) {
    GenerateOp op;
    op.seq = seq;
    op.base = base;
    op.max_tokens = tokens;
    op.ignore_eos = true;
    op.sampling.temperature = temperature;
    op.sampling.seed = 11;
    op.sampling.repetition_penalty = 1.1f;
    op.sampling.repetition_window = 64;
    engine->Generate(session.id, std::move(op));
  }
  absl::StatusOr<MemoryReport> Inspect(const std::string& stream) {
    return Call<MemoryReport>([&](auto done) { engine->Inspect(stream, {}, {}, done); });
  }
  absl::StatusOr<SnapshotRecord> Snapshot(const std::string& stream, const std::string& name) {
    return Call<SnapshotRecord>([&](auto done) { engine->Snapshot(stream, name, done); });
  }
  absl::StatusOr<ReleaseResult> Release(const std::string& stream, const std::string& target) {
    return Call<ReleaseResult>([&](auto done) { engine->Release(stream, target, done); });
  }

  // Statistics are published after what they count was told; waits for them.
  template <typename F>
  bool Eventually(F holds) {
    for (int i = 0; i < 3000; ++i) {
      if (holds(engine->statistics())) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  template <typename T, typename F>
  absl::StatusOr<T> Call(F start) {
    struct State {
      std::mutex mu;
      std::condition_variable changed;
      std::optional<absl::StatusOr<T>> result;
    };
    auto state = std::make_shared<State>();
    start([state](absl::StatusOr<T> result) {
      std::lock_guard lock(state->mu);
      state->result = std::move(result);
      state->changed.notify_all();
    });
    std::unique_lock lock(state->mu);
    if (!state->changed.wait_for(lock, std::chrono::seconds(60),
                                 [&] { return state->result.has_value(); })) {
      return absl::DeadlineExceededError("the test waited a minute");
    }
    return *state->result;
  }

  BreakableRunner* runner = nullptr;
  std::shared_ptr<FakeBackend> backend;
  std::unique_ptr<Engine> engine;
};

inline std::vector<int32_t> RandomText(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = int32_t(32 + random() % 95);
  return ids;
}

}  // namespace lola::engine

#endif  // LOLA_TESTS_SERVICES_ENGINE_RUNTIME_ENGINE_TESTING_H_
