#include "services/cli/endpoint_runner.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "services/cli/stream_client.h"
#include "services/engine/config.h"
#include "services/evaluate/results_file.h"

namespace lola::cli {
namespace {

using evaluate::Step;

v1::LolaSettings ToProto(const evaluate::SettingsChoice& choice) {
  v1::LolaSettings settings;
  if (choice.profile != "model") settings.set_profile(choice.profile);
  if (choice.mode == "softmax") settings.set_mode("softmax");
  if (choice.mode == "lola" || choice.mode == "base") settings.set_mode("lola");
  if (choice.mode == "base") settings.set_cache_pairs(0);
  if (choice.cache_pairs >= 0) settings.set_cache_pairs(choice.cache_pairs);
  for (const uint32_t pairs : choice.cache_pairs_per_layer) {
    settings.add_cache_pairs_per_layer(pairs);
  }
  if (choice.window >= 0) {
    settings.set_window(choice.window);
    settings.set_chunk(choice.window);
  }
  if (choice.chunk >= 0) settings.set_chunk(choice.chunk);
  if (choice.memory_distance >= 0) settings.set_memory_distance(choice.memory_distance);
  if (choice.mass_cap >= 0) settings.set_mass_cap(choice.mass_cap);
  if (choice.redundancy_threshold >= 0) {
    settings.set_redundancy_threshold(static_cast<float>(choice.redundancy_threshold));
  }
  if (choice.sinks >= 0) settings.set_sinks(choice.sinks);
  if (choice.adaptive_mass >= 0) {
    settings.set_adaptive_mass(static_cast<float>(choice.adaptive_mass));
  }
  if (choice.cache_pairs_min >= 0) settings.set_cache_pairs_min(choice.cache_pairs_min);
  if (choice.score_epsilon >= 0) {
    settings.set_score_epsilon(static_cast<float>(choice.score_epsilon));
  }
  if (!choice.rescore.empty()) settings.set_rescore(choice.rescore == "true");
  settings.set_cache_dtype(choice.cache_dtype);
  settings.set_cache_sharing(choice.cache_sharing);
  settings.set_score(choice.score);
  settings.set_mixing(choice.mixing);
  settings.set_memory_positions(choice.memory_positions);
  return settings;
}

// The same names and spellings as evaluate::SettingsFields.
evaluate::NamedValues Fields(const v1::LolaSettings& s) {
  return {{"mode", s.mode()},
          {"profile", s.profile()},
          {"window", absl::StrCat(s.window())},
          {"chunk", absl::StrCat(s.chunk())},
          {"cache_pairs", absl::StrCat(s.cache_pairs())},
          {"cache_pairs_per_layer", absl::StrJoin(s.cache_pairs_per_layer(), ",")},
          {"mixing", s.mixing()},
          {"memory_positions", s.memory_positions()},
          {"memory_distance", absl::StrCat(s.memory_distance())},
          {"mass_cap", absl::StrCat(s.mass_cap())},
          {"redundancy_threshold", absl::StrFormat("%g", s.redundancy_threshold())},
          {"score", s.score()},
          {"rescore", s.rescore() ? "true" : "false"},
          {"score_epsilon", absl::StrFormat("%g", s.score_epsilon())},
          {"cache_dtype", s.cache_dtype()},
          {"sinks", absl::StrCat(s.sinks())},
          {"cache_sharing", s.cache_sharing()},
          {"adaptive_mass", absl::StrFormat("%g", s.adaptive_mass())},
          {"cache_pairs_min", absl::StrCat(s.cache_pairs_min())}};
}

absl::StatusOr<int32_t> BosId(const EvalFlags& flags, const engine::Tokenizer& tokenizer) {
  if (!flags.tokenizer.empty()) {
    const auto config = engine::LoadModelConfig(flags.tokenizer);
    if (config.ok() && config->bos) return *config->bos;
  }
  if (const auto id = tokenizer.SpecialId("<bos>")) return *id;
  return absl::InvalidArgumentError(
      "--bos: true, but the tokenizer has no <bos>; give --tokenizer with the model's config.json, "
      "or --bos=false");
}

absl::Status OtherTokens(uint64_t there, uint64_t here) {
  return absl::InvalidArgumentError(
      absl::StrCat("--tokenizer: a piece of text became ", there, " tokens at the endpoint and ",
                   here, " here; give the folder with the served model's tokenizer"));
}

}  // namespace

struct EndpointRunner::Shared {
  const evaluate::Task& task;
  std::span<const uint64_t> samples;
  const evaluate::RunCallbacks& callbacks;
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mu;        // callbacks too
  absl::Status status;  // guarded by mu; the first error

