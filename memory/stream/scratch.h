// Buffers behind Scratch. Internal to this folder.
#ifndef LOLA_MEMORY_STREAM_SCRATCH_H_
#define LOLA_MEMORY_STREAM_SCRATCH_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/attend/attend.h"
#include "kernels/select/select.h"
#include "memory/stream/layer_views.h"
#include "memory/stream/layout.h"

namespace lola::memory {

// Query rows attended per kernel call; bounds the rotated copies kept.
inline constexpr size_t kQueryRows = 32;

struct ScratchBuffers {
  // Attention of up to kQueryRows rows.
  std::vector<float> queries;         // [ring chunks + 1, kQueryRows, d]: one rotation per distance
  std::vector<float> query_features;  // [kQueryRows, F]
  std::vector<float> attend;
  std::vector<kernels::AttendSpan> spans;  // [ring chunks + 1]
  std::vector<float> key;                  // [d]

  // A chunk event; E = cached + evicted pairs of one head. Keys and values of the evicted chunk
  // are kept apart because the heads of a group share them.
  std::vector<float> evicted_keys;    // [C, d]
  std::vector<float> evicted_values;  // [C, d]
  std::vector<float> keys;            // [E, d]
  std::vector<float> values;          // [E, d]
  // Of every head that owns the cache: one, or the whole group.
  std::vector<HeadMemory> heads;
  std::vector<float> features;       // [heads, E, F]
  std::vector<float> masses;         // [heads, E], score `attention`
  std::vector<float> head_errors;    // [E], of one head
  std::vector<float> recall_errors;  // [E], of all heads together
  std::vector<float> scores;         // [E]
  std::vector<uint32_t> counts;      // [E]
  std::vector<float> redundancy;
  std::vector<kernels::Candidate> candidates;  // [E]
  std::vector<float> dropped_values;           // [E, d]
  std::vector<float> dropped_features;         // [E, F]
  std::vector<uint32_t> free_slots;            // [lambda]
  std::vector<float> trial_h;                  // [F, d], H with every pair of E in it
  std::vector<float> trial_s;                  // [2, F]

  // Grows every buffer to what `layout` needs.
  void Reserve(const StateLayout& layout);
};

}  // namespace lola::memory

#endif  // LOLA_MEMORY_STREAM_SCRATCH_H_
