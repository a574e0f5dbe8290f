// What device kernels are told about a step: plain structures, the same on host and device.
//
// A step advances many streams by some tokens each. The host cuts it into pieces that lie in one
// chunk of one stream (so that no chunk event falls inside a piece), gathers pieces into waves (the
// n-th piece of every stream), and pieces into tiles of at most kTileRows rows.
#ifndef LOLA_KERNELS_CUDA_TABLES_H_
#define LOLA_KERNELS_CUDA_TABLES_H_

#include <cstddef>
#include <cstdint>

namespace lola::cuda {

inline constexpr unsigned kTileRows = 32;         // rows that share one read of keys and values
inline constexpr unsigned kSectionPairs = 64;     // pairs of one section of attention
inline constexpr unsigned kSectionFeatures = 32;  // features of one section of the linear part
inline constexpr unsigned kSpanSections = 4;      // sections folded into one partial result
inline constexpr unsigned kKeyBlock = 16;  // pairs interleaved in one key block, as in records

enum class CacheType : uint32_t { kFloat32 = 0, kBFloat16 = 1, kFloat8 = 2 };
constexpr unsigned CacheBytes(CacheType type) {
  return type == CacheType::kFloat32 ? 4 : type == CacheType::kBFloat16 ? 2 : 1;
}
enum class MixForm : uint32_t { kGatedNatural = 0, kNatural = 1, kLolcats = 2 };
// Mirrors memory::Score.
enum class ScoreForm : uint32_t {
  kSre = 0,
  kValueNorm = 1,
  kRandom = 2,
  kLeaveOneOut = 3,
  kRecency = 4,
  kRelativeSre = 5,
  kRelativeLeaveOneOut = 6,
  kHypothetical = 7,
  kRelativeHypothetical = 8,
  kKeyNorm = 9,
  kAttention = 10,
};
// Errors are taken against H and s with all eligible pairs added.
constexpr bool AgainstTrialState(ScoreForm score) {
  return score == ScoreForm::kLeaveOneOut || score == ScoreForm::kRelativeLeaveOneOut ||
         score == ScoreForm::kHypothetical || score == ScoreForm::kRelativeHypothetical;
}
constexpr bool LeavesSelfOut(ScoreForm score) {
  return score == ScoreForm::kLeaveOneOut || score == ScoreForm::kRelativeLeaveOneOut;
}
constexpr bool IsRelative(ScoreForm score) {
  return score == ScoreForm::kRelativeSre || score == ScoreForm::kRelativeLeaveOneOut ||
         score == ScoreForm::kRelativeHypothetical;
}

// Shape of the model.
struct Shape {
  uint32_t layers, hidden, query_heads, kv_heads, head_dim, feature_dim, ffn, vocab;
};

// Byte offsets of one layer from the start of a record; see memory/stream/layout.h.
struct LayerPlace {
  uint64_t counters, s, h, window_k, window_v, cache_k, cache_v, cache_meta;
  uint64_t window_mass, cache_mass;  // score `attention` only
  // float8 only: exponents of the rows.
  uint64_t window_k_exponents, window_v_exponents, cache_k_exponents, cache_v_exponents;
  uint32_t cache_pairs, cache_slots;
  uint32_t cache_pairs_min;  // fewest pairs kept once the cache has overflowed
};

// Mirrors of what lies in a record.
struct Counters {
  uint64_t absorbed;
  uint64_t events;
  uint32_t cached;
  uint32_t reserved[11];
};
static_assert(sizeof(Counters) == 64);
struct Slot {
  int64_t position;
  float score;
  float recall_error;
};
static_assert(sizeof(Slot) == 16);

// One kind of settings. `layers` and the rotations are device memory.
struct Plan {
  uint32_t window, chunk, ring_chunks, chunk_rows, ring_rows;
  uint32_t softmax;             // full cache, no events
  uint32_t constant_positions;  // memory is seen at one distance
  uint32_t rescore;
  CacheType cache_type;
  MixForm mixing;
  ScoreForm score;
  uint32_t cache_heads;    // query heads that own one sparse cache together
  uint32_t group_largest;  // a shared cache ranks by the largest score, not by the sum
  uint32_t sinks;          // positions below this stay in the cache
  float adaptive_mass;     // 0 = the cache has one size
  float mass_cap;          // 0 = none
  float redundancy_threshold;
  float score_epsilon;
  const float* distance_cos;  // [window + chunk, d / 2]; constant positions only
  const float* distance_sin;
  const float* memory_cos;  // [d / 2]
  const float* memory_sin;
  const LayerPlace* layers;  // [layers]
};

// One token.
struct Row {
  uint64_t position;
  int32_t token;
  uint32_t segment;
};

// One stream's part of the step.
struct SegmentEntry {
  unsigned char* record;
  const Plan* plan;
};

// Consecutive rows of one stream in one chunk.
struct Tile {
  uint64_t position;  // of the first row
  uint32_t segment;
  uint32_t first_row;  // of the step
  uint32_t rows;       // 1 .. kTileRows
};

// A chunk leaves a window. One entry per stream and layer.
struct Event {
  uint64_t first_position;  // of the leaving chunk
  uint32_t segment;
  uint32_t layer;
};

// Counters of a step, summed over everything (device memory, zeroed by the host before the step).
struct StepCounters {
  unsigned long long events, admissions, displacements, absorptions;
  unsigned long long nonfinite_scores, nonfinite_rows;
  unsigned long long occupancy_sum, occupancy_count;
  unsigned long long recall_errors[21];
  unsigned long long recall_error_sum;  // in units of 2^-20: integers add up alike in any order
};

// How many sections the attention of a row has, in this order.
struct Sections {
  uint32_t cache;   // over the cache's slots
  uint32_t window;  // over window chunks, oldest first
  uint32_t linear;  // over features
};

}  // namespace lola::cuda

#endif  // LOLA_KERNELS_CUDA_TABLES_H_
