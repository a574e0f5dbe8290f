#include "tests/memory/stream/stream_fixture.h"

namespace lola::memory::test {
namespace {

constexpr int kThreadsMax = 8;

std::vector<float> Normal(size_t n, double deviation, std::mt19937_64& random) {
  std::normal_distribution<float> normal(0.0f, static_cast<float>(deviation));
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

}  // namespace

// With `repeats` > 0 that share of the values is a noisy copy of an earlier one: something for the
// redundancy discount to find.
RandomStream::RandomStream(const ModelGeometry& g, size_t tokens, uint64_t seed, double repeats)
    : geometry(g), tokens(tokens), frequencies(kernels::RopeFrequencies(g.head_dim, 10000.0)) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform(0.0, 1.0);
  for (uint32_t layer = 0; layer < g.layers; ++layer) {
    q.push_back(Normal(tokens * QStride(), 1.0, random));
    k.push_back(Normal(tokens * KvStride(), 1.0, random));
    v.push_back(Normal(tokens * KvStride(), 1.0, random));
    for (size_t t = 8; t < tokens && repeats > 0; ++t) {
      if (uniform(random) >= repeats) continue;
      const size_t from = random() % t;
      for (size_t i = 0; i < KvStride(); ++i) {
        v.back()[t * KvStride() + i] =
            v.back()[from * KvStride() + i] + 0.01f * static_cast<float>(uniform(random));
      }
    }
    const size_t map = size_t{g.query_heads} * g.head_dim * g.map_dim();
    map_q.push_back(Normal(map, 0.3, random));
    map_k.push_back(Normal(map, 0.3, random));
    gate.emplace_back();
    for (uint32_t h = 0; h < g.query_heads; ++h) {
      gate.back().push_back(static_cast<float>(0.2 + 0.6 * uniform(random)));
    }
  }
}

StreamRunner::StreamRunner(const StateLayout* layout, const RandomStream* source)
    : layout_(layout), source_(source), record_(layout->stride_bytes()), stats_(kThreadsMax) {
  for (uint32_t layer = 0; layer < source->geometry.layers; ++layer) {
    outputs_.emplace_back(source->tokens * source->QStride());
  }
  for (int i = 0; i < kThreadsMax; ++i) scratch_.push_back(std::make_unique<Scratch>(*layout));
  const LolaSettings& settings = layout->settings();
  if (settings.mode == Mode::kLola) {
    distances_ = {source->frequencies, 0, settings.window + settings.chunk};
    memory_ = {source->frequencies, settings.memory_distance, 1};
  }
  State().Reset(kTestModel);
}

void StreamRunner::Advance(size_t rows, kernels::ThreadPool& pool) {
  StreamState state = State();
  const uint64_t position = state.position();
  const kernels::RotationTable absolute(source_->frequencies, position, rows);
  const RotationTables rope{absolute.cos.data(),   absolute.sin.data(), distances_.cos.data(),
                            distances_.sin.data(), memory_.cos.data(),  memory_.sin.data()};
  const ModelGeometry& g = source_->geometry;
  for (uint32_t layer = 0; layer < g.layers; ++layer) {
    LayerMemory memory = state.Layer(layer);
    pool.ParallelFor(g.kv_heads, [&](size_t kv, int worker) {
      const size_t head = kv * g.group();
      const size_t map = head * g.head_dim * g.map_dim();
      AdvanceParams params;
      params.position = position;
      params.rows = rows;
      params.q = source_->q[layer].data() + position * source_->QStride() + head * g.head_dim;
      params.k = source_->k[layer].data() + position * source_->KvStride() + kv * g.head_dim;
      params.v = source_->v[layer].data() + position * source_->KvStride() + kv * g.head_dim;
      params.q_stride = source_->QStride();
      params.k_stride = params.v_stride = source_->KvStride();
      params.out = outputs_[layer].data() + position * source_->QStride() + head * g.head_dim;
      params.out_stride = source_->QStride();
      params.rope = &rope;
      params.weights = {source_->map_q[layer].data() + map, source_->map_k[layer].data() + map,
                        source_->gate[layer].data() + head};
      params.scratch = scratch_[worker].get();
      params.stats = &stats_[worker];
      memory.Advance(static_cast<uint32_t>(kv), params);
    });
  }
  state.SetPosition(position + rows);
}

MemoryStats StreamRunner::stats() const {
  MemoryStats total;
  for (const MemoryStats& part : stats_) total.Merge(part);
  return total;
}

}  // namespace lola::memory::test
