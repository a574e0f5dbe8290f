// Which pairs stay and where they lie: EventCache::KeepAndAbsorb.
#include <algorithm>

#include "kernels/absorb/absorb.h"
#include "memory/stream/event_cache.h"

namespace lola::memory {
namespace {

using kernels::Candidate;

bool ByPosition(const Candidate& a, const Candidate& b) { return a.position < b.position; }

}  // namespace

// Moves the pairs to keep to the front of the candidates and returns how many they are: the sinks,
// then the best of the others.
size_t EventCache::Choose() const {
  const std::span<Candidate> all(scratch.candidates.data(), pairs);
  const size_t lambda = std::min<size_t>(settings().CachePairs(layer), pairs);
  size_t pinned = 0;
  if (settings().sinks > 0) {
    const auto others = std::partition(all.begin(), all.end(), [&](const Candidate& c) {
      return c.position < static_cast<int64_t>(settings().sinks);
    });
    pinned = static_cast<size_t>(others - all.begin());
    stats.nonfinite_scores += kernels::SelectTop(all.first(pinned), pinned);
  }
  const std::span<Candidate> others = all.subspan(pinned);
  if (settings().adaptive_mass == 0.0f) {
    stats.nonfinite_scores += kernels::SelectTop(others, lambda - pinned);
    return lambda;
  }
  stats.nonfinite_scores += kernels::SelectTop(others, others.size());
  std::sort(others.begin(), others.end(), kernels::RanksBefore);
  const size_t wanted = pinned + kernels::MassPrefix(others, settings().adaptive_mass);
  const size_t least = std::min<size_t>(settings().CachePairsMin(layer), lambda);
  return std::clamp(wanted, least, lambda);
}

// One batch in order of position.
void EventCache::Absorb(size_t head, std::span<const Candidate> dropped) const {
  const size_t f = feature_dim();
  for (size_t i = 0; i < dropped.size(); ++i) {
    std::copy_n(Features(head) + dropped[i].index * f, f, scratch.dropped_features.data() + i * f);
  }
  kernels::Absorb({.features = scratch.dropped_features.data(),
                   .values = scratch.dropped_values.data(),
                   .rows = dropped.size(),
                   .feature_dim = f,
                   .head_dim = head_dim(),
                   .h = heads[head].h,
                   .s = heads[head].s,
                   .s_correction = heads[head].s_correction});
  heads[head].counters->absorbed += dropped.size();
  stats.absorptions += dropped.size();
}

void EventCache::Place(std::span<Candidate> kept, std::span<const Candidate> dropped) const {
  const HeadMemory& owner = heads[0];
  const size_t keep = kept.size();
  const size_t d = head_dim();
  size_t free = 0;
  for (const Candidate& c : dropped) {
    if (c.index < cached) ++stats.displacements;
    if (c.index < std::min(cached, keep)) scratch.free_slots[free++] = c.index;
  }
  for (size_t slot = cached; slot < keep; ++slot) {
    scratch.free_slots[free++] = static_cast<uint32_t>(slot);
  }
  std::sort(scratch.free_slots.begin(), scratch.free_slots.begin() + free);
  std::sort(kept.begin(), kept.end(), ByPosition);
  size_t next = 0;
  for (const Candidate& c : kept) {
    const bool stays = c.index < cached && c.index < keep;
    const size_t slot = stays ? c.index : scratch.free_slots[next++];
    if (!stays) {
      owner.cache.Store(slot, scratch.keys.data() + c.index * d,
                        scratch.values.data() + c.index * d);
    }
    stats.admissions += c.index >= cached ? 1 : 0;
    owner.meta[slot] = {c.position, c.score, scratch.recall_errors[c.index]};
    if (owner.cache_mass == nullptr) continue;
    for (size_t h = 0; h < heads.size(); ++h) heads[h].cache_mass[slot] = Masses(h)[c.index];
  }
  for (size_t slot = keep; slot < cached; ++slot) {  // slots that hold no pair are zero
    owner.cache.ClearRow(slot);
    owner.meta[slot] = {};
    if (owner.cache_mass == nullptr) continue;
    for (const HeadMemory& head : heads) head.cache_mass[slot] = 0.0f;
  }
  for (const HeadMemory& head : heads) head.counters->cached = static_cast<uint32_t>(keep);
}

void EventCache::KeepAndAbsorb() const {
  const size_t keep = Choose();
  const std::span<Candidate> all(scratch.candidates.data(), pairs);
  const std::span<Candidate> dropped = all.subspan(keep);
  const size_t d = head_dim();
  std::sort(dropped.begin(), dropped.end(), ByPosition);
  for (size_t i = 0; i < dropped.size(); ++i) {
    std::copy_n(scratch.values.data() + dropped[i].index * d, d,
                scratch.dropped_values.data() + i * d);
  }
  for (size_t head = 0; head < heads.size(); ++head) Absorb(head, dropped);
  Place(all.first(keep), dropped);
}

}  // namespace lola::memory
