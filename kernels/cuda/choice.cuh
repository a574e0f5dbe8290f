// All pairs of one cache while it is decided about, and the two orders that deciding needs: of
// preference, by a bitonic sort in shared memory, and of position among those that leave or move.
#ifndef LOLA_KERNELS_CUDA_CHOICE_CUH_
#define LOLA_KERNELS_CUDA_CHOICE_CUH_

#include "kernels/cuda/event.cuh"

namespace lola::cuda {

constexpr uint32_t PowerOfTwoFrom(uint32_t n) {
  uint32_t power = 2;
  while (power < n) power *= 2;
  return power;
}

// Shared memory; SelectSharedBytes.
struct Choice {
  uint64_t* positions;
  float* scores;
  float* errors;
  uint16_t* ranks;   // place in the order of preference, sinks first
  uint16_t* order;   // the pair at each place; room for a power of two
  uint16_t* free;    // slots without a pair, ascending
  uint16_t* moved;   // pairs that need one
  uint32_t* counts;  // of warps, and one number for all

  // The dropped pairs take the place of the order once that has been used.
  LOLA_DEVICE uint16_t* dropped() const { return order; }

  LOLA_DEVICE bool Before(uint32_t a, uint32_t b, uint64_t sinks) const {
    const bool a_sink = positions[a] < sinks, b_sink = positions[b] < sinks;
    if (a_sink != b_sink) return a_sink;
    const bool a_nan = scores[a] != scores[a], b_nan = scores[b] != scores[b];
    if (a_nan != b_nan) return b_nan;
    if (!a_nan && scores[a] != scores[b]) return scores[a] > scores[b];
    return positions[a] < positions[b];
  }
};

constexpr size_t SelectSharedBytes(uint32_t pairs_max) {
  return size_t(pairs_max) * 16 + size_t(PowerOfTwoFrom(pairs_max)) * 8 + 64;
}

LOLA_DEVICE Choice ChoiceOf(uint32_t pairs_max) {
  const uint32_t room = PowerOfTwoFrom(pairs_max);
  Choice c{};
  c.positions = reinterpret_cast<uint64_t*>(SharedBytes());
  c.scores = reinterpret_cast<float*>(c.positions + pairs_max);
  c.errors = c.scores + pairs_max;
  c.ranks = reinterpret_cast<uint16_t*>(c.errors + pairs_max);
  c.order = c.ranks + room;
  c.free = c.order + room;
  c.moved = c.free + room;
  c.counts = reinterpret_cast<uint32_t*>(c.moved + room);
  return c;
}

// How many threads of the block say yes; `before`: those among them with a lower number.
LOLA_DEVICE uint32_t CountAll(bool mine, uint32_t* warp_counts, uint32_t& before) {
  const uint32_t bits = Ballot(mine), lane = ThreadX() % kWarpThreads;
  if (lane == 0) warp_counts[ThreadX() / kWarpThreads] = CountBits(bits);
  SyncThreads();
  uint32_t sum = 0;
  before = CountBits(bits & ((1u << lane) - 1));
  for (unsigned i = 0; i < BlockSize() / kWarpThreads; ++i) {
    before += i < ThreadX() / kWarpThreads ? warp_counts[i] : 0;
    sum += warp_counts[i];
  }
  SyncThreads();
  return sum;
}

// Appends the numbers of the threads that say yes to a list, ascending.
LOLA_DEVICE void AppendAll(bool mine, uint32_t number, uint32_t* warp_counts, uint16_t* list,
                           uint32_t& size) {
  uint32_t before = 0;
  const uint32_t count = CountAll(mine, warp_counts, before);
  if (mine) list[size + before] = uint16_t(number);
  size += count;
}

// Fills order and ranks. A bitonic network: the same comparisons whatever the scores; places beyond
// the last pair stand for what comes after everything.
LOLA_DEVICE void SortPairs(const Choice& c, uint32_t pairs, uint64_t sinks) {
  const uint32_t room = PowerOfTwoFrom(pairs);
  for (uint32_t i = ThreadX(); i < room; i += BlockSize()) c.order[i] = uint16_t(i);
  for (uint32_t size = 2; size <= room; size *= 2) {
    for (uint32_t stride = size / 2; stride > 0; stride /= 2) {
      SyncThreads();
      for (uint32_t n = ThreadX(); n < room / 2; n += BlockSize()) {
        const uint32_t at = 2 * n - (n & (stride - 1));
        const uint32_t a = c.order[at], b = c.order[at + stride];
        const bool swapped = a < pairs && b < pairs ? c.Before(b, a, sinks) : b < a;
        if (swapped != ((at & size) == 0)) continue;
        c.order[at] = uint16_t(b);
        c.order[at + stride] = uint16_t(a);
      }
    }
  }
  SyncThreads();
  for (uint32_t n = ThreadX(); n < pairs; n += BlockSize()) c.ranks[c.order[n]] = uint16_t(n);
  SyncThreads();
}

// Place by position of entry n of a list of pairs in ascending number. Leaving pairs are newer than
// cached ones and in order already.
LOLA_DEVICE uint32_t PlaceByPosition(const EventHead& e, const Choice& c, const uint16_t* list,
                                     uint32_t size, uint32_t n) {
  if (list[n] >= e.cached) return n;
  uint32_t before = 0;
  for (uint32_t m = 0; m < size && list[m] < e.cached; ++m) {
    before += c.positions[list[m]] < c.positions[list[n]] ? 1 : 0;
  }
  return before;
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_CHOICE_CUH_
