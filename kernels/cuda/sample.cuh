// Logits -> tokens on the device. The rules and their order are those of services/engine/sampler.h,
// but for one thing: with cut-offs the draw walks the remaining tokens by id, not by rank. The
// distribution is the same; the token for a given seed may not be the one a CPU worker picks.
#ifndef LOLA_KERNELS_CUDA_SAMPLE_CUH_
#define LOLA_KERNELS_CUDA_SAMPLE_CUH_

#include "kernels/cuda/calls.h"
#include "kernels/cuda/portable.h"
#include "kernels/cuda/tables.h"

namespace lola::cuda {

inline constexpr unsigned kSampleThreads = 256;

// Order-preserving bits: a < b as floats means OrderedBits(a) < OrderedBits(b).
LOLA_DEVICE uint32_t OrderedBits(float value) {
  const uint32_t bits = FloatBits(value + 0.0f);  // -0 and +0 are equal
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// Sums of doubles over the block, one fixed tree. `scratch`: BlockSize() doubles.
LOLA_DEVICE double BlockSumDouble(double value, double* scratch) {
  scratch[ThreadX()] = value;
  SyncThreads();
  for (unsigned half = BlockSize() / 2; half > 0; half /= 2) {
    if (ThreadX() < half) scratch[ThreadX()] += scratch[ThreadX() + half];
    SyncThreads();
  }
  const double sum = scratch[0];
  SyncThreads();
  return sum;
}

// A row's adjusted logits and what may still be drawn from: all with a key above `key`, and of
// those equal to it the first `ties` by id.
struct Candidates {
  float* logits;
  uint32_t vocab;
  float top;
  double inverse_temperature;
  uint32_t key;
  uint32_t ties;

  LOLA_DEVICE double Weight(uint32_t id) const {
    return exp((double(logits[id]) - double(top)) * inverse_temperature);
  }
};

struct Tally {
  double weight;
  double count;
};

// Weight and number of tokens whose key is above `key`, or equal to it when asked.
LOLA_DEVICE Tally Above(const Candidates& c, uint32_t key, bool equal, double* scratch) {
  double weight = 0, count = 0;
  for (uint32_t id = ThreadX(); id < c.vocab; id += BlockSize()) {
    const uint32_t own = OrderedBits(c.logits[id]);
    if (own < key || (own == key && !equal)) continue;
    weight += c.Weight(id);
    count += 1;
  }
  weight = BlockSumDouble(weight, scratch);
  return {weight, BlockSumDouble(count, scratch)};
}

// Largest key with at least `wanted` weight, or number of tokens, at or above it. A pass over the
// logits tries seven keys, so that eleven passes do.
LOLA_DEVICE uint32_t FindKey(const Candidates& c, bool by_weight, double wanted, double* scratch) {
  constexpr int kKeys = 7;
  uint32_t low = 0, high = 0xffffffffu;  // `low` always holds enough, above `high` nothing does
  while (low < high) {
    const uint64_t step = (uint64_t(high) - low + kKeys) / (kKeys + 1);
    double held[kKeys] = {};  // at or above low + (k + 1) step
    for (uint32_t id = ThreadX(); id < c.vocab; id += BlockSize()) {
      const uint32_t own = OrderedBits(c.logits[id]);
      if (own < low + step) continue;
      const double add = by_weight ? c.Weight(id) : 1.0;
      LOLA_UNROLL
      for (int k = 0; k < kKeys; ++k) held[k] += own >= low + step * (k + 1) ? add : 0.0;
    }
    uint64_t found = 0;
    LOLA_UNROLL
    for (int k = kKeys - 1; k >= 0; --k) {
      if (found > 0 || low + step * (k + 1) > high) continue;
      if (BlockSumDouble(held[k], scratch) >= wanted) found = k + 1;
    }
    const uint64_t last = low + step * (found + 1) - 1;
    if (found < kKeys && last < high) high = uint32_t(last);
    low += uint32_t(step * found);
  }
  return low;
}

// How many tokens with the candidates' key lie in the pieces of lower threads; a thread's piece is
// ids begin to end. `scratch`: BlockSize() doubles, free again on return.
LOLA_DEVICE uint32_t TiesBefore(const Candidates& c, uint32_t begin, uint32_t end,
                                double* scratch) {
  uint32_t* counts = reinterpret_cast<uint32_t*>(scratch);
  uint32_t own = 0, before = 0;
  for (uint32_t id = begin; id < end; ++id) own += OrderedBits(c.logits[id]) == c.key;
  counts[ThreadX()] = own;
  SyncThreads();
  for (unsigned i = 0; i < ThreadX(); ++i) before += counts[i];
  SyncThreads();
  return before;
}

// Narrows the candidates to the smallest ranked prefix that holds what is wanted.
LOLA_DEVICE void Cut(Candidates& c, bool by_weight, double wanted, double* scratch) {
  const uint32_t key = FindKey(c, by_weight, wanted, scratch);
  const Tally above = Above(c, key, false, scratch);
  // Tokens with this very key are equally likely: as many as are still needed.
  const double each = exp(
      (double(BitsToFloat((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key)) - double(c.top)) *
      c.inverse_temperature);
  const double missing = by_weight ? ceil((wanted - above.weight) / each) : wanted - above.count;
  const uint32_t ties = missing < 1 ? 1 : missing > 4e9 ? 0xffffffffu : uint32_t(missing);
  if (key > c.key) {
    c.key = key;
    c.ties = ties;
  } else if (key == c.key && ties < c.ties) {
    c.ties = ties;
  }
}

// The lowest id among the largest logits; thread 0 gets it, the others -1.
LOLA_DEVICE int32_t Greedy(const Candidates& c, float* scratch) {
  constexpr uint32_t kNone = 0x7f000000u;  // ids travel as bits of a float
  uint32_t own = kNone;
  for (uint32_t id = ThreadX(); id < c.vocab && own == kNone; id += BlockSize()) {
    if (c.logits[id] == c.top) own = id;
  }
  scratch[ThreadX()] = BitsToFloat(own);
  SyncThreads();
  uint32_t first = kNone;
  for (unsigned i = 0; i < BlockSize(); ++i) {
    first = FloatBits(scratch[i]) < first ? FloatBits(scratch[i]) : first;
  }
  return ThreadX() == 0 ? int32_t(first) : -1;
}

// Weight of all candidates: those above the key, and the share of the tied ones that take part.
LOLA_DEVICE double CandidateWeight(const Candidates& c, double* scratch) {
  const Tally equal = Above(c, c.key, true, scratch);
  const Tally above = Above(c, c.key, false, scratch);
  const double tied = equal.count - above.count;
  if (tied == 0) return above.weight;
  return above.weight + (equal.weight - above.weight) / tied * fmin(tied, double(c.ties));
}

// The token at which the running sum, by id, passes uniform * total.
LOLA_DEVICE int32_t Draw(const Candidates& c, double uniform, double* scratch) {
  const uint32_t each = (c.vocab + BlockSize() - 1) / BlockSize();
  const uint32_t begin = ThreadX() * each < c.vocab ? ThreadX() * each : c.vocab;
  const uint32_t end = begin + each < c.vocab ? begin + each : c.vocab;
  const uint32_t ties_before = c.ties == 0xffffffffu ? 0 : TiesBefore(c, begin, end, scratch);
  double own = 0;
  for (int pass = 0; pass < 2; ++pass) {
    double sum = 0;
    uint32_t ties = ties_before;
    double target = 0;
    if (pass == 1) {
      double total = 0;
      for (unsigned i = 0; i < BlockSize(); ++i) total += scratch[i];
      // Below the total also where the product is rounded up: somebody must draw.
      target = fmin(uniform * total, total * (1 - 0x1p-52));
      for (unsigned i = 0; i < ThreadX(); ++i) sum += scratch[i];
      if (sum > target || sum + own <= target) return -1;
    }
    int32_t last = -1;
    for (uint32_t id = begin; id < end; ++id) {
      const uint32_t key = OrderedBits(c.logits[id]);
      if (key < c.key || (key == c.key && ties++ >= c.ties)) continue;
      const double w = c.Weight(id);
      if (w == 0) continue;
      sum += w;
      last = int32_t(id);
      if (pass == 1 && sum > target) return last;
    }
    if (pass == 1) return last;
    own = sum;
    scratch[ThreadX()] = own;
    SyncThreads();
  }
  return -1;
}

// Grid: rows. Shared: BlockSize() doubles and as many floats.
LOLA_KERNEL SampleKernel(SampleParams p) {
  AwaitPrevious();
  double* sums = reinterpret_cast<double*>(SharedBytes());
  float* scratch = reinterpret_cast<float*>(sums + BlockSize());
  const SampleRow row = p.rows[BlockX()];
  const float* logits = p.logits + size_t(BlockX()) * p.vocab;
  float* adjusted = p.adjusted + size_t(BlockX()) * p.vocab;
  float top = -INFINITY;
  float bad = 0;
  for (uint32_t id = ThreadX(); id < p.vocab; id += BlockSize()) {
    const float x = logits[id];
    if (!(x < INFINITY)) bad = 1;
    top = fmaxf(top, x);
    adjusted[id] = x;
  }
  top = BlockMax(top, scratch);
  bad = BlockMax(bad, scratch);
  SampledRow& out = p.out[BlockX()];
  if (bad > 0 || top == -INFINITY) {
    if (ThreadX() == 0) out = {-1, 0.0f};
    return;
  }
  double mass = 0;
  for (uint32_t id = ThreadX(); id < p.vocab; id += BlockSize()) {
    mass += double(expf(logits[id] - top));  // for the logprob, which is a float: 1e-6 of it
  }
  mass = BlockSumDouble(mass, sums);
  for (uint32_t n = ThreadX(); n < row.recent_count; n += BlockSize()) {
    float& x = adjusted[p.recent[row.recent_begin + n]];
    if (x == -INFINITY) continue;
    x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
    x = fminf(fmaxf(x, -3.4028235e38f), 3.4028235e38f);  // no infinities, as on the CPU
  }
  SyncThreads();
  float adjusted_top = -INFINITY;
  for (uint32_t id = ThreadX(); id < p.vocab; id += BlockSize()) {
    adjusted_top = fmaxf(adjusted_top, adjusted[id]);
  }
  Candidates c{adjusted, p.vocab, BlockMax(adjusted_top, scratch), 1, 0, 0xffffffffu};
  int32_t id = -1;
  if (row.temperature == 0) {
    id = Greedy(c, scratch);
  } else {
    c.inverse_temperature = 1.0 / double(row.temperature);
    if (row.top_k > 0 && row.top_k < p.vocab) Cut(c, false, row.top_k, sums);
    if (row.top_p < 1) Cut(c, true, CandidateWeight(c, sums) * double(row.top_p), sums);
    id = Draw(c, row.uniform, sums);
  }
  if (id >= 0) out = {id, float(double(logits[id]) - double(top) - log(mass))};
}
constexpr size_t SampleSharedBytes() { return kSampleThreads * 12; }

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_SAMPLE_CUH_
