// A small model's worth of random projections, maps and gates, and a runner that feeds a record.
#ifndef LOLA_TESTS_MEMORY_STREAM_STREAM_FIXTURE_H_
#define LOLA_TESTS_MEMORY_STREAM_STREAM_FIXTURE_H_

#include <array>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/core/thread_pool.h"
#include "kernels/rope/rope.h"
#include "memory/stream/stream_state.h"

namespace lola::memory::test {

inline constexpr std::array<std::byte, 16> kTestModel = {std::byte{1}, std::byte{2}};

inline ModelGeometry SmallGeometry() {
  return {.layers = 2,
          .hidden = 64,
          .query_heads = 4,
          .kv_heads = 2,
          .head_dim = 32,
          .feature_dim = 64,
          .ffn = 96,
          .vocab = 64};
}

// Weights of all layers plus random q, k, v rows of `tokens` tokens for every layer.
struct RandomStream {
  RandomStream(const ModelGeometry& geometry, size_t tokens, uint64_t seed, double repeats = 0.0);

  size_t QStride() const { return size_t{geometry.query_heads} * geometry.head_dim; }
  size_t KvStride() const { return size_t{geometry.kv_heads} * geometry.head_dim; }

  ModelGeometry geometry;
  size_t tokens;
  std::vector<double> frequencies;
  std::vector<std::vector<float>> q, k, v;       // [layer][tokens, heads, d]
  std::vector<std::vector<float>> map_q, map_k;  // [layer][Hq, d, f]
  std::vector<std::vector<float>> gate;          // [layer][Hq]
};

// One record, advanced in pieces.
class StreamRunner {
 public:
  StreamRunner(const StateLayout* layout, const RandomStream* source);

  // Feeds the next `rows` tokens through every layer, kv heads spread over the pool.
  void Advance(size_t rows, kernels::ThreadPool& pool);
  StreamState State() { return StreamState(layout_, record_); }
  std::vector<std::byte>& record() { return record_; }
  // [tokens, Hq, d] of one layer, filled up to the position.
  const std::vector<float>& outputs(size_t layer) const { return outputs_[layer]; }
  MemoryStats stats() const;

 private:
  const StateLayout* layout_;
  const RandomStream* source_;
  std::vector<std::byte> record_;
  std::vector<std::vector<float>> outputs_;
  std::vector<std::unique_ptr<Scratch>> scratch_;  // per worker
  std::vector<MemoryStats> stats_;
  kernels::RotationTable distances_;
  kernels::RotationTable memory_;
};

}  // namespace lola::memory::test

#endif  // LOLA_TESTS_MEMORY_STREAM_STREAM_FIXTURE_H_