  bool stopped() const { return failed || (callbacks.stop != nullptr && *callbacks.stop); }
  void Count(uint64_t tokens) {
    const std::lock_guard<std::mutex> lock(mu);
    if (callbacks.tokens) callbacks.tokens(tokens);
  }
};

EndpointRunner::EndpointRunner(const Connection& connection, const engine::Tokenizer& tokenizer,
                               const EvalFlags& flags)
    : connection_(connection),
      tokenizer_(tokenizer),
      prefix_(absl::StrCat("eval-", getpid(), "-")),
      patience_(connection.timeout),
      streams_(flags.streams),
      settings_(ToProto(flags.settings)),
      bos_(flags.task.bos) {}

absl::StatusOr<std::unique_ptr<EndpointRunner>> EndpointRunner::Create(
    const Connection& connection, const engine::Tokenizer& tokenizer, const EvalFlags& flags) {
  if (flags.streams < 1 || flags.streams > 256) {
    return absl::InvalidArgumentError(
        absl::StrCat("--streams: ", flags.streams, ", must be 1 to 256"));
  }
  const std::string& mode = flags.settings.mode;
  if (mode != "model" && mode != "lola" && mode != "base" && mode != "softmax") {
    return absl::InvalidArgumentError(
        absl::StrCat("--mode: \"", mode, "\", must be model, lola, base or softmax"));
  }
  auto runner = std::unique_ptr<EndpointRunner>(new EndpointRunner(connection, tokenizer, flags));
  if (runner->bos_) {
    const auto id = BosId(flags, tokenizer);
    if (!id.ok()) return id.status();
    runner->bos_id_ = *id;
  }
  const absl::Status probed = runner->Probe();
  if (!probed.ok()) return probed;
  return runner;
}

absl::Status EndpointRunner::Probe() {
  auto model = Call(connection_, *connection_.inference, &v1::Inference::Stub::DescribeModel,
                    v1::DescribeModelRequest());
  if (!model.ok()) return model.status();
  const std::string id = absl::StrCat(prefix_, "probe");
  v1::StreamInfo info;
  {
    StreamClient client(&connection_, OpenFor(id), patience_, {});
    if (absl::Status opened = client.Open(); !opened.ok()) return opened;
    info = client.opened().info();
  }
  Delete(id);
  setup_.engine = "endpoint " + connection_.endpoint;
  setup_.model = model->name();
  setup_.fingerprint = model->fingerprint();
  setup_.instruction_class = model->instruction_class();
  setup_.weight_dtype = model->weight_dtype();
  setup_.state_bytes = info.state_bytes();
  setup_.settings = Fields(info.settings());
  const bool softmax = info.settings().mode() == "softmax";
  outside_window_ =
      softmax ? 192 : std::max<uint64_t>(192, 2 * uint64_t{info.settings().window()} + 64);
  return absl::OkStatus();
}

v1::OpenStream EndpointRunner::OpenFor(const std::string& id) const {
  v1::OpenStream open;
  open.set_stream_id(id);
  open.set_create_if_missing(true);
  *open.mutable_settings() = settings_;
  return open;
}

void EndpointRunner::Delete(const std::string& id) const {
  v1::DeleteRequest remove;
  remove.set_stream_id(id);
  (void)Call(connection_, *connection_.inference, &v1::Inference::Stub::Delete, remove);
}

absl::Status EndpointRunner::Ask(Shared& shared, const std::string& id,
                                 const evaluate::Question& question,
                                 evaluate::Answer* answer) const {
  v1::ForkRequest fork;
  fork.set_stream_id(id);
  fork.set_new_stream_id(id + "-ask");
  auto made = Call(connection_, *connection_.inference, &v1::Inference::Stub::Fork, fork);
  if (!made.ok()) return made.status();
  absl::Status status;
  {
    v1::OpenStream open;
    open.set_stream_id(fork.new_stream_id());
    StreamClient client(&connection_, open, patience_, {});
    status = client.Open();
    const std::string text = question.text + question.answer_prefix;
    if (status.ok()) status = client.Append(text).status();
    answer->answer_at = client.position();
    engine::EncodeOptions options;
    options.starts_text = false;
    const auto ids = tokenizer_.Encode(text, options);
    const uint64_t here = ids.ok() ? ids->size() : 0, there = client.position() - answer->position;
    if (status.ok() && here != there) status = OtherTokens(there, here);
    v1::GenerateOp op;
    op.set_max_tokens(question.max_tokens);
    op.mutable_sampling()->set_temperature(0);
    const auto take = [answer](const v1::TokenOutput& out) { answer->text += out.text(); };
    if (status.ok()) status = client.Generate(op, take).status();
    shared.Count(client.position() - answer->position);
  }
  Delete(fork.new_stream_id());
  answer->verdict = evaluate::Judge(question, answer->text);
  return status;
}

absl::Status EndpointRunner::Feed(Shared& shared, uint64_t index, const std::string& id,
                                  evaluate::SampleResult* result) const {
  StreamClient client(&connection_, OpenFor(id), patience_, {});
  absl::Status status = client.Open();
  bool begins = true;
  const auto encode = [this, &begins](std::string_view text) {
    engine::EncodeOptions options;
    options.starts_text = begins;
    return tokenizer_.Encode(text, options).value_or(std::vector<int32_t>());
  };
  const auto count = [&encode](std::string_view text) { return encode(text).size(); };
  evaluate::TokenPlaces places;
  const auto script = shared.task.Open(index);
  while (status.ok()) {
    if (shared.stopped()) return absl::CancelledError("stopped");
    const Step step = script->Next();
    if (step.kind == Step::Kind::kEnd) break;
    const uint64_t before = client.position();
    if (step.kind == Step::Kind::kText) {
      // The first piece goes as ids: whether <bos> stands before it is this run's choice.
      std::vector<int32_t> ids = encode(step.text);
      const size_t expected = ids.size() + (begins && bos_ ? 1 : 0);
      if (begins && bos_) ids.insert(ids.begin(), bos_id_);
      status = (begins ? client.AppendIds(ids) : client.Append(step.text)).status();
      const uint64_t took = client.position() - before;
      if (status.ok() && took != expected) {
        return OtherTokens(took, expected);
      }
      places.Add(step, before + (begins && bos_ ? 1 : 0), count);
      begins = false;
      shared.Count(took);
    } else {
      evaluate::Answer answer = places.Make(step.question, before, 0);
      status = Ask(shared, id, step.question, &answer);
      result->answers.push_back(std::move(answer));
    }
  }
  result->tokens = client.position();
  return status;
}

absl::Status EndpointRunner::RunSample(Shared& shared, uint64_t index) const {
  const std::string id = absl::StrCat(prefix_, index);
  evaluate::SampleResult result;
  result.index = index;
  const absl::Status fed = Feed(shared, index, id, &result);
  Delete(id);
  if (!fed.ok()) return fed;
  const std::lock_guard<std::mutex> lock(shared.mu);
  shared.callbacks.done(std::move(result));
  return absl::OkStatus();
}

absl::Status EndpointRunner::Run(const evaluate::Task& task, std::span<const uint64_t> samples,
                                 const evaluate::RunCallbacks& callbacks) {
  Shared shared{task, samples, callbacks};
  std::vector<std::thread> threads;
  const size_t count = std::min<size_t>(streams_, samples.size());
  for (size_t i = 0; i < count; ++i) {
    threads.emplace_back([this, &shared] {
      absl::Status status;
      while (status.ok() && !shared.stopped()) {
        const size_t next = shared.next++;
        if (next >= shared.samples.size()) return;
        status = RunSample(shared, shared.samples[next]);
      }
      if (status.ok()) status = absl::CancelledError("stopped");
      const std::lock_guard<std::mutex> lock(shared.mu);
      shared.failed = true;
      if (shared.status.ok()) shared.status = status;
    });
  }
  for (std::thread& thread : threads) thread.join();
  return shared.status;
}

}  // namespace lola::cli
