// One generation that nothing disturbs: what tests that disturb one compare with.
#ifndef LOLA_TESTS_SERVICES_ENGINE_RUNTIME_UNDISTURBED_H_
#define LOLA_TESTS_SERVICES_ENGINE_RUNTIME_UNDISTURBED_H_

#include <memory>
#include <string>
#include <vector>

#include "services/engine/stop_matcher.h"
#include "tests/services/engine/runtime/engine_testing.h"

namespace lola::engine {

inline constexpr size_t kPrompt = 70;
inline constexpr uint64_t kGenerated = 150;

// The undisturbed run everything is compared with.
inline std::vector<int32_t> Undisturbed() {
  static const std::vector<int32_t> log = [] {
    auto store = std::make_shared<FakeStore>();
    Worker worker(store);
    auto session = worker.Open("s");
    worker.Append(session, 1, RandomText(kPrompt, 1), 0);
    worker.Generate(session, 2, kGenerated, kPrompt);
    EXPECT_TRUE(session.client->WaitDone(2));
    return store->Tokens("s");
  }();
  return log;
}

inline std::string UndisturbedDigest() {
  static const std::string digest = [] {
    Worker worker(std::make_shared<FakeStore>());
    auto session = worker.Open("s");
    worker.Append(session, 1, Undisturbed());
    EXPECT_TRUE(session.client->WaitDone(1));
    return worker.Inspect("s")->state_digest;
  }();
  return digest;
}

// Stop strings of which beginnings are all over the undisturbed text, and none is in it whole.
inline std::vector<std::string> NearlyStops() {
  std::vector<std::string> stops;
  const std::vector<int32_t> log = Undisturbed();
  for (size_t i = kPrompt; i + 1 < log.size() && stops.size() < kStopStringsMax; ++i) {
    if (log[i] >= 0x80 || log[i + 1] >= 0x80) continue;
    stops.push_back({char(log[i]), char(log[i + 1]), '\x01', '\x02'});
  }
  return stops;
}

inline GenerateOp Stopping(uint64_t seq, std::vector<std::string> stops) {
  GenerateOp op;
  op.seq = seq;
  op.base = kPrompt;
  op.max_tokens = kGenerated;
  op.stops = std::move(stops);
  op.ignore_eos = true;
  op.sampling.temperature = 0.9f;
  op.sampling.seed = 11;
  op.sampling.repetition_penalty = 1.1f;
  op.sampling.repetition_window = 64;
  return op;
}

// What each token of the undisturbed generation shows.
inline std::vector<std::string> UndisturbedTexts(const std::vector<std::string>& stops) {
  const auto tokenizer = MakeByteTokenizer();
  StopMatcher matcher({kGenerated, stops, {}, true}, *tokenizer);
  std::vector<std::string> texts;
  const std::vector<int32_t> log = Undisturbed();
  for (size_t i = kPrompt; i < log.size(); ++i) {
    StopMatcher::Verdict verdict = matcher.Push(log[i]);
    texts.push_back(std::move(verdict.text));
    if (verdict.reason != FinishReason::kNone) break;
  }
  return texts;
}

inline std::string Joined(const std::vector<std::string>& texts, size_t from) {
  std::string all;
  for (size_t i = from; i < texts.size(); ++i) all += texts[i];
  return all;
}

}  // namespace lola::engine

#endif  // LOLA_TESTS_SERVICES_ENGINE_RUNTIME_UNDISTURBED_H_
