// Parameters of the device operations (device.h). Pointers are device memory.
#ifndef LOLA_KERNELS_CUDA_CALLS_H_
#define LOLA_KERNELS_CUDA_CALLS_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/tables.h"

namespace lola::cuda {

struct Bf16;  // portable.h
struct Fp8;   // float8.cuh

struct QueryParams {
  const Row* rows;
  const SegmentEntry* segments;
  const float* qkv;           // [rows, (Hq + 2 Hkv) d]
  const float* absolute_cos;  // [rows, d / 2]
  const float* absolute_sin;
  const float* map_q;  // [Hq, d, f] of this layer
  float* queries;      // [rows, Hq, variants, d]
  float* features;     // [rows, Hq, F]
  Shape shape;
  uint32_t variants;
  uint32_t row_count;
};

struct PushParams {
  const Tile* tiles;
  const SegmentEntry* segments;
  const float* qkv;
  const float* absolute_cos;
  const float* absolute_sin;
  Shape shape;
  uint32_t layer;
};

// Floats of one partial result of attention: largest logit, weight, sums.
constexpr unsigned PartialFloats(unsigned head_dim) { return head_dim + 2; }

struct AttendParams {
  const Tile* tiles;
  const SegmentEntry* segments;
  const float* queries;   // [rows, Hq, variants, d]
  const float* features;  // [rows, Hq, F]
  float* partials;        // [rows, Hq, sections, d + 2]: largest logit, weight, sums
  const float* shares;    // [rows, Hq, 2] of CombineParams; Masses only
  Shape shape;
  Sections sections;  // of partial results: of sections for tiles of one row and for Masses, else
                      // of spans
  uint32_t variants;
  uint32_t layer;
  uint32_t tile_count;
  uint32_t grouped;  // every stream of the step shares its caches in a group
  float scale;
};

struct CombineParams {
  const Row* rows;
  const SegmentEntry* segments;
  const float* partials;
  const float* gate;  // [Hq] of this layer
  float* shares;      // [rows, Hq, 2] out: largest logit, what a weight is multiplied with
  StepCounters* counters;
  uint32_t* broken;  // [segments]: set to 1 when a row of the segment is not finite
  Shape shape;
  Sections sections;  // of the partial results
  uint32_t layer;
  uint32_t first_row;  // of the step
  uint32_t spans;      // the partial results are of spans, not of sections
};

// Bounds of the events of one step.
struct EventSizes {
  uint32_t pairs_max;  // cached and leaving pairs
  uint32_t drops_max;  // pairs that an event takes out of a cache, and pairs it moves
  uint32_t trial;      // some score needs the state with all pairs added

  // Working memory of one head of one event: features of dropped pairs, the trial state, four
  // numbers a pair, lists of what is dropped and what moves, counts.
  constexpr size_t Bytes(uint32_t feature_dim, uint32_t head_dim) const {
    const size_t floats = size_t(drops_max) * (feature_dim + 3) + size_t(pairs_max) * 4 + 4 +
                          (trial != 0 ? size_t(feature_dim) * (head_dim + 2) : 0);
    return (floats * 4 + 15) / 16 * 16;
  }
};

struct EventParams {
  const Event* events;
  const SegmentEntry* segments;
  const float* map_k;  // [layers, Hq, d, f]
  unsigned char* work;
  StepCounters* counters;
  uint32_t* broken;  // [segments]
  Shape shape;
  EventSizes sizes;
};

// Weights of a byte come in groups of this many inputs; with int8, inputs of a group share a step,
// as on the CPU.
inline constexpr uint32_t kGroupInputs = 64;
constexpr uint32_t WeightGroups(size_t in) {
  return uint32_t((in + kGroupInputs - 1) / kGroupInputs);
}

struct Int8Params {
  const int8_t* weights;  // [out, groups * 64]
  const float* scales;    // [out]
  const float* input;     // [rows, in]
  int8_t* quantized;      // [rows, groups * 64], working memory
  float* steps;           // [rows, groups], working memory
  float* output;          // [rows, out]
  size_t rows, out;
  uint32_t in, accumulate;
};

struct Float8Params {
  const Fp8* weights;   // [out, groups * 64]
  const float* scales;  // [out]
  const Bf16* input;    // [rows, in]
  float* output;        // [rows, out]
  size_t rows, out;
  uint32_t in, accumulate;
};

// How one row is sampled; mirrors SamplingParams. `recent`: distinct ids.
struct SampleRow {
  float temperature, top_p, repetition_penalty;
  uint32_t top_k;
  uint32_t recent_begin, recent_count;  // into the list of recent ids
  double uniform;                       // UniformAt(seed, position)
};

struct SampledRow {
  int32_t id;  // -1: a logit is NaN or +infinity, or all are -infinity
  float logprob;
};

struct SampleParams {
  const float* logits;  // [rows, vocab]
  float* adjusted;      // [rows, vocab], working memory
  const SampleRow* rows;
  const int32_t* recent;
  SampledRow* out;
  uint32_t vocab;
};

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_CALLS_H_
