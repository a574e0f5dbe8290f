// A stream of its own record for model tests.
#ifndef LOLA_TESTS_SERVICES_ENGINE_MODEL_TESTING_H_
#define LOLA_TESTS_SERVICES_ENGINE_MODEL_TESTING_H_

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <span>
#include <vector>

#include "memory/stream/arena.h"
#include "memory/stream/stream_state.h"
#include "services/engine/model.h"

namespace lola::engine {

inline std::vector<int32_t> RandomTokens(size_t count, uint32_t vocab, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % vocab);
  return tokens;
}

class TestStream {
 public:
  TestStream(const Model& model, const memory::LolaSettings& settings)
      : model_(model), settings_(settings), layout_(model.geometry(), settings) {
    EXPECT_TRUE(model.CheckSettings(settings).ok()) << model.CheckSettings(settings);
    auto arena = memory::StreamArena::Create(layout_.stride_bytes(), 3);
    EXPECT_TRUE(arena.ok()) << arena.status();
    arena_ = *std::move(arena);
    slot_ = *arena_->Acquire();
    state().Reset(model.fingerprint_bytes());
  }

  const memory::StateLayout& layout() const { return layout_; }
  const memory::LolaSettings& settings() const { return settings_; }
  std::span<std::byte> record() { return arena_->record(slot_); }
  memory::StreamState state() { return memory::StreamState(&layout_, record()); }
  uint64_t position() { return state().position(); }

  // Copies the record to another slot, fills the old one with rubbish and goes on there.
  void Move() {
    const size_t next = *arena_->Acquire();
    const std::span<std::byte> from = record(), to = arena_->record(next);
    std::copy(from.begin(), from.end(), to.begin());
    std::fill(from.begin(), from.end(), std::byte{0xA5});
    arena_->Release(slot_);
    slot_ = next;
  }

  // A segment over the next tokens that wants all their logits.
  Segment Next(std::span<const int32_t> tokens) {
    logits_.assign(tokens.size() * model_.geometry().vocab, 0.0f);
    Segment segment;
    segment.record = record();
    segment.layout = &layout_;
    segment.settings = &settings_;
    segment.tokens = tokens;
    segment.logits_rows = static_cast<uint32_t>(tokens.size());
    segment.logits = logits_.data();
    segment.stats = &stats_;
    return segment;
  }
  const std::vector<float>& logits() const { return logits_; }
  const memory::MemoryStats& stats() const { return stats_; }

  // Feeds all tokens in passes of at most `piece` rows and returns all logits.
  std::vector<float> Feed(std::span<const int32_t> tokens, size_t piece, StepWorkspace& workspace,
                          kernels::ThreadPool& pool) {
    std::vector<float> all;
    for (size_t at = 0; at < tokens.size(); at += piece) {
      Segment segment = Next(tokens.subspan(at, std::min(piece, tokens.size() - at)));
      const absl::Status stepped = model_.Step({&segment, 1}, workspace, pool);
      EXPECT_TRUE(stepped.ok()) << stepped;
      EXPECT_TRUE(segment.status.ok()) << segment.status;
      all.insert(all.end(), logits_.begin(), logits_.end());
    }
    return all;
  }

 private:
  const Model& model_;
  memory::LolaSettings settings_;
  memory::StateLayout layout_;
  std::unique_ptr<memory::StreamArena> arena_;
  size_t slot_ = 0;
  std::vector<float> logits_;
  memory::MemoryStats stats_;
};

}  // namespace lola::engine

#endif  // LOLA_TESTS_SERVICES_ENGINE_MODEL_TESTING_H_
