// Which pairs stay after a chunk event and where they lie; memory/stream/event_selection.cc is the
// judge.
#ifndef LOLA_KERNELS_CUDA_SELECT_CUH_
#define LOLA_KERNELS_CUDA_SELECT_CUH_

#include "kernels/cuda/choice.cuh"
#include "kernels/cuda/event.cuh"

namespace lola::cuda {

LOLA_DEVICE float RandomScore(uint64_t position) {
  uint64_t x = position + 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  return float(uint32_t(x >> 40)) * 0x1p-24f;
}

// Sum or maximum of a pair's errors over the heads of the cache, heads in order; a NaN stays one.
LOLA_DEVICE float JointError(const EventParams& p, const EventHead& e, uint32_t pair) {
  float joint = e.work.errors[pair];
  const size_t each = p.sizes.Bytes(p.shape.feature_dim, p.shape.head_dim) / sizeof(float);
  for (uint32_t head = 1; head < e.plan->cache_heads; ++head) {
    const float next = e.work.errors[head * each + pair];
    if (e.plan->group_largest == 0) {
      joint += next;
    } else if (next > joint || next != next) {
      joint = next;
    }
  }
  return joint;
}

// The same for the attention weight that a pair received.
LOLA_DEVICE float JointMass(const EventHead& e, uint32_t pair) {
  const bool cached = pair < e.cached;
  const uint32_t row = cached ? pair : pair - e.cached;
  const float* mass = cached ? e.cache_mass : e.window_mass;
  const size_t each = cached ? e.place->cache_slots : e.plan->ring_rows;
  float joint = mass[row];
  for (uint32_t head = 1; head < e.plan->cache_heads; ++head) {
    const float next = mass[head * each + row];
    if (e.plan->group_largest == 0) {
      joint += next;
    } else if (next > joint || next != next) {
      joint = next;
    }
  }
  return joint;
}

LOLA_DEVICE float ScoreOf(const EventHead& e, uint32_t pair, uint64_t position, float error) {
  const Plan& plan = *e.plan;
  if (plan.rescore == 0 && pair < e.cached && e.slots[pair].score != kUnranked) {
    return e.slots[pair].score;
  }
  float score = error;
  if (plan.score == ScoreForm::kRelativeSre && e.state->absorbed == 0) {
    score = 1.0f;  // an empty state recalls nothing of any pair: all alike
  } else if (IsRelative(plan.score)) {
    score = error / (e.work.norms[pair] + plan.score_epsilon);
  } else if (plan.score == ScoreForm::kValueNorm) {
    score = e.work.norms[pair];
  } else if (plan.score == ScoreForm::kKeyNorm) {
    score = e.work.key_norms[pair];
  } else if (plan.score == ScoreForm::kRandom) {
    score = RandomScore(position);
  } else if (plan.score == ScoreForm::kRecency) {
    score = float(int64_t(position));
  } else if (plan.score == ScoreForm::kAttention) {
    score = JointMass(e, pair);
  }
  return plan.redundancy_threshold > 0 ? score / float(e.work.near[pair]) : score;
}

// How many of the ranked pairs stay: all that fit, or with an adaptive size the sinks and the
// fewest best that hold the share. Thread 0 adds in float64 in order of rank, as the CPU does.
LOLA_DEVICE uint32_t KeptPairs(const EventHead& e, const Choice& c) {
  const uint32_t most = e.lambda < e.pairs ? e.lambda : e.pairs;
  if (e.plan->adaptive_mass == 0) return most;
  if (ThreadX() == 0) {
    uint32_t pinned = 0;
    while (pinned < e.pairs && c.positions[c.order[pinned]] < e.plan->sinks) ++pinned;
    double total = 0, held = 0;
    for (uint32_t i = pinned; i < e.pairs; ++i) total += double(c.scores[c.order[i]]);
    const double wanted = double(e.plan->adaptive_mass) * total;
    uint32_t count = pinned;
    while (count < e.pairs && !(held >= wanted)) held += double(c.scores[c.order[count++]]);
    const uint32_t least = e.place->cache_pairs_min < most ? e.place->cache_pairs_min : most;
    c.counts[8] = count < least ? least : count > most ? most : count;
  }
  SyncThreads();
  return c.counts[8];
}

// Lists the dropped pairs by position, and the pairs that move with their slots: a kept pair stays
// where it is unless the cache shrinks below it; the others take the lowest free slots in order of
// position.
struct Moves {
  uint32_t moved, displaced;  // displaced: dropped pairs that were cached
};
LOLA_DEVICE Moves ListMoves(const EventHead& e, const Choice& c, uint32_t keep) {
  uint32_t dropped = 0, moved = 0, free = 0, displaced = 0;
  for (uint32_t begin = 0; begin < e.pairs; begin += BlockSize()) {
    const uint32_t i = begin + ThreadX();
    const bool exists = i < e.pairs, kept = exists && c.ranks[i] < keep;
    const bool stays = kept && i < e.cached && i < keep;
    uint32_t before = 0;
    displaced += CountAll(exists && !kept && i < e.cached, c.counts, before);
    AppendAll(exists && !kept, i, c.counts, c.dropped(), dropped);
    AppendAll(kept && !stays, i, c.counts, c.moved, moved);
    AppendAll(i < keep && !stays, i, c.counts, c.free, free);
  }
  SyncThreads();
  for (uint32_t n = ThreadX(); n < dropped; n += BlockSize()) {
    e.work.dropped[PlaceByPosition(e, c, c.dropped(), dropped, n)] = c.dropped()[n];
  }
  for (uint32_t n = ThreadX(); n < moved; n += BlockSize()) {
    const uint32_t place = PlaceByPosition(e, c, c.moved, moved, n);
    e.work.moves[2 * place] = c.moved[n];
    e.work.moves[2 * place + 1] = c.free[place];
  }
  SyncThreads();
  return {moved, displaced};
}

LOLA_DEVICE void WriteSlots(const EventHead& e, const Choice& c, uint32_t keep, uint32_t moves) {
  for (uint32_t i = ThreadX(); i < e.cached; i += BlockSize()) {
    if (i >= keep) {
      e.slots[i] = {0, 0.0f, 0.0f};
    } else if (c.ranks[i] < keep) {
      e.slots[i] = {int64_t(c.positions[i]), c.scores[i], c.errors[i]};
    }
  }
  for (uint32_t n = ThreadX(); n < moves; n += BlockSize()) {
    const uint32_t pair = e.work.moves[2 * n];
    e.slots[e.work.moves[2 * n + 1]] = {int64_t(c.positions[pair]), c.scores[pair], c.errors[pair]};
  }
}

// What an event did, into the records of all heads of the cache and the step's counters. Thread 0.
struct Outcome {
  uint32_t cached, dropped, moves, admitted, displaced;
};
LOLA_DEVICE void Tell(const EventParams& p, const EventHead& e, const Outcome& o) {
  e.work.counts[0] = o.dropped;
  e.work.counts[1] = o.moves;
  const uint32_t heads = e.plan->cache_heads;
  for (uint32_t head = 0; head < heads; ++head) {
    e.state[head].absorbed += o.dropped;
    e.state[head].cached = o.cached;
    ++e.state[head].events;
  }
  AtomicAdd(&p.counters->events, heads);
  AtomicAdd(&p.counters->absorptions, (unsigned long long)(o.dropped) * heads);
  AtomicAdd(&p.counters->displacements, o.displaced);
  AtomicAdd(&p.counters->admissions, o.admitted);
  AtomicAdd(&p.counters->occupancy_sum, o.cached);
  AtomicAdd(&p.counters->occupancy_count, 1);
}

// A cache that never overflowed takes every pair unranked.
LOLA_DEVICE void AdmitAll(const EventParams& p, const EventHead& e) {
  const uint32_t chunk = e.plan->chunk;
  for (uint32_t row = ThreadX(); row < chunk; row += BlockSize()) {
    e.work.moves[2 * row] = e.work.moves[2 * row + 1] = e.cached + row;
    e.slots[e.cached + row] = {int64_t(e.first_position + row), kUnranked, 0.0f};
  }
  SyncThreads();
  if (ThreadX() == 0) Tell(p, e, {e.pairs, 0, chunk, chunk, 0});
}

// Grid: events, query heads (owners work). The record's counters and slots are those after the
// event from here on.
LOLA_KERNEL SelectKernel(EventParams p) {
  AwaitPrevious();
  const EventHead e = HeadOf(p, BlockX(), BlockY());
  if (e.owner != BlockY()) return;
  if (!e.overflows()) return AdmitAll(p, e);
  const Choice c = ChoiceOf(p.sizes.pairs_max);
  bool broken = false;
  for (uint32_t i = ThreadX(); i < e.pairs; i += BlockSize()) {
    c.positions[i] =
        i < e.cached ? uint64_t(e.slots[i].position) : e.first_position + (i - e.cached);
    c.errors[i] = e.lambda > 0 ? JointError(p, e, i) : 0.0f;
    c.scores[i] = e.lambda > 0 ? ScoreOf(e, i, c.positions[i], c.errors[i]) : 0.0f;
    broken = broken || !(fabsf(c.scores[i]) <= 3.4e38f);
  }
  uint32_t before = 0;
  const uint32_t broken_threads = CountAll(broken, c.counts, before);
  SortPairs(c, e.pairs, e.plan->sinks);
  const uint32_t keep = KeptPairs(e, c);
  const Moves moves = ListMoves(e, c, keep);
  WriteSlots(e, c, keep, moves.moved);
  if (ThreadX() != 0) return;
  Tell(p, e,
       {keep, e.pairs - keep, moves.moved, keep - (e.cached - moves.displaced), moves.displaced});
  if (broken_threads == 0) return;
  AtomicAdd(&p.counters->nonfinite_scores, broken_threads);
  p.broken[p.events[BlockX()].segment] = 1;
}

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_SELECT_CUH_
